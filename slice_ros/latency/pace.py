"""How fast the device is now: step times as calibrated, corrected by those of the latest steps."""

from __future__ import annotations

import math
from collections import deque

from slice_ros.latency.model import LatencyModel

TIME_CONSTANT_S = 0.3
"""Steps of so much calibrated time bring the pace two thirds of the way to a new one, ..."""
PROMPTS_TIME_CONSTANT_S = 1.0
"""... and prompts of so much what they take beside it."""
LATEST_STEPS = 5
"""The median of so many steps counts: one or two that other work on the machine made slow say nothing about the next ones."""
TOLERANCE = 0.01
"""A pace that differs by less from the one in force is not worth another model."""
SLOWEST, FASTEST = 20.0, 0.05
"""A step's ratio counts as no more or less than this."""
DEAREST_PROMPTS, CHEAPEST_PROMPTS = 4.0, 0.25
"""The same for what prompts take beside it."""
LATEST_ERRORS = 50
"""Of so many of the latest steps, ..."""
LATE_SHARE = 0.1
"""... this share took longer than predicted by more than the margin."""


class Pace:
    """Follows a device that throttles, and comes back.

    A clock that goes down slows prompts and decodes alike: one ratio for steps of all kinds follows it at once. Prompts have a second one,
    which is slower: they compute where decodes read memory, so that other work on the machine, or a calibration beside it, changes the
    proportion of the two. What the two leave of error is the model's margin.

    Args:
        calibrated: step times at ratios of 1.
    """

    def __init__(self, calibrated: LatencyModel) -> None:
        self.calibrated = calibrated
        self._steps = _Smoothed(TIME_CONSTANT_S)
        self._prompts = _Smoothed(PROMPTS_TIME_CONSTANT_S)
        self._errors = deque([0.0] * LATEST_ERRORS, LATEST_ERRORS)
        self._ratio = self._prompt_ratio = 1.0
        self._latency = calibrated
        self._is_current = True

    @property
    def latency(self) -> LatencyModel:
        """Step times at those ratios; the same object until one changes."""
        if not self._is_current:
            self._refine()
        return self._latency

    def observe(self, rows_s: float, prompts_s: float, taken_s: float) -> None:
        """A step took ``taken_s`` that takes ``rows_s`` and, for the prompts in it, ``prompts_s`` as calibrated."""
        expected_s = rows_s + prompts_s * self._prompts.value
        self._errors.append(taken_s / (expected_s * self._steps.value) - 1.0)
        self._steps.observe(min(max(taken_s / expected_s, FASTEST), SLOWEST), expected_s)
        if prompts_s > rows_s:  # what they are a small part of says little about them
            prompt_ratio = (taken_s / self._steps.value - rows_s) / prompts_s
            self._prompts.observe(min(max(prompt_ratio, CHEAPEST_PROMPTS), DEAREST_PROMPTS), prompts_s)
        self._is_current = False

    def _refine(self) -> None:
        self._is_current = True
        ratio, prompt_ratio = self._steps.value, self._prompts.value
        margin = max(0.0, sorted(self._errors)[-1 - int(LATE_SHARE * LATEST_ERRORS)])
        margin_differs = abs(margin - self._latency.margin) > TOLERANCE
        if margin_differs or _differ(ratio, self._ratio) or _differ(prompt_ratio, self._prompt_ratio):
            self._ratio, self._prompt_ratio = ratio, prompt_ratio
            self._latency = self.calibrated.scaled(ratio, prompt_ratio, margin)


class _Smoothed:
    """The median of the latest ratios, smoothed over steps of so much time."""

    def __init__(self, time_constant_s: float) -> None:
        self._time_constant_s = time_constant_s
        self._latest = deque([1.0] * LATEST_STEPS, LATEST_STEPS)
        self.value = 1.0

    def observe(self, ratio: float, seconds: float) -> None:
        self._latest.append(ratio)
        median = sorted(self._latest)[LATEST_STEPS // 2]
        self.value += (median - self.value) * -math.expm1(-seconds / self._time_constant_s)


def _differ(ratio: float, in_force: float) -> bool:
    return abs(ratio - in_force) > TOLERANCE * in_force
