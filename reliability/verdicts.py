"""Judges goals anew from what a server published on ``~/goal_events``, without the server's own code for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ACCEPTED, FIRST_TOKEN, FINISHED = 0, 1, 2
ROUNDING_S = 1e-6
"""Times nearer to a bound than this may fall on either side of it when milliseconds are made of seconds."""


@dataclass(slots=True)
class Life:
    """A goal's events: when each kind of them was stamped (seconds), how many of each came, and the last of them as a message."""

    stamps_s: dict[int, float] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    end: Any = None


class Lives:
    """Collects ``GoalEvent`` messages by goal."""

    def __init__(self) -> None:
        self.of: dict[str, Life] = {}

    def hear(self, event: Any) -> None:
        life = self.of.setdefault(bytes(event.goal_id.uuid).hex(), Life())
        life.stamps_s.setdefault(event.event, event.stamp.sec + event.stamp.nanosec * 1e-9)
        life.counts[event.event] = life.counts.get(event.event, 0) + 1
        if event.event == FINISHED:
            life.end = event


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds; NaN where there is none."""

    ttft_s: float
    tpot_s: float
    e2e_s: float


def reported(end: Any) -> Times:
    """As the scheduler measured them."""
    return Times(end.report.ttft_ms / 1e3, end.report.tpot_ms / 1e3, end.report.e2e_ms / 1e3)


def observed(life: Life) -> Times:
    """By the stamps of the events alone; for goals that succeeded, whose end is their last token."""
    accepted, first, last = (life.stamps_s.get(kind, math.nan) for kind in (ACCEPTED, FIRST_TOKEN, FINISHED))
    gaps = life.end.report.output_tokens - 1
    return Times(first - accepted, (last - first) / gaps if gaps > 0 else math.nan, last - accepted)


def judge(times: Times, end: Any) -> tuple[bool, bool, bool, bool]:
    """TTFT, TPOT and deadline met, and all of them by a goal that succeeded."""
    ttft, tpot, deadline = (bound.sec + bound.nanosec * 1e-9 for bound in (end.slo.ttft, end.slo.tpot, end.slo.deadline))
    met = (
        not ttft or times.ttft_s <= ttft,
        not tpot or end.report.output_tokens == 1 or times.tpot_s <= tpot,
        not deadline or times.e2e_s <= deadline,
    )
    return (*met, all(met) and end.error_code == 0)


def is_near_a_bound(times: Times, end: Any, distance_s: float = ROUNDING_S) -> bool:
    bounds = (bound.sec + bound.nanosec * 1e-9 for bound in (end.slo.ttft, end.slo.tpot, end.slo.deadline))
    found = (times.ttft_s, times.tpot_s, times.e2e_s)
    return any(bound and abs(bound - time_s) <= distance_s for bound, time_s in zip(bounds, found, strict=True))


def disagreements(lives: Mapping[str, Life], times_of: Callable[[Life], Times], *, succeeded_only: bool) -> list[str]:
    """Goals whose verdict by these times is not the server's; those on a bound are left out."""
    found = []
    for goal_id, life in lives.items():
        if life.end is None or (succeeded_only and life.end.error_code):
            continue
        report, times = life.end.report, times_of(life)
        said = (report.ttft_met, report.tpot_met, report.deadline_met, report.attained)
        if ACCEPTED in life.counts and judge(times, life.end) != said and not is_near_a_bound(times, life.end):
            found.append(goal_id)
    return found


def spread(values_s: Iterable[float]) -> str:
    """Median, 99th percentile and extremes, in milliseconds."""
    ordered = sorted(value for value in values_s if not math.isnan(value))
    if not ordered:
        return "none"
    median, high = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
    return f"{ordered[0] * 1e3:.1f} to {ordered[-1] * 1e3:.1f} ms, median {median * 1e3:.1f}, p99 {high * 1e3:.1f}"
