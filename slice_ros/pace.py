"""How fast the device is now: step times as calibrated, corrected by those of the latest steps."""

from __future__ import annotations

import math
from collections import deque

from slice_ros.latency import LatencyModel

TIME_CONSTANT_S = 0.3
"""Steps of so much calibrated time bring the pace two thirds of the way to a new one."""
LATEST_STEPS = 5
"""The median of so many steps counts: one or two that other work on the machine made slow say nothing about the next ones."""
TOLERANCE = 0.01
"""A pace that differs by less from the one in force is not worth another model."""
SLOWEST, FASTEST = 20.0, 0.05
"""A step's ratio counts as no more or less than this."""


class Pace:
    """Follows a device that throttles, and comes back.

    One ratio for steps of all kinds: a clock that goes down slows prompts and decodes alike, and what is wrong with their
    proportion is for the calibration to set right.

    Args:
        calibrated: step times at a ratio of 1.
    """

    def __init__(self, calibrated: LatencyModel) -> None:
        self.calibrated = calibrated
        self._ratios = deque([1.0] * LATEST_STEPS, LATEST_STEPS)
        self._smoothed = 1.0
        self._ratio = 1.0
        self._latency = calibrated

    @property
    def ratio(self) -> float:
        """Time of a step now / its calibrated time."""
        return self._ratio

    @property
    def latency(self) -> LatencyModel:
        """Step times at that ratio; the same object until it changes."""
        return self._latency

    def observe(self, calibrated_s: float, taken_s: float) -> None:
        """A step took ``taken_s`` that takes ``calibrated_s`` as calibrated."""
        self._ratios.append(min(max(taken_s / calibrated_s, FASTEST), SLOWEST))
        median = sorted(self._ratios)[LATEST_STEPS // 2]
        self._smoothed += (median - self._smoothed) * -math.expm1(-calibrated_s / TIME_CONSTANT_S)
        if abs(self._smoothed - self._ratio) > TOLERANCE * self._ratio:
            self._ratio = self._smoothed
            self._latency = self.calibrated.scaled(self._ratio)
