"""The real scheduler and policies on a virtual clock: minutes of traffic in a second, the same result every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slice_ros.bench.workload import Arrival
from slice_ros.clock import VirtualClock
from slice_ros.engines.simulated import SimulatedEngine
from slice_ros.events import Event, Finished
from slice_ros.latency import LatencyModel
from slice_ros.policies import Policy
from slice_ros.scheduler import Scheduler
from slice_ros.task import SloReport


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one goal of the traffic fared."""

    arrival: Arrival
    report: SloReport


def simulate(arrivals: Sequence[Arrival], policy: Policy, latency: LatencyModel, *, max_batch: int = 16) -> list[Outcome]:
    """Serve the traffic to its last goal.

    Returns:
        One outcome per arrival, in order of arrival.
    """
    clock = VirtualClock()
    engine = SimulatedEngine(latency, clock, {a.request.goal_id: a.lengths for a in arrivals})
    reports: dict[str, SloReport] = {}

    def emit(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Finished):
                reports[event.goal_id] = event.report

    scheduler = Scheduler(engine, policy, latency, emit, clock=clock, max_batch=max_batch)
    for arrival in arrivals:
        while clock.now() < arrival.time_s and scheduler.turn():
            pass
        clock.advance(max(0.0, arrival.time_s - clock.now()))
        scheduler.submit(arrival.request)
    while scheduler.turn():
        pass
    return [Outcome(arrival, reports[arrival.request.goal_id]) for arrival in arrivals]


def attainment(outcomes: Sequence[Outcome]) -> float:
    """SLO attainment: goals that met every bound they asked for, of all submitted (NaN of none)."""
    return sum(o.report.attained for o in outcomes) / len(outcomes) if outcomes else float("nan")
