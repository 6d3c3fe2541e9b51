"""A deadline as a TTFT and a TPOT, for published schedulers that know no other bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slice_ros.scheduling.task import Task

DECODING_SHARE = 0.5
"""Share of a deadline that an answer may take from its first token on, where the goal's TPOT would let it take more."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When a goal's first token is due on the scheduler's clock, and the gap between two that it needs; infinite where it asks for none."""

    first_due_s: float
    tpot_s: float

    @property
    def is_bounded(self) -> bool:
        return self.first_due_s < math.inf or self.tpot_s < math.inf

    def due_s(self, tokens: int) -> float:
        """When the next token of an answer that has ``tokens`` is due."""
        return self.first_due_s + self.tpot_s * tokens if tokens else self.first_due_s


def pace(task: Task, expected: float) -> Pace:
    """What a goal needs whose answer is expected to have so many tokens.

    The first token is due by TTFT or by ``deadline - expected * TPOT`` (QoServe's rule), whichever is earlier. The TPOT is the goal's
    own, or the one that leaves the other half of a deadline to the prompt.
    """
    slo = task.slo
    deadline_s = task.due_end_s - task.arrival_s
    tpot_s = math.inf if slo.tpot_s is None else slo.tpot_s
    tpot_s = min(tpot_s, DECODING_SHARE * deadline_s / max(expected, 1.0))
    ttft_s = math.inf if slo.ttft_s is None else slo.ttft_s
    if deadline_s < math.inf:
        ttft_s = min(ttft_s, deadline_s - expected * tpot_s)
    return Pace(task.arrival_s + ttft_s, tpot_s)
