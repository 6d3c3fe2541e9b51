"""What the last minute was like: how many goals met their SLO, and how long steps took against their calibrated times."""

from __future__ import annotations

import math
from collections import deque

WINDOW_S = 60.0


class LastMinute:
    """Times are readings of one monotonic clock, in seconds, given in ascending order."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._ends: deque[tuple[float, bool, bool]] = deque()
        self._steps: deque[tuple[float, float, float]] = deque()

    def ended(self, now_s: float, *, real_time: bool, attained: bool) -> None:
        """A goal ended."""
        self._ends.append((now_s, real_time, attained))

    def stepped(self, now_s: float, steps: int, step_s: float, calibrated_s: float) -> None:
        """So many steps were taken, with these means, in seconds."""
        if steps > 0:
            self._steps.append((now_s, steps * step_s, steps * calibrated_s))

    def look(self, now_s: float) -> None:
        """Forget what is older than a minute."""
        for entries in (self._ends, self._steps):
            while entries and entries[0][0] < now_s - self._window_s:
                entries.popleft()

    def attainment(self, *, real_time: bool) -> float:
        """Share of the goals of this class that met their SLO; NaN of none."""
        verdicts = self._verdicts(real_time)
        return sum(verdicts) / len(verdicts) if verdicts else math.nan

    def missed(self, *, real_time: bool) -> int:
        """Goals of this class that did not."""
        return self._verdicts(real_time).count(False)

    @property
    def step_ratio(self) -> float:
        """Measured over calibrated time of all steps: 1 = as calibrated, above = slower; NaN of none."""
        calibrated_s = sum(calibrated for _, _, calibrated in self._steps)
        return sum(taken for _, taken, _ in self._steps) / calibrated_s if calibrated_s > 0.0 else math.nan

    def _verdicts(self, real_time: bool) -> list[bool]:
        return [attained for _, is_real_time, attained in self._ends if is_real_time == real_time]
