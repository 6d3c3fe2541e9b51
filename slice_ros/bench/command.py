"""Measure policies on seeded traffic: simulated in seconds, or in real time on llama.cpp."""

from __future__ import annotations

import argparse
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from slice_ros.bench import plots
from slice_ros.bench.explain import explain
from slice_ros.bench.fleet import Network, SimulatedFleet
from slice_ros.bench.limit import LIMIT, LimitError, check_scipy
from slice_ros.bench.rows import Row, RowsError, confidence, mean, read_rows, write_rows
from slice_ros.bench.simulate import SimulatedStep, simulate
from slice_ros.bench.sweep import Case, RealTime, Runner, Simulated, compare, fitting_bounds_scale, grid, sweep
from slice_ros.bench.workload import Workload, WorkloadError
from slice_ros.bench.workload_file import DEFAULT_WORKLOAD, load_workload, workload_names
from slice_ros.dispatch.policies import DISPATCH_POLICIES
from slice_ros.latency.model import LatencyError, LatencyModel, profile_names
from slice_ros.scheduling.engine import Engine, EngineError
from slice_ros.scheduling.policies import POLICIES, make_policy

DEFAULT_PROFILE = "rtx4060ti-chatglm2-6b-int4-smooth"
DEFAULT_RATES = "0.6,1,1.5,2,2.5,3"
DEFAULT_POLICIES = "slack,slice,orca,fastserve"
"""What the SLICE paper compares, and the default policy."""
ALL = "all"
MISSED_SHOWN = 20
"""Goals that missed their SLO and are named at most."""
TIMELINE_S = (20.0, 32.0)
"""The stretch of traffic that --timeline draws."""

T = TypeVar("T")


