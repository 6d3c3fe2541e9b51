"""Reads a workload from YAML; what is wrong in it is told with file and line. The schema is in ``docs/bench.md``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import yaml

from slice_ros.bench.workload import (
    ArrivalProcess,
    Bursty,
    Choice,
    GoalClass,
    Lognormal,
    Periodic,
    Poisson,
    TokenCount,
    Uniform,
    Workload,
    WorkloadError,
)
from slice_ros.paths import share_dir
from slice_ros.slo import OnMiss, ServiceClass, Slo, SloError

DEFAULT_WORKLOAD = "robot-mix"

T = TypeVar("T")


def workloads_dir() -> Path:
    """Where the workloads lie that come with the package."""
    return share_dir() / "config" / "workloads"


def workload_names() -> list[str]:
    """Names of the workloads that come with the package."""
    return sorted(path.stem for path in workloads_dir().glob("*.yaml"))


def load_workload(name: str) -> Workload:
    """Load a workload: a name in ``config/workloads``, or the path of a YAML file.

    Raises:
        WorkloadError: no such workload, or what it holds is not one; the message begins with file and line.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else workloads_dir() / f"{name}.yaml"
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise WorkloadError(f"there is no workload {name!r}; there are: {', '.join(workload_names())}, or give a .yaml file") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise WorkloadError(f"{path}:{line}: not YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WorkloadError(f"{path} cannot be read as YAML: {error}") from error
    if root is None:
        raise WorkloadError(f"{path}:1: the file is empty; a workload needs classes")
    return _workload(_Value(path, root))


class _Value:
    """A YAML node that knows where it stands."""

    def __init__(self, path: Path, node: yaml.Node) -> None:
        self._path = path
        self._node = node

    def error(self, sentence: str) -> WorkloadError:
        return WorkloadError(f"{self._path}:{self._node.start_mark.line + 1}: {sentence}")

    @property
    def plain(self) -> object:
        """The Python value.

        Raises:
            WorkloadError: there is none, as of 2001-13-01.
        """
        try:
            return yaml.SafeLoader("").construct_object(self._node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            raise self.error(f"{self._node.value!r} is no value: {getattr(error, 'problem', error)}") from error

    @property
    def is_mapping(self) -> bool:
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        return isinstance(self._node, yaml.SequenceNode)

    def items(self, what: str) -> list[_Value]:
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.error(f"{what} is {self.plain!r}; it must be a list")
        return [_Value(self._path, node) for node in self._node.value]

    def fields(self, what: str, known: str, required: str = "") -> dict[str, _Value]:
        """The entries of a mapping, none of them unknown, no required one missing (both given as words)."""
        if not isinstance(self._node, yaml.MappingNode):
            raise self.error(f"{what} is {self.plain!r}; it must be a mapping with {', '.join((required + ' ' + known).split())}")
        names = (required + " " + known).split()
        found: dict[str, _Value] = {}
        for key, value in self._node.value:
            if key.value not in names:
                raise _Value(self._path, key).error(f"{what} has an unknown key {key.value!r}; known are {', '.join(names)}")
            if key.value in found:
                raise _Value(self._path, key).error(f"{what} has {key.value} twice; leave one out")
            found[key.value] = _Value(self._path, value)
        for name in required.split():
            if name not in found:
                raise self.error(f"{what} has no {name}; add it")
        return found

    def text(self, what: str) -> str:
        value = self.plain
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{what} is {value!r}; it must be a text")
        return value

    def number(self, what: str) -> float:
        value = self.plain
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.error(f"{what} is {value!r}; it must be a number")
        return float(value)

    def count(self, what: str) -> int:
        value = self.plain
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(f"{what} is {value!r}; it must be a whole number")
        return value

    def one_of(self, what: str, values: dict[str, T]) -> T:
        name = self.plain
        if not isinstance(name, str) or name not in values:
            raise self.error(f"{what} is {name!r}; it must be one of {', '.join(values)}")
        return values[name]

    def make(self, maker: Callable[[], T]) -> T:
        """What ``maker`` makes; what it objects to is this value's fault."""
        try:
            return maker()
        except (WorkloadError, SloError) as error:
            raise self.error(str(error)) from error


def workload_yaml(workload: Workload, description: str) -> str:
    """The text of a workload file, which ``load_workload`` loads."""
    content = {
        "description": description,
        "arrivals": _plain_arrivals(workload.arrivals),
        "classes": [_plain_class(kind) for kind in workload.classes],
    }
    return yaml.safe_dump(content, sort_keys=False, width=120, default_flow_style=None, allow_unicode=True)


def _plain_class(kind: GoalClass) -> dict[str, Any]:
    slo = kind.slo
    content = {
        "label": kind.label,
        "share": kind.share,
        "service_class": slo.service_class.name.lower(),
        "ttft_ms": slo.ttft_s and slo.ttft_s * 1e3,
        "tpot_ms": slo.tpot_s and slo.tpot_s * 1e3,
        "deadline_s": slo.deadline_s,
        "utility": slo.utility,
        "on_miss": slo.on_miss.name.lower() if slo.on_miss else None,
        "output_tokens": _plain_tokens(kind.output_tokens),
        "prompt_tokens": _plain_tokens(kind.prompt_tokens),
        "max_tokens": kind.max_tokens,
        "arrivals": kind.arrivals and _plain_arrivals(kind.arrivals),
        "adapter": kind.adapter or None,
        "after": kind.after or None,
        "chain_deadline_s": kind.chain_deadline_s,
    }
    return {key: value for key, value in content.items() if value is not None}


def _plain_tokens(tokens: TokenCount) -> Any:
    if isinstance(tokens, Uniform):
        return [tokens.low, tokens.high]
    if isinstance(tokens, Choice):
        return {"choice": list(tokens.values)}
    return {"lognormal": {"median": tokens.median, "sigma": tokens.sigma, "max": tokens.longest}}


def _plain_arrivals(arrivals: ArrivalProcess) -> dict[str, Any]:
    return {type(arrivals).__name__.lower(): asdict(arrivals)}


def _workload(value: _Value) -> Workload:
    fields = value.fields("the workload", "description arrivals", required="classes")
    arrivals = _arrivals(fields["arrivals"]) if "arrivals" in fields else Poisson()
    classes = tuple(_goal_class(item) for item in fields["classes"].items("classes"))
    return fields["classes"].make(lambda: Workload(value._path.stem, classes, arrivals))


def _goal_class(value: _Value) -> GoalClass:
    fields = value.fields(
        "a class",
        "ttft_ms tpot_ms deadline_s utility on_miss max_tokens arrivals adapter after chain_deadline_s",
        required="label share service_class output_tokens prompt_tokens",
    )

    def number(name: str, unit: float = 1.0) -> float | None:
        return fields[name].number(name) * unit if name in fields else None

    label, share = fields["label"].text("label"), fields["share"].number("share")
    service_class = fields["service_class"].one_of(
        "service_class", {"real_time": ServiceClass.REAL_TIME, "best_effort": ServiceClass.BEST_EFFORT}
    )
    bounds = (number("ttft_ms", 1e-3), number("tpot_ms", 1e-3), number("deadline_s"), number("utility"))
    on_miss = OnMiss.CONTINUE
    if "on_miss" in fields:
        on_miss = fields["on_miss"].one_of("on_miss", {"continue": OnMiss.CONTINUE, "abort": OnMiss.ABORT})
    slo = value.make(lambda: Slo(service_class, *bounds, on_miss))
    lengths = (_tokens(fields["output_tokens"], "output_tokens"), _tokens(fields["prompt_tokens"], "prompt_tokens"))
    max_tokens = fields["max_tokens"].count("max_tokens") if "max_tokens" in fields else None
    arrivals = _arrivals(fields["arrivals"]) if "arrivals" in fields else None
    adapter, after = (fields[name].text(name) if name in fields else "" for name in ("adapter", "after"))
    chain_s = number("chain_deadline_s")
    return value.make(lambda: GoalClass(label, share, slo, *lengths, max_tokens, arrivals, adapter, after, chain_s))


def _tokens(value: _Value, what: str) -> TokenCount:
    """``20``, ``[12, 25]``, ``{choice: [16, 512]}`` or ``{lognormal: {median: 60, sigma: 0.8, max: 400}}``."""
    if value.is_list:
        ends = [item.count(what) for item in value.items(what)]
        if len(ends) != 2:
            raise value.error(f"{what} is {ends}; a range has two ends, as in [12, 25]")
        return value.make(lambda: Uniform(*ends))
    if not value.is_mapping:
        count = value.count(what)
        return value.make(lambda: Uniform(count, count))
    fields = value.fields(what, "choice lognormal")
    if len(fields) != 1:
        raise value.error(f"{what} must name one distribution: choice or lognormal")
    if "choice" in fields:
        values = tuple(item.count("choice") for item in fields["choice"].items("choice"))
        return value.make(lambda: Choice(values))
    shape = fields["lognormal"].fields("lognormal", "", required="median sigma max")
    median, sigma, longest = shape["median"].number("median"), shape["sigma"].number("sigma"), shape["max"].count("max")
    return value.make(lambda: Lognormal(median, sigma, longest))


def _arrivals(value: _Value) -> ArrivalProcess:
    """``poisson``, ``periodic``, ``bursty``, or one of them with its parameters: ``{bursty: {burst_s: 1, silence_s: 4}}``."""
    if not value.is_mapping:
        processes: dict[str, ArrivalProcess] = {"poisson": Poisson(), "periodic": Periodic(), "bursty": Bursty()}
        return value.one_of("arrivals", processes)
    fields = value.fields("arrivals", "poisson periodic bursty")
    if len(fields) != 1:
        raise value.error("arrivals must name one process: poisson, periodic or bursty")
    if "periodic" in fields:
        shape = fields["periodic"].fields("periodic", "jitter")
        jitter = {name: item.number(name) for name, item in shape.items()}
        return value.make(lambda: Periodic(**jitter))
    if "bursty" in fields:
        shape = fields["bursty"].fields("bursty", "burst_s silence_s")
        lengths_s = {name: item.number(name) for name, item in shape.items()}
        return value.make(lambda: Bursty(**lengths_s))
    fields["poisson"].fields("poisson", "")
    return Poisson()
