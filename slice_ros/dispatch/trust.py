"""Whether a member is used: one that was lost proves itself first, for longer each time that it is lost again."""

from __future__ import annotations

import math

FIRST_PROOF_S = 0.5
"""A member that was lost once answers for so long before it is used again, ..."""
LONGEST_PROOF_S = 10.0
"""... twice as long each time, up to this."""
FORGIVEN_S = 60.0
"""One that was not lost for so long begins anew."""


class Trust:
    """Times are the dispatcher's clock's, in seconds. A member that was never lost is used as soon as it answers."""

    def __init__(self) -> None:
        self._answers_since_s = math.inf
        self._losses = 0
        self._lost_s = -math.inf

    def answered(self, now: float) -> None:
        self._answers_since_s = min(self._answers_since_s, now)

    def lost(self, now: float) -> None:
        if self._answers_since_s < math.inf:  # else it is lost already
            self._losses = 1 if now - self._lost_s > FORGIVEN_S else self._losses + 1
            self._lost_s = now
        self._answers_since_s = math.inf

    @property
    def answers(self) -> bool:
        return self._answers_since_s < math.inf

    def is_proven(self, now: float) -> bool:
        """Whether it has answered for long enough."""
        proof_s = min(FIRST_PROOF_S * 2 ** (self._losses - 1), LONGEST_PROOF_S) if self._losses else 0.0
        return now - self._answers_since_s >= proof_s