class UsageError(Exception):
    """An option's value cannot be; the message names it and what would be right."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``slice-ros bench``."""
    parser.formatter_class = argparse.HelpFormatter  # the texts name the defaults themselves, as some depend on other options
    engine = parser.add_argument_group("what serves")
    engine.add_argument(
        "--engine",
        choices=("simulated", "paced", "llama"),
        default="simulated",
        help="simulated = virtual clock; paced = real tokens, the profile's speed; llama = at full speed (default: %(default)s)",
    )
    engine.add_argument(
        "--device",
        metavar="PROFILE",
        help=f"step times: one of {', '.join(profile_names())}, or a .yaml file (default: {DEFAULT_PROFILE}; llama: measured)",
    )
    engine.add_argument(
        "--model",
        type=Path,
        metavar="PATH",
        help="GGUF file for paced and llama; one that ends answers early cuts them short (default: the start model, which does not)",
    )
    engine.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of llama.cpp; 0 = the physical cores (default: %(default)s)"
    )
    engine.add_argument("--context", type=int, metavar="TOKENS", help="KV cells (default: 8192 of llama.cpp, 32768 simulated)")
    engine.add_argument("--max-batch", type=int, default=16, metavar="N", help="goals in one step at most (default: %(default)s)")

    fleet = parser.add_argument_group("a fleet behind one dispatcher, in simulation; --policies then says where goals go")
    fleet.add_argument(
        "--devices",
        metavar="[N*]PROFILE[@SPEED],...",
        help="its devices, as in h200-chatglm2-6b-q4_0,4*rtx4060ti-chatglm2-6b-int4-smooth@0.5: four of half that speed",
    )
    fleet.add_argument(
        "--network", default="0", metavar="DELAY[,JITTER]", help="ms of a message between dispatcher and device (default: 0)"
    )
    fleet.add_argument(
        "--outages", metavar="UP,DOWN", help="s for which each device's network works, and does not, in the mean (default: none)"
    )
    fleet.add_argument("--deaths", action="store_true", help="an outage is the death of the device's server, with the goals it has")

    traffic = parser.add_argument_group("what arrives")
    traffic.add_argument(
        "--workload",
        default=DEFAULT_WORKLOAD,
        metavar="NAME",
        help=f"one of {', '.join(workload_names())}, or a .yaml file (default: %(default)s)",
    )
    traffic.add_argument("--rates", default=DEFAULT_RATES, metavar="HZ,...", help="goals a second (default: %(default)s)")
    traffic.add_argument("--rt-share", metavar="X,...", help="shares of real-time goals, 0 to 1 (default: as in the workload)")
    traffic.add_argument("--rt-alone", action="store_true", help="run everything again without the best-effort goals")
    traffic.add_argument("--duration", type=float, metavar="S", help="how long goals arrive (default: 300 s; in real time 60 s)")
    traffic.add_argument("--seeds", type=int, metavar="N", help="repetitions, each with a seed of its own (default: 8; in real time 1)")
    traffic.add_argument("--first-seed", type=int, default=0, metavar="N", help="that of the first one (default: %(default)s)")
    traffic.add_argument(
        "--bounds-scale",
        default="1",
        metavar="FACTOR",
        help="multiply every SLO bound, for a slower device; auto = as little as lets goals meet theirs alone (default: %(default)s)",
    )

    output = parser.add_argument_group("what is measured and shown")
    output.add_argument(
        "--policies",
        metavar="NAME,...",
        help=f"which to measure, some of {', '.join(POLICIES)}, or {ALL} (default: {DEFAULT_POLICIES}); "
        f"of a fleet some of {', '.join(DISPATCH_POLICIES)} (default: {ALL})",
    )
    output.add_argument(
        "--limit",
        action="store_true",
        help="compute what no schedule could exceed that knew all lengths and arrivals, for the simulator (needs the extra 'limit')",
    )
    output.add_argument(
        "--compare-simulated",
        action="store_true",
        help="with paced and llama: run the same traffic in the simulator, too, with the step times that the run had",
    )
    output.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes for the simulator (default: the cores, %(default)s)"
    )
    output.add_argument("--from", dest="rows", type=Path, metavar="FILE", help="show and plot what an earlier --json wrote; run nothing")
    output.add_argument("--json", type=Path, metavar="FILE", help="write one row for each run")
    output.add_argument("--plot", type=Path, metavar="FILE.png", help="draw attainment and completion times (needs the extra 'plot')")
    output.add_argument(
        "--timeline",
        type=Path,
        metavar="FILE.png",
        help="draw who decodes when, in simulation at the last of --rates (needs the extra 'plot')",
    )
    output.add_argument(
        "--explain",
        metavar="GOAL",
        help="tell one goal's story instead: its steps, who was in them, when it was lost and to what; simulated with the first of "
        "--policies, the last of --rates and --first-seed; GOAL is its name, as control-12, or missed = the first real-time goal that "
        "missed its SLO",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, show, write.

    Returns:
        Exit status: 0, 1 if the engine broke or a file could not be written, 2 for a wrong option.
    """
    console = Console(stderr=True)
    try:
        _check_outputs(arguments)
        traffic = _traffic(arguments)
        if arguments.explain:
            Console().print(_story(arguments, traffic), highlight=False, soft_wrap=True, markup=False)
            return 0
        with _runner(arguments, console) as (runner, latency):
            rows = read_rows(arguments.rows) if arguments.rows else _measure(arguments, traffic, runner, latency, console)
        if arguments.json:
            write_rows(arguments.json, rows)
        if arguments.plot:
            plots.plot_rows(rows, arguments.plot)
        if arguments.timeline:
            _plot_timeline(arguments, traffic, latency)
        Console().print(summary(rows))
    except (UsageError, WorkloadError, LatencyError, RowsError, LimitError, plots.PlotError) as error:
        console.print(f"slice-ros bench: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        return 2
    except (EngineError, OSError) as error:
        console.print(f"slice-ros bench: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        return 1
    return 0


def summary(rows: Sequence[Row], *, of: str = "mean over seeds") -> Group:
    """Means over seeds, a line for each rate, share and policy: what was attained, and how long it took; times are of completed goals.

    With three seeds or more, what was attained stands beside half of its 95 % confidence interval.

    Args:
        of: what is told, in the title.
    """
    groups: dict[_Key, list[Row]] = defaultdict(list)
    alone: dict[_Key, list[Row]] = defaultdict(list)
    limits: dict[_Key, list[Row]] = defaultdict(list)
    for row in rows:
        if row.policy != LIMIT:
            (alone if row.rt_alone else groups)[row.engine, row.rt_share, row.rate_hz, row.policy].append(row)
        elif not row.rt_alone:
            limits[row.engine, row.rt_share, row.rate_hz, LIMIT].append(row)

    names = ["all", "RT", "BE", *["of\nlimit"] * bool(limits), *["RT\nalone"] * bool(alone)]
    times = ["RT\nend", "BE\nend", "late\np50", "late\np99", "longest\nwait", "RT TPOT\np99, ms"]

    def attained(key: _Key, group: Sequence[Row]) -> list[str]:
        most = mean([row.attainment for row in limits.get((*key[:3], LIMIT), [])])
        cells = {
            "all": _with_confidence(group, "attainment"),
            "RT": _with_confidence(group, "attainment_rt"),
            "BE": _cell(group, "attainment_be", ".3f"),
            "of\nlimit": _number(mean([row.attainment for row in group]) / most if most else math.nan, ".3f"),
            "RT\nalone": _cell(alone.get(key, []), "attainment_rt", ".3f"),
        }
        return [cells[name] for name in names]

    def took(_: _Key, group: Sequence[Row]) -> list[str]:
        seconds = ("e2e_s_mean_rt", "e2e_s_mean_be", "late_s_p50", "late_s_p99", "ttft_s_max")
        return [*(_cell(group, name, ".2f") for name in seconds), _cell(group, "tpot_ms_p99_rt", ".0f")]

    shown = {**groups, **limits}
    return Group(
        _table(f"SLO attainment, {of}", names, dict(sorted(shown.items(), key=_by_rate)), attained),
        _table("Seconds to the last token, late where a bound was missed, to the first", times, groups, took),
    )


_Key = tuple[str, float, float, str]
"""Engine, share of real-time goals, goals a second, policy."""


def _by_rate(item: tuple[_Key, Sequence[Row]]) -> tuple[float, float]:
    return item[0][1:3]


def _table(
    title: str, names: Sequence[str], groups: Mapping[_Key, Sequence[Row]], cells: Callable[[_Key, Sequence[Row]], list[str]]
) -> Table:
    show_engine, show_share = (len({key[i] for key in groups}) > 1 for i in (0, 1))
    table = Table(title=title)
    for name in ("engine",) * show_engine + ("RT share",) * show_share:
        table.add_column(name, no_wrap=True)
    table.add_column("goals/s", justify="right", no_wrap=True)
    table.add_column("policy", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    stretch = None
    for key, group in groups.items():
        engine, share, rate, policy = key
        if stretch not in (None, (share, rate)):
            table.add_section()
        stretch = (share, rate)
        table.add_row(*(engine,) * show_engine, *(f"{share:.3g}",) * show_share, f"{rate:g}", policy, *cells(key, group))
    return table


def _with_confidence(rows: Sequence[Row], name: str) -> str:
    half = confidence([getattr(row, name) for row in rows])
    return _cell(rows, name, ".3f") + ("" if math.isnan(half) else f"±{half:.3f}")


def _cell(rows: Sequence[Row], name: str, digits: str) -> str:
    return _number(mean([getattr(row, name) for row in rows]), digits)


def _number(value: float, digits: str) -> str:
    return "-" if math.isnan(value) else f"{value:{digits}}"


@dataclass(frozen=True, slots=True)
class _Traffic:
    """What the options say about traffic, checked. One workload for each real-time share."""

    workloads: list[Workload]
    rates_hz: list[float]
    policies: list[str]
    seeds: range
    duration_s: float


def _traffic(arguments: argparse.Namespace) -> _Traffic:
    real_time = arguments.engine != "simulated"
    workload = load_workload(arguments.workload)
    shares = _list("--rt-share", arguments.rt_share, float, "shares from 0 to 1, as in 0.1,0.5,0.9")
    known = DISPATCH_POLICIES if arguments.devices else POLICIES
    chosen = arguments.policies or (ALL if arguments.devices else DEFAULT_POLICIES)
    policies = list(known) if chosen == ALL else _list("--policies", chosen, str, f"some of {','.join(known)}")
    for policy in policies:
        _require(policy in known, f"--policies names {policy!r}; there are: {', '.join(known)}")
    rates_hz = _list("--rates", arguments.rates, float, "goals a second, as in 0.6,1,2")
    for rate_hz in rates_hz:
        _require(0.0 < rate_hz <= 1e4, f"--rates has {rate_hz:g}; goals a second must be above 0 and at most 10000")
    seeds = (1 if real_time else 8) if arguments.seeds is None else arguments.seeds
    duration_s = (60.0 if real_time else 300.0) if arguments.duration is None else arguments.duration
    _require(bool(policies), "--policies is empty; name at least one")
    _require(bool(rates_hz), "--rates is empty; give at least one")
    _require(seeds >= 1, f"--seeds is {seeds}; it must be 1 or more")
    _require(0.0 < duration_s <= 1e6, f"--duration is {duration_s:g} s; it must be above 0 and at most 1000000")
    _require(arguments.max_batch >= 1, f"--max-batch is {arguments.max_batch}; it must be 1 or more")
    _require(arguments.jobs >= 1, f"--jobs is {arguments.jobs}; it must be 1 or more")
    _require(real_time or not arguments.model, "--model is for --engine paced or llama; the simulator has no model")
    _require(not (real_time and arguments.limit), "--limit is for --engine simulated: a bound holds for step times that are known")
    _require(real_time or not arguments.compare_simulated, "--compare-simulated is for --engine paced or llama")
    if arguments.devices:
        alone = arguments.explain or arguments.timeline or arguments.device or arguments.context or arguments.limit
        _require(
            not (real_time or alone), "--devices is for --engine simulated, without --device, --context, --limit, --timeline and --explain"
        )
    workloads = [workload.with_rt_share(share) for share in shares] or [workload]
    return _Traffic(workloads, rates_hz, policies, range(arguments.first_seed, arguments.first_seed + seeds), duration_s)


def _measure(arguments: argparse.Namespace, traffic: _Traffic, runner: Runner, latency: LatencyModel, console: Console) -> list[Row]:
    scale = _bounds_scale(arguments.bounds_scale, traffic.workloads[0], latency)
    if scale != 1.0:
        console.print(f"every SLO bound times {scale:g}")
    cases = grid(
        traffic.workloads,
        traffic.rates_hz,
        traffic.policies + [LIMIT] * arguments.limit,
        traffic.seeds,
        duration_s=traffic.duration_s,
        bounds_scale=scale,
        rt_alone=arguments.rt_alone,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"{runner.engine} runs", total=len(cases) * (2 if arguments.compare_simulated else 1))
        rows: list[Row] = []

        def on_row(row: Row) -> None:
            progress.advance(bar)
            rows.append(row)
            if arguments.json and isinstance(runner, RealTime):
                write_rows(arguments.json, rows)  # minutes went into it: a later run's failure shall not take it away

        if isinstance(runner, RealTime) and arguments.compare_simulated:
            return compare(cases, runner, on_row=on_row)
        return sweep(cases, runner, jobs=1 if isinstance(runner, RealTime) else arguments.jobs, on_row=on_row)


def _plot_timeline(arguments: argparse.Namespace, traffic: _Traffic, latency: LatencyModel) -> None:
    workload = traffic.workloads[0].with_bounds_scaled(_bounds_scale(arguments.bounds_scale, traffic.workloads[0], latency))
    arrivals = workload.traffic(traffic.rates_hz[-1], TIMELINE_S[1], traffic.seeds[0])
    outcomes = {name: simulate(arrivals, make_policy(name), latency, max_batch=arguments.max_batch) for name in traffic.policies}
    plots.plot_timeline(outcomes, TIMELINE_S, arguments.timeline)


def _story(arguments: argparse.Namespace, traffic: _Traffic) -> str:
    """What became of the goal that --explain names."""
    _require(arguments.engine == "simulated", "--explain is for --engine simulated: only there every step is known")
    latency = LatencyModel.profile(arguments.device or DEFAULT_PROFILE)
    scale = _bounds_scale(arguments.bounds_scale, traffic.workloads[0], latency)
    case = Case(traffic.policies[0], traffic.workloads[0], traffic.rates_hz[-1], traffic.seeds[0], traffic.duration_s, scale)
    limits = {"context_tokens": arguments.context} if arguments.context else None
    steps: list[SimulatedStep] = []
    policy = make_policy(case.policy)
    outcomes = simulate(case.traffic(), policy, latency, max_batch=arguments.max_batch, limits=limits, steps=steps)
    missed = [o for o in outcomes if o.is_real_time and not o.report.attained]
    found = missed if arguments.explain == "missed" else [o for o in outcomes if o.arrival.request.goal_id == arguments.explain]
    names = ", ".join(o.arrival.request.goal_id for o in missed[:MISSED_SHOWN]) or "none"
    _require(bool(found), f"--explain is {arguments.explain!r}; there is no such goal. Real-time goals that missed their SLO: {names}")
    return explain(found[0], outcomes, steps, latency)


@contextmanager
def _runner(arguments: argparse.Namespace, console: Console) -> Iterator[tuple[Runner, LatencyModel]]:
    """What serves, and how long its steps take; of a fleet, those of the first device."""
    if arguments.devices:
        fleet = _fleet(arguments)
        yield fleet, fleet.devices[0]
        return
    if arguments.engine == "simulated" or arguments.rows:
        latency = LatencyModel.profile(arguments.device or DEFAULT_PROFILE)
        limits = {"context_tokens": arguments.context} if arguments.context else None
        yield Simulated(latency, arguments.max_batch, limits=limits), latency
        return
    latency_or_none = LatencyModel.profile(arguments.device or DEFAULT_PROFILE) if arguments.device or arguments.engine == "paced" else None
    engine = _llama(arguments)
    try:
        if arguments.engine == "paced":
            from slice_ros.engines.paced import PacedEngine

            assert latency_or_none is not None
            yield RealTime("paced", PacedEngine(engine, latency_or_none), latency_or_none, arguments.max_batch), latency_or_none
            return
        latency = latency_or_none or _measured(engine, arguments.max_batch, console)
        yield RealTime("llama", engine, latency, arguments.max_batch), latency
    finally:
        engine.shutdown()


def _fleet(arguments: argparse.Namespace) -> SimulatedFleet:
    devices: list[LatencyModel] = []
    for text in _list("--devices", arguments.devices, str, "profiles"):
        count, _, profile = text.rpartition("*")
        name, _, speed = profile.partition("@")
        right = f"--devices has {text!r}; it must be [N*]PROFILE[@SPEED], as 4*{DEFAULT_PROFILE}@0.5"
        _require(not count or count.isdecimal(), right)
        latency = LatencyModel.profile(name)
        if speed:
            _require(speed.replace(".", "", 1).isdecimal() and float(speed) > 0.0, right)
            latency = replace(latency.scaled(1.0 / float(speed)), device=profile)
        devices += [latency] * int(count or 1)
    _require(bool(devices), "--devices is empty; name at least one")
    delay_ms, jitter_ms = (*_list("--network", arguments.network, float, "DELAY or DELAY,JITTER in ms"), 0.0, 0.0)[:2]
    _require(min(delay_ms, jitter_ms) >= 0.0, f"--network is {arguments.network}; both must be 0 or more")
    outages = _list("--outages", arguments.outages, float, "UP,DOWN in s")
    _require(
        len(outages) in (0, 2) and min(outages, default=1.0) > 0.0, f"--outages is {arguments.outages}; it must be UP,DOWN, both above 0"
    )
    up_s, down_s = outages or (0.0, 0.0)
    network = Network(delay_ms / 1e3, jitter_ms / 1e3, up_s, down_s, arguments.deaths)
    return SimulatedFleet(tuple(devices), network, arguments.max_batch)


def _llama(arguments: argparse.Namespace) -> Engine:
    from slice_ros.engines.llama import LlamaConfig, LlamaEngine
    from slice_ros.engines.llama.shapes import start_model_path

    model = arguments.model or start_model_path()
    return LlamaEngine(LlamaConfig(model, n_ctx=arguments.context or 8192, n_threads=arguments.threads, prefix_cache=0))


def _measured(engine: Engine, max_batch: int, console: Console) -> LatencyModel:
    from slice_ros.engines.calibration import measure_latency

    with console.status("measuring step times"):
        return measure_latency(engine, max_batch=max_batch)


def _bounds_scale(text: str, workload: Workload, latency: LatencyModel) -> float:
    if text == "auto":
        return fitting_bounds_scale(workload, latency)
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    _require(0.0 < scale < 1e4, f"--bounds-scale is {text!r}; it must be a number above 0, or auto")
    return scale


def _list(option: str, text: str | None, kind: Callable[[str], T], right: str) -> list[T]:
    try:
        return [kind(item) for item in text.split(",") if item] if text else []
    except ValueError:
        raise UsageError(f"{option} is {text!r}; it must list {right}") from None


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Before anything runs: what it would end with."""
    if arguments.plot or arguments.timeline:
        plots.check_matplotlib()
    if arguments.limit:
        check_scipy()
    for name in ("json", "plot", "timeline"):
        path: Path | None = getattr(arguments, name)
        _require(path is None or path.absolute().parent.is_dir(), f"--{name} is {path}; there is no such folder, make it first")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UsageError(sentence)
