"""How long answers turn out to be, in tokens and in steps, learnt per kind of goal from those that have ended; nobody peeks at a running
one's end."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence

REMEMBERED = 256
"""Ended goals of a kind that count; older ones are forgotten, so that a change of habit is learnt."""
PRIOR_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Until one of its kind has ended, an answer is taken to end at one of these shares of its ``max_tokens``."""

FEW = 5
"""Fewer ended goals of a kind say nothing about how short or long its answers may be."""


class Lengths:
    """The empirical distribution of output lengths, in tokens, of each kind of goal, and how many tokens a step brings."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._priors: dict[int, _Kind] = {}

    def observe(self, kind: str, tokens: int, steps: int = 0) -> None:
        """An answer of that kind ended after so many tokens, which so many steps brought; 0 = as many as tokens."""
        if kind not in self._kinds:
            self._kinds[kind] = _Kind()
        self._kinds[kind].observe(tokens, steps or tokens)

    def gain(self, kind: str) -> float:
        """Tokens that a step brings: more than one where forms force some."""
        known = self._kinds.get(kind)
        return known.gain if known else 1.0

    def expected(self, kind: str, tokens: int, max_tokens: int) -> tuple[float, float]:
        """Length of an answer that has ``tokens`` tokens and goes on, at most ``max_tokens``: its mean and standard deviation."""
        mean, deviation = (self._kinds.get(kind) or self._prior(max_tokens)).beyond(tokens)
        return min(max(mean, tokens + 1.0), float(max_tokens)), deviation

    def at_least(self, kind: str, tokens: int, max_tokens: int, risk: float) -> int:
        """The length that an answer with ``tokens`` tokens that goes on falls short of with probability ``risk`` at most."""
        known = self._kinds.get(kind)
        low = 0 if known is None or len(known) < FEW else known.quantile_beyond(tokens, risk)
        return min(max(low, tokens + 1), max_tokens)

    def at_most(self, kind: str, tokens: int, max_tokens: int, risk: float) -> int:
        """The length that an answer with ``tokens`` tokens that goes on exceeds with probability ``risk`` at most."""
        known = self._kinds.get(kind)
        if known is None or len(known) < FEW:
            return max_tokens
        return min(max(known.quantile_beyond(tokens, 1.0 - risk), tokens + 1), max_tokens)

    def _prior(self, max_tokens: int) -> _Kind:
        if max_tokens not in self._priors:
            self._priors[max_tokens] = prior = _Kind()
            for share in PRIOR_SHARES:
                length = math.ceil(share * max_tokens)
                prior.observe(length, length)
        return self._priors[max_tokens]


class _Kind:
    def __init__(self) -> None:
        self._latest: deque[tuple[int, int]] = deque()
        self._sums = [0, 0]  # tokens and steps of these
        self._ascending: list[int] = []
        self._moments: dict[int, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._latest)

    def observe(self, tokens: int, steps: int) -> None:
        if len(self._latest) == REMEMBERED:
            oldest = self._latest.popleft()
            self._count(*oldest, sign=-1)
            del self._ascending[bisect_left(self._ascending, oldest[0])]
        self._latest.append((tokens, steps))
        self._count(tokens, steps, sign=1)
        insort(self._ascending, tokens)
        self._moments.clear()

    def _count(self, tokens: int, steps: int, *, sign: int) -> None:
        self._sums[0] += sign * tokens
        self._sums[1] += sign * steps

    @property
    def gain(self) -> float:
        tokens, steps = self._sums
        return max(1.0, tokens / steps) if steps else 1.0

    def beyond(self, tokens: int) -> tuple[float, float]:
        if tokens not in self._moments:
            self._moments[tokens] = _moments(self._ascending, tokens)
        return self._moments[tokens]

    def quantile_beyond(self, tokens: int, share: float) -> int:
        first = bisect_right(self._ascending, tokens)
        longer = len(self._ascending) - first
        return self._ascending[first + int(share * longer)] if longer else 0


def _moments(ascending: Sequence[int], tokens: int) -> tuple[float, float]:
    """Mean and standard deviation of those above ``tokens``; zeros of none."""
    longer = ascending[bisect_right(ascending, tokens) :]
    if not longer:
        return 0.0, 0.0
    mean = sum(longer) / len(longer)
    return mean, math.sqrt(sum((length - mean) ** 2 for length in longer) / len(longer))
