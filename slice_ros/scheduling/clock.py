"""Everything that decides or measures takes its time from one of these, in seconds."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds on a scale that never goes back."""


class MonotonicClock:
    """The machine's monotonic clock, the same for all its processes."""

    def now(self) -> float:
        return time.monotonic()


class VirtualClock:
    """A clock that moves only when told to."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        if seconds < 0.0:
            raise ValueError(f"a clock cannot go back by {-seconds} s")
        self._now_s += seconds
