"""Whether a server still says how it does: what it said last must not look as if it held now."""

from __future__ import annotations

LATE_S = 3.0
"""A status that is so late does not come, ..."""
LATE_PERIODS = 3.0
"""... nor one that is late by so many times the time between the latest two, where that is more."""


class Silence:
    """Times are a monotonic clock's, in seconds."""

    def __init__(self) -> None:
        self._heard_s: float | None = None
        self._period_s = 0.0

    def heard(self, now: float) -> None:
        """A status came."""
        if self._heard_s is not None:
            self._period_s = now - self._heard_s
        self._heard_s = now

    def seconds(self, now: float) -> float:
        """For how long nothing was heard; 0 while that is nothing to speak of, or nothing was ever heard."""
        silent_s = now - self._heard_s if self._heard_s is not None else 0.0
        return silent_s if silent_s > max(LATE_S, LATE_PERIODS * self._period_s) else 0.0
