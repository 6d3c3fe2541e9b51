"""Draws devices and traffic at random, and judges the default policy on them: what was tuned on known ones may break on others."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from slice_ros.bench.simulate import attainment, simulate
from slice_ros.bench.workload import ArrivalProcess, Bursty, GoalClass, Lognormal, Periodic, Poisson, TokenCount, Uniform, Workload
from slice_ros.bench.workload_file import workload_yaml
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, MaskMatrix
from slice_ros.scheduling.policies import DEFAULT_POLICY, POLICIES, Policy
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.task import Task
from slice_ros.slo import OnMiss, ServiceClass, Slo

KEPT = 0.97
"""Share of the real-time goals in time alone that have to be in time beside all others."""
BEATEN_BY = 0.01
"""Share of all goals that another policy may keep more."""
GOALS = 150
"""Goals of a case at least, ..."""
REAL_TIME_GOALS = 50
"""... and real-time ones of them, so that one alone is no share to speak of."""


class RealTimeFirst:
    """A reference: real-time tasks alone while there are any, earliest deadline first; the others in the time between, first come,
    first served.

    Nothing is promised and nothing is learnt. What it does not keep of the real-time goals is what a step that cannot be avoided costs:
    the steps of the others are as short as they can be without being mostly overhead.
    """

    name = "real-time first"

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:  # noqa: ARG002
        real_time = [task for task in tasks if task.is_real_time]
        ranked = sorted(real_time, key=lambda task: (task.due_end_s, task.order)) or list(tasks)
        chosen = [task for task in ranked if task.adapter == ranked[0].adapter]
        widths = range(1, min(limits.max_batch, len(chosen)) + 1)
        width = min(widths, key=lambda rows: (latency.step_s(rows) / rows, -rows))
        left = limits.max_step_tokens - width
        if not real_time and latency.prompt_token_s > 0.0:
            left = min(left, int(4.0 * latency.step_s(1) / latency.prompt_token_s))
        column = []
        for task in chosen[:width]:
            chunk = min(task.prompt_left, 1 + left)
            left -= max(0, chunk - 1)
            column.append(Cell(task.goal_id, chunk))
        return MaskMatrix((tuple(column),))

    def ended(self, task: Task, *, completed: bool) -> None:
        pass


CONTESTANTS: Mapping[str, Callable[[], Policy]] = {**POLICIES, RealTimeFirst.name: RealTimeFirst}
"""Every policy, and the reference."""
REAL_TIME_FIRST = ("priority", RealTimeFirst.name)
"""Those that serve real-time goals first whatever that costs."""


@dataclass(frozen=True, slots=True)
class Case:
    """A device and traffic that was drawn.

    Args:
        seed: what it was drawn with.
        load: work that arrives, as a share of what the device can do four rows at a time.
        cells: of the KV cache.
    """

    seed: int
    latency: LatencyModel
    workload: Workload
    load: float
    rate_hz: float
    duration_s: float
    cells: int

    @property
    def command(self) -> str:
        """What runs it, once its files are written."""
        return (
            f"slice-ros bench --device case-{self.seed}.device.yaml --workload case-{self.seed}.workload.yaml --rates {self.rate_hz:.4g} "
            f"--context {self.cells} --duration {self.duration_s:.4g} --seeds 1 --rt-alone --policies {DEFAULT_POLICY},priority"
        )

    def write(self, folder: Path) -> None:
        """Write its device and workload, as ``slice-ros bench`` takes them."""
        (folder / f"case-{self.seed}.device.yaml").write_text(self.latency.to_yaml())
        (folder / f"case-{self.seed}.workload.yaml").write_text(workload_yaml(self.workload, f"drawn at random: {self.command}"))


def draw(seed: int) -> Case:
    """The case of a seed."""
    rng = random.Random(f"robustness {seed}")
    latency = _device(rng, f"case {seed}")
    rt_share = rng.choice((0.2, 0.3, 0.5, 0.7, 0.9))
    classes = [*_classes(rng, latency, ServiceClass.REAL_TIME, rt_share), *_classes(rng, latency, ServiceClass.BEST_EFFORT, 1.0 - rt_share)]
    workload = Workload(f"case {seed}", tuple(_with_adapters(rng, classes)), _arrivals(rng))
    load = rng.uniform(0.4, 1.5)
    rate_hz = float(f"{load / sum(kind.share * _work_s(kind, latency) for kind in workload.classes):.3g}")
    duration_s = float(f"{max(GOALS, REAL_TIME_GOALS / rt_share) / rate_hz:.3g}")
    largest = max(kind.prompt_tokens.longest + kind.output_tokens.longest for kind in workload.classes)
    cells = rng.choice((32768, 32768, 32768, 8192, max(4096, 4 * largest)))
    return Case(seed, latency, workload, load, rate_hz, duration_s, cells)


def _device(rng: random.Random, name: str) -> LatencyModel:
    first_s = 10 ** rng.uniform(-2.3, -1.15)
    shape = rng.choice(("flat", "linear", "half", "saw-toothed"))
    slope = {"flat": rng.uniform(0.0, 0.05), "linear": rng.uniform(0.8, 1.0), "half": rng.uniform(0.3, 0.6)}.get(shape, 0.6)
    table = [first_s * (1.0 + slope * k) for k in range(16)]
    if shape == "saw-toothed":
        table = [step_s * (1.0 if rows % 4 else rng.uniform(0.6, 0.9)) for rows, step_s in enumerate(table, 1)]
    return LatencyModel(
        name,
        tuple(round(step_s, 9) for step_s in table),
        chunk_s=round(first_s * rng.choice((0.0, 0.1, 0.5)), 9),
        prompt_token_s=round(first_s / 10 ** rng.uniform(math.log10(3.0), math.log10(160.0)), 9),
        kv_token_s=round(first_s * rng.choice((0.0, 2e-4, 5e-4)), 9),
    )


def _classes(rng: random.Random, latency: LatencyModel, service_class: ServiceClass, share: float) -> list[GoalClass]:
    """One or two kinds of goals, some of which are chained."""
    is_real_time = service_class is ServiceClass.REAL_TIME
    name = "rt" if is_real_time else "be"
    count = rng.choice((1, 1, 2))
    kinds = [_class(rng, latency, f"{name}{i}", is_real_time, share / count) for i in range(count)]
    if count == 2 and rng.random() < 0.3:
        first, second = kinds
        chain_s = 2.0 * sum(_longest_s(kind, latency) for kind in kinds) * rng.uniform(2.0, 4.0)
        return [replace(first, chain_deadline_s=_rounded(chain_s)), replace(second, after=first.label)]
    return kinds


def _class(rng: random.Random, latency: LatencyModel, label: str, is_real_time: bool, share: float) -> GoalClass:
    output: TokenCount
    if is_real_time:
        output = Uniform(*rng.choice(((6, 14), (12, 25), (20, 60))))
        prompt = Uniform(*rng.choice(((20, 60), (32, 96), (100, 300))))
    else:
        output = rng.choice((Uniform(30, 120), Uniform(60, 200), Lognormal(60.0, 0.7, 300)))
        prompt = Uniform(*rng.choice(((32, 128), (64, 512), (300, 1500))))
    longest = GoalClass(label, share, Slo(), output, prompt)
    token_s = latency.step_s(1)
    on_miss = rng.choice((OnMiss.CONTINUE, OnMiss.CONTINUE, OnMiss.ABORT))
    ttft_s: float | None = None
    tpot_s: float | None = None
    deadline_s: float | None = None
    if is_real_time:
        deadline_s = _longest_s(longest, latency) * 10 ** rng.uniform(math.log10(2.5), math.log10(8.0))
        tpot_s = token_s * rng.uniform(2.0, 4.0) if rng.random() < 0.4 else None
    else:
        prompt_s = latency.prompt_s(prompt.high) + token_s
        bounds = rng.choice(("pace", "pace", "pace", "deadline", "none"))
        ttft_s = prompt_s * rng.uniform(2.0, 4.0) if bounds == "pace" else None
        tpot_s = token_s * rng.uniform(5.0, 15.0) if bounds == "pace" else None
        deadline_s = _longest_s(longest, latency) * rng.uniform(2.5, 8.0) if bounds == "deadline" else None
    ttft_s, tpot_s, deadline_s = (None if bound_s is None else _rounded(bound_s) for bound_s in (ttft_s, tpot_s, deadline_s))
    slo = Slo(ServiceClass(is_real_time), ttft_s, tpot_s, deadline_s, on_miss=on_miss)
    return replace(longest, slo=slo)


def _with_adapters(rng: random.Random, classes: Sequence[GoalClass]) -> list[GoalClass]:
    if rng.random() < 0.8:
        return list(classes)
    return [replace(kind, adapter=rng.choice(("", "a"))) for kind in classes]


def _arrivals(rng: random.Random) -> ArrivalProcess:
    return rng.choice((Poisson(), Poisson(), Bursty(2.0, 4.0), Periodic(0.3)))


def _rounded(seconds: float) -> float:
    """As it stands in a file, where a bound may be in milliseconds."""
    return float(f"{seconds:.4g}")


def _longest_s(kind: GoalClass, latency: LatencyModel) -> float:
    """Time of its longest goal, alone."""
    return latency.prompt_s(kind.prompt_tokens.longest) + kind.output_tokens.longest * latency.step_s(1)


def _work_s(kind: GoalClass, latency: LatencyModel) -> float:
    """Time of a goal in the mean, four rows at a time."""
    rng = random.Random(0)
    goals = [kind.goal("", 0.0, rng).lengths for _ in range(200)]
    token_s = min(latency.step_s(rows) / rows for rows in range(1, 5))
    return sum(latency.prompt_s(goal.prompt_tokens) + goal.output_tokens * token_s for goal in goals) / len(goals)


@dataclass(frozen=True)
class Verdict:
    """How a case went.

    Args:
        alone: attainment of the real-time goals if there were no others.
        everything: attainment of all goals, by policy.
        real_time: of the real-time ones.
        best_effort: of the others; NaN where there are none.
    """

    case: Case
    alone: float
    everything: Mapping[str, float]
    real_time: Mapping[str, float]
    best_effort: Mapping[str, float]

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """What ``to_json`` wrote: the case is drawn again.

        Raises:
            ValueError, KeyError: it is something else.
        """
        fields = json.loads(text)
        return cls(draw(fields["seed"]), *(fields[name] for name in ("alone", "everything", "real_time", "best_effort")))

    def to_json(self) -> str:
        """One line of JSON; NaN as Python writes it."""
        shares = {"alone": self.alone, "everything": self.everything, "real_time": self.real_time, "best_effort": self.best_effort}
        return json.dumps({"seed": self.case.seed} | shares)

    @cached_property
    def safest(self) -> float:
        """Real-time attainment of the better one of the policies that serve real-time goals first."""
        return max(self.real_time[name] for name in REAL_TIME_FIRST)

    @cached_property
    def best_other(self) -> str:
        """The policy that keeps most goals beside the default one."""
        return max(self._others, key=lambda name: self.everything[name])

    @property
    def is_safe(self) -> bool:
        """Whether real-time goals are as safe as alone, or as with those policies where a step that cannot be avoided breaks more."""
        return self._keeps_them_safe(DEFAULT_POLICY)

    @cached_property
    def kindest(self) -> str:
        """The other policy that keeps most best-effort goals."""
        return max(self._others, key=lambda name: self.best_effort[name])

    @cached_property
    def kindest_safe(self) -> str:
        """The same of those with which real-time goals are safe: there is one that serves them first."""
        return max(filter(self._keeps_them_safe, self._others), key=lambda name: self.best_effort[name])

    @property
    def _others(self) -> Sequence[str]:
        return [name for name in self.everything if name != DEFAULT_POLICY]

    def _keeps_them_safe(self, name: str) -> bool:
        return self.real_time[name] >= min(KEPT * self.alone, self.safest) - 1e-9

    @property
    def is_unbeaten(self) -> bool:
        """Whether no other policy keeps clearly more goals."""
        return self.everything[DEFAULT_POLICY] >= self.everything[self.best_other] - BEATEN_BY - 1e-9

    @property
    def line(self) -> str:
        """A line of a table."""
        mine = DEFAULT_POLICY
        faults = ("" if self.is_safe else " UNSAFE") + ("" if self.is_unbeaten else " BEATEN")
        return (
            f"{self.case.seed:>7} {self.case.load:4.2f} | {self.alone:.3f} {self.real_time[mine]:.3f} {self.safest:.3f} | "
            f"{self.everything[mine]:.3f} {self.everything[self.best_other]:.3f} {self.best_other:15} | "
            f"{self.best_effort[mine]:.3f} {self.best_effort[RealTimeFirst.name]:.3f}{faults}"
        )


@dataclass(frozen=True)
class Price:
    """What best-effort goals pay for the safety of real-time ones, in the mean of some cases: attainments.

    Args:
        here: of the default policy's best-effort goals.
        first: of those of the reference, which serves real-time goals first.
        safe: of those of the kindest other policy with which real-time goals are safe.
        kindest: of those of the kindest other policy.
        kindest_real_time: of the real-time goals with that one.
        real_time: of the real-time goals with the default policy.
    """

    here: float
    first: float
    safe: float
    kindest: float
    kindest_real_time: float
    real_time: float


def price(verdicts: Sequence[Verdict]) -> Price:
    """The price in these cases."""
    paid = [
        (
            v.best_effort[DEFAULT_POLICY],
            v.best_effort[RealTimeFirst.name],
            v.best_effort[v.kindest_safe],
            v.best_effort[v.kindest],
            v.real_time[v.kindest],
            v.real_time[DEFAULT_POLICY],
        )
        for v in verdicts
    ]
    return Price(*(sum(column) / len(paid) for column in zip(*paid, strict=True)))


HEADER = "   seed load | real-time: alone, here, real-time first | all: here, best other policy | best effort: here, real-time first"


def judge(case: Case, contestants: Sequence[str] = tuple(CONTESTANTS)) -> Verdict:
    """Serve a case's traffic with each policy, and the real-time goals alone with the default one."""
    arrivals = case.workload.traffic(case.rate_hz, case.duration_s, seed=0)
    limits = {"context_tokens": case.cells}
    outcomes = {name: simulate(arrivals, CONTESTANTS[name](), case.latency, limits=limits) for name in contestants}
    alone = simulate([a for a in arrivals if a.request.slo.is_real_time], CONTESTANTS[DEFAULT_POLICY](), case.latency, limits=limits)
    return Verdict(
        case,
        attainment(alone),
        {name: attainment(served) for name, served in outcomes.items()},
        {name: attainment([o for o in served if o.is_real_time]) for name, served in outcomes.items()},
        {name: attainment([o for o in served if not o.is_real_time]) for name, served in outcomes.items()},
    )
