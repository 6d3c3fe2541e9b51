"""The real scheduler and policies on a virtual clock: minutes of traffic in a second, the same result every time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slice_ros.bench.slowness import Slowness
from slice_ros.bench.workload import Arrival
from slice_ros.engines.simulated import Lengths, SimulatedEngine
from slice_ros.goal import ErrorCode
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Column
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.engine import Output
from slice_ros.scheduling.events import Event, Finished, Progress
from slice_ros.scheduling.policies import Policy
from slice_ros.scheduling.scheduler import Scheduler
from slice_ros.scheduling.task import SloReport


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one goal of the traffic fared.

    Args:
        error_code: NONE where it completed.
        token_times_s: when each output token came, from the begin of the traffic.
    """

    arrival: Arrival
    report: SloReport
    error_code: ErrorCode = ErrorCode.NONE
    token_times_s: tuple[float, ...] = ()

    @property
    def is_real_time(self) -> bool:
        return self.arrival.request.slo.is_real_time

    @property
    def completed(self) -> bool:
        return self.error_code is ErrorCode.NONE


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """One step of a run.

    Args:
        began_s, ended_s: when, from the begin of the traffic.
        column: who was in it.
        produced: ids of the goals that it gave a token.
    """

    began_s: float
    ended_s: float
    column: Column
    produced: frozenset[str]


class TracedEngine(SimulatedEngine):
    """Keeps every step it computes in ``steps``."""

    def __init__(self, latency: LatencyModel, clock: VirtualClock, lengths: Mapping[str, Lengths], **options: Any) -> None:
        super().__init__(latency, clock, lengths, **options)
        self._virtual = clock
        self.steps: list[SimulatedStep] = []

    def step(self, column: Column) -> list[Output]:
        began_s = self._virtual.now()
        outputs = super().step(column)
        self.steps.append(SimulatedStep(began_s, self._virtual.now(), column, frozenset(output.goal_id for output in outputs)))
        return outputs


class Recorder:
    """Collects from a scheduler's events what became of each goal.

    Args:
        on_end: called at each goal's end.
    """

    def __init__(self, on_end: Callable[[], None] = lambda: None) -> None:
        self._on_end = on_end
        self._ends: dict[str, Finished] = {}
        self._token_ages_s: dict[str, list[float]] = defaultdict(list)

    def __call__(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Progress):
                self._token_ages_s[event.goal_id].append(event.report.e2e_s)
            elif isinstance(event, Finished):
                self._ends[event.goal_id] = event
                self._on_end()

    def __len__(self) -> int:
        """Goals that have ended."""
        return len(self._ends)

    def outcome(self, arrival: Arrival) -> Outcome:
        """What became of a goal that has ended."""
        goal_id = arrival.request.goal_id
        end = self._ends[goal_id]
        times = tuple(arrival.time_s + age for age in self._token_ages_s[goal_id])
        return Outcome(arrival, end.report, end.error_code, times)


def simulate(
    arrivals: Sequence[Arrival],
    policy: Policy,
    latency: LatencyModel,
    *,
    max_batch: int = 16,
    actual: LatencyModel | None = None,
    slowness: Slowness | None = None,
    limits: Mapping[str, int] | None = None,
    steps: list[SimulatedStep] | None = None,
) -> list[Outcome]:
    """Serve the traffic to its last goal.

    Args:
        latency: predicts the steps.
        actual: what they really take, if not that.
        slowness: of the machine, in the course of the run.
        limits: of the engine, if not those of ``SimulatedEngine``, by the names of its arguments.
        steps: takes every step of the run, if it is given.

    Returns:
        One outcome per arrival, in order of arrival.
    """
    clock = VirtualClock()
    lengths = {a.request.goal_id: a.lengths for a in arrivals}
    engine = TracedEngine(actual or latency, clock, lengths, slowness=(slowness or Slowness()).at, **(limits or {}))
    if steps is not None:
        engine.steps = steps
    recorder = Recorder()
    scheduler = Scheduler(engine, policy, latency, recorder, clock=clock, max_batch=max_batch)
    for arrival in arrivals:
        while clock.now() < arrival.time_s and scheduler.turn():
            pass
        clock.advance(max(0.0, arrival.time_s - clock.now()))
        scheduler.submit(arrival.request)
    while scheduler.turn():
        pass
    return [recorder.outcome(arrival) for arrival in arrivals]


def attainment(outcomes: Sequence[Outcome]) -> float:
    """SLO attainment: goals that met every bound they asked for, of all submitted (NaN of none)."""
    return sum(o.report.attained for o in outcomes) / len(outcomes) if outcomes else float("nan")
