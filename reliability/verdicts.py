"""Judges goals anew from what a server published on ``~/goal_events``, without the server's own code for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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

    @property
    def is_whole(self) -> bool:
        """Whether it was heard from the beginning to the end."""
        return ACCEPTED in self.counts and self.end is not None

    @property
    def has_succeeded(self) -> bool:
        return self.is_whole and not self.end.error_code

    def delays_s(self) -> tuple[float, float]:
        """How much later than its token the first token's event was stamped, and the end's than the last; of one that succeeded."""
        seen, said = observed(self), reported(self.end)
        return seen.ttft_s - said.ttft_s, seen.e2e_s - said.e2e_s


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


def disagreements(lives: Iterable[Life], times_of: Callable[[Life], Times], distance_s: float = ROUNDING_S) -> tuple[int, int]:
    """How many verdicts by these times are not the server's: where the time is farther from its bound than that, and where it is not."""
    far = near = 0
    for life in lives:
        slo, report, times = life.end.slo, life.end.report, times_of(life)
        gaps = report.output_tokens - 1
        for said, bound, time_s, share in (
            (report.ttft_met, slo.ttft, times.ttft_s, 1),
            (report.tpot_met, slo.tpot, times.tpot_s if gaps else 0.0, max(1, gaps)),  # a mean is off by its share of what its sum is
            (report.deadline_met, slo.deadline, times.e2e_s, 1),
        ):
            bound_s = bound.sec + bound.nanosec * 1e-9
            if said != (not bound_s or time_s <= bound_s):
                is_near = abs(bound_s - time_s) * share <= distance_s
                far, near = far + (not is_near), near + is_near
        far += report.attained != (report.ttft_met and report.tpot_met and report.deadline_met and not life.end.error_code)
    return far, near


def spread(values_s: Iterable[float]) -> str:
    """Median, 99th percentile and extremes, in milliseconds."""
    ordered = sorted(value for value in values_s if not math.isnan(value))
    if not ordered:
        return "none"
    median, high = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
    return f"{ordered[0] * 1e3:.1f} to {ordered[-1] * 1e3:.1f} ms, median {median * 1e3:.1f}, p99 {high * 1e3:.1f}"
