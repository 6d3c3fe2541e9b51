"""How slow a machine was in the course of a run, so that a simulation of it can be as slow at the same moments."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from slice_ros.latency.fit import Step
from slice_ros.latency.model import LatencyModel

WINDOW_S = 1.0
"""Steps that end within so long have one slowness in common."""


@dataclass(frozen=True, slots=True)
class Slowness:
    """Factors on step times; piecewise constant, and 1 before the first window.

    Args:
        since_s: when each factor begins to hold, ascending, from the start of the run.
        factors: one for each.
    """

    since_s: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()

    def at(self, now_s: float) -> float:
        """The factor of a step that begins at that moment."""
        place = bisect_right(self.since_s, now_s)
        return self.factors[place - 1] if place else 1.0

    @classmethod
    def of(cls, steps: Iterable[Step], latency: LatencyModel) -> Slowness:
        """What steps took in each window, relative to what they should take in all of it."""
        taken_s: dict[int, float] = defaultdict(float)
        expected_s: dict[int, float] = defaultdict(float)
        for step in steps:
            window = int(step.ended_s / WINDOW_S)
            taken_s[window] += step.taken_s
            expected_s[window] += latency.step_s(step.rows, step.prompt_tokens, int(step.prompt_tokens > 0))
        windows = sorted(taken_s)
        return cls(tuple(window * WINDOW_S for window in windows), tuple(taken_s[window] / expected_s[window] for window in windows))
