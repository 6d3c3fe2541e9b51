"""How long answers turn out to be, in tokens and in steps, learnt per kind of goal from those that have ended; nobody peeks at a running
one's end."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

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

    def observe(self, kind: str, tokens: int, steps: int = 0) -> None:
        """An answer of that kind ended after so many tokens, which so many steps brought; 0 = as many as tokens."""
        self._kinds.setdefault(kind, _Kind()).observe(tokens, steps or tokens)

    def hung_up(self, kind: str, tokens: int) -> None:
        """A client hung up in time with so many tokens of an answer of that kind. Where most of its kind end so, answers may be as short.

        How long they may be, it does not say: it may have been for another reason.
        """
        self._kinds.setdefault(kind, _Kind()).hung_up(tokens)

    def knows(self, kind: str) -> bool:
        """Whether enough has ended of a kind to say something about it."""
        return len(self._kinds.get(kind, ())) >= FEW

    def gain(self, kind: str) -> float:
        """Tokens that a step brings: more than one where forms force some."""
        known = self._kinds.get(kind)
        return known.gain if known else 1.0

    def expected(self, kind: str, tokens: int, max_tokens: int) -> tuple[float, float]:
        """Length of an answer that has ``tokens`` tokens and goes on, at most ``max_tokens``: its mean and standard deviation."""
        known = self._kinds.get(kind)
        mean, deviation = known.beyond(tokens, max_tokens) if known else _prior(tokens, max_tokens)
        return min(max(mean, tokens + 1.0), float(max_tokens)), deviation

    def at_least(self, kind: str, tokens: int, max_tokens: int, risk: float) -> int:
        """The length that an answer with ``tokens`` tokens that goes on falls short of with probability ``risk`` at most."""
        known = self._kinds.get(kind)
        low = 0 if known is None else known.at_least(tokens, risk)
        return min(max(low, tokens + 1), max_tokens)

    def at_most(self, kind: str, tokens: int, max_tokens: int, risk: float) -> int:
        """The length that an answer with ``tokens`` tokens that goes on exceeds with probability ``risk`` at most."""
        known = self._kinds.get(kind)
        if known is None:
            return max_tokens
        return min(known.quantile_beyond(tokens, 1.0 - risk, 1) or known.one_more(tokens, max_tokens), max_tokens)


class _Kind:
    def __init__(self) -> None:
        self._latest: deque[tuple[int, int]] = deque()
        self._sums = [0, 0]  # tokens and steps of these
        self._ascending: list[int] = []
        self._hung_up: deque[int] = deque(maxlen=REMEMBERED)
        self._ends: list[int] | None = None
        self._moments: dict[tuple[int, int], tuple[float, float]] = {}

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
        self._ends = None

    def hung_up(self, tokens: int) -> None:
        self._hung_up.append(tokens)
        self._ends = None

    def _count(self, tokens: int, steps: int, *, sign: int) -> None:
        self._sums[0] += sign * tokens
        self._sums[1] += sign * steps

    @property
    def gain(self) -> float:
        tokens, steps = self._sums
        return max(1.0, tokens / steps) if steps else 1.0

    def one_more(self, tokens: int, max_tokens: int) -> int:
        """The length of an answer that outlasts all known ones: by as much as these lie apart, or ``max_tokens`` if they are few."""
        count = len(self._ascending)
        if count < FEW:
            return max_tokens
        apart = (self._ascending[-1] - self._ascending[0]) / (count - 1)
        return min(max(self._ascending[-1], tokens) + math.ceil(apart), max_tokens)

    def beyond(self, tokens: int, max_tokens: int) -> tuple[float, float]:
        """Mean and standard deviation of the known lengths above ``tokens`` and of one more."""
        key = tokens, max_tokens
        if key not in self._moments:
            longer = self._ascending[bisect_right(self._ascending, tokens) :]
            self._moments[key] = _moments([*longer, self.one_more(tokens, max_tokens)])
        return self._moments[key]

    def at_least(self, tokens: int, risk: float) -> int:
        """The length that such a share of those above ``tokens`` falls short of; where most clients hung up, of what these had, too.

        0 if few are known.
        """
        if self._ends is None:
            most_hung_up = len(self._hung_up) > len(self._latest)
            self._ends = sorted([*self._ascending, *self._hung_up]) if most_hung_up else self._ascending
        return _quantile(self._ends, tokens, risk) if len(self._ends) >= FEW else 0

    def quantile_beyond(self, tokens: int, share: float, more: int = 0) -> int:
        """The length that such a share of the known ones above ``tokens`` falls short of; 0 if it is that of one ``more`` than these."""
        return _quantile(self._ascending, tokens, share, more)


@lru_cache(maxsize=4096)
def _prior(tokens: int, max_tokens: int) -> tuple[float, float]:
    """Mean and standard deviation of a length above ``tokens`` of which nothing is known."""
    lengths = [math.ceil(share * max_tokens) for share in PRIOR_SHARES]
    return _moments([length for length in lengths if length > tokens] or [max_tokens])


def _quantile(ascending: Sequence[int], tokens: int, share: float, more: int = 0) -> int:
    """The length that such a share of those above ``tokens`` falls short of; 0 if it is that of one ``more`` than these."""
    first = bisect_right(ascending, tokens)
    place = first + int(share * (len(ascending) + more - first))
    return ascending[place] if place < len(ascending) else 0


def _moments(lengths: Sequence[int]) -> tuple[float, float]:
    """Mean and standard deviation."""
    mean = sum(lengths) / len(lengths)
    return mean, math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths))
