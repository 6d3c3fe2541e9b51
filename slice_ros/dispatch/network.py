"""How long the way to a member and back takes."""

from __future__ import annotations

from collections import deque

REMEMBERED = 16
"""Of so many of the latest round trips the longest counts: a bound has to hold in spite of jitter."""


class RoundTrip:
    """Round trips as they were measured, in seconds."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=REMEMBERED)

    def observe(self, seconds: float) -> None:
        self._latest.append(seconds)

    @property
    def expected_s(self) -> float:
        """What the next one may take; 0 as long as nothing was measured."""
        return max(self._latest, default=0.0)
