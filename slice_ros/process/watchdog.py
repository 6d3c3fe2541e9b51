"""Tells an engine that hangs from one that has nothing to do, takes a long step, or waits for a processor like everybody else."""

from __future__ import annotations

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.engine import EngineInfo

LOOK_PERIOD_S = 0.1
"""How often the watchdog is to be asked."""
LONGEST_LOOK_S = 0.2
"""A look later than this was held up itself: the machine slept, or was too busy, and the engine is not to blame for the rest."""
MARGIN = 10.0
"""An engine may take this many times as long as its longest step is predicted to."""


class Watchdog:
    """Counts the seconds in which the engine had work and said nothing; it says something after every step, and twice a second.

    Args:
        step_s: predicted seconds of the longest step.
    """

    def __init__(self, step_s: float, now_s: float) -> None:
        self._step_s = step_s
        self._looked_s = now_s
        self.silent_s = 0.0

    def heard(self) -> None:
        """The engine said something."""
        self.silent_s = 0.0

    def finds_hang(self, now_s: float, *, has_work: bool, timeout_s: float) -> bool:
        """Whether the engine has been silent for too long; ``timeout_s`` is the least that this is, 0 = for ever."""
        self.silent_s = self.silent_s + min(now_s - self._looked_s, LONGEST_LOOK_S) if has_work else 0.0
        self._looked_s = now_s
        return timeout_s > 0.0 and self.silent_s > max(timeout_s, MARGIN * self._step_s)


def longest_step_s(latency: LatencyModel, info: EngineInfo) -> float:
    """Predicted seconds of a step as full as one can be: every sequence in it, all tokens of a prompt, over a full KV cache."""
    rows = min(info.max_sequences, info.max_step_tokens)
    return latency.step_s(rows, info.max_step_tokens, rows, info.context_tokens)
