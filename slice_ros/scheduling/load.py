"""How much real-time work arrives, learnt from the goals that have arrived: what a plan must keep free for those to come."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

MEMORY_S = 30.0
"""An arrival counts for about this long."""
PRIOR_S = 5.0
"""Before the first arrival there is taken to have been none for so long: how often goals arrive cannot be told from one or two. ..."""
PRIOR_GOALS = 8.0
"""... After so many more it is half as long, and so on: from fifty it can be told, however fast they came, ..."""
LEAST_PRIOR_GOALS = 5.0
"""... but it is never shorter than the time of so many goals."""
REMEMBERED = 32
"""So many of the latest arrivals tell how little time they leave: a tight goal that does not come again is forgotten."""
BURST_WINDOWS = 4
"""A burst is what arrived within so many times the time that the tightest goal had: more of it may come before that is done."""
FORGOTTEN = 1e-9
"""Arrivals of which no more than so many tokens are left are as if there had been none."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """The goals to be expected.

    Args:
        rate: output tokens they need, in tokens/s.
        fastest: tokens/s that one of them needs.
        prompt_share: share of the time that their prompts take.
        variance: variance of the tokens that arrive within one second; over T seconds their mean rate varies by ``variance / T``.
        slack_s: the least slack with which one arrived lately.
        prompt_variance: variance of the time of the prompts that arrive within one second.
        window_s: the least time within which one that arrived lately was due.
        burst_rate, burst_prompt_share: the same as ``rate`` and ``prompt_share``, of the last ``BURST_WINDOWS`` times that.
    """

    rate: float = 0.0
    fastest: float = 0.0
    prompt_share: float = 0.0
    variance: float = 0.0
    slack_s: float = math.inf
    prompt_variance: float = 0.0
    window_s: float = math.inf
    burst_rate: float = 0.0
    burst_prompt_share: float = 0.0

    @property
    def goals_hz(self) -> float:
        """How many of them arrive a second, if all need equally many tokens."""
        return self.rate**2 / self.variance if self.variance else math.inf if self.rate else 0.0

    def share(self, token_s: float) -> float:
        """Share of the time that they take, if an output token takes ``token_s``."""
        return self.rate * token_s + self.prompt_share

    def busy(self, token_s: float) -> float:
        """The same if bursts go on: the larger one of what came lately and of what comes in the mean."""
        return max(self.share(token_s), self.burst_rate * token_s + self.burst_prompt_share)


class _Arrival(NamedTuple):
    at_s: float
    tokens: float
    prompt_s: float
    window_s: float
    slack_s: float


class Load:
    """Exponentially fading sums over arrivals, read as rates.

    Arrivals of x each, at r a second, bring a sum to ``r * x * M * (1 - exp(-t / M))`` t seconds after the start, M = ``MEMORY_S``.
    """

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._count = 0
        self._at_s = 0.0
        self._tokens = 0.0
        self._tokens_squared = 0.0
        self._prompt_s = 0.0
        self._window_s = 0.0
        self._prompt_s_squared = 0.0
        self._latest: deque[_Arrival] = deque(maxlen=REMEMBERED)

    def observe(self, now: float, tokens: float, prompt_s: float, window_s: float, slack_s: float) -> None:
        """A goal arrived that will need ``tokens`` and ``prompt_s`` of prompt work within ``window_s``, and could wait ``slack_s``."""
        self._fade(now)
        self._count += 1
        self._tokens += tokens
        self._tokens_squared += tokens * tokens
        self._prompt_s += prompt_s
        self._prompt_s_squared += prompt_s * prompt_s
        self._window_s += window_s
        self._latest.append(_Arrival(now, tokens, prompt_s, window_s, slack_s))

    def traffic(self, now: float) -> Traffic:
        """What to expect from ``now`` on."""
        age_s = self._fade(now)
        if self._tokens <= 0.0:
            return Traffic()
        seconds = MEMORY_S * (1.0 - math.exp(-(self._prior_s(age_s) + age_s) / MEMORY_S))
        window_s = min(arrival.window_s for arrival in self._latest)
        burst_s = BURST_WINDOWS * window_s
        burst = [arrival for arrival in self._latest if arrival.at_s > now - burst_s]
        return Traffic(
            self._tokens / seconds,
            self._tokens / self._window_s,
            self._prompt_s / seconds,
            self._tokens_squared / seconds,
            min(arrival.slack_s for arrival in self._latest),
            self._prompt_s_squared / seconds,
            window_s,
            sum(arrival.tokens for arrival in burst) / burst_s,
            sum(arrival.prompt_s for arrival in burst) / burst_s,
        )

    def _prior_s(self, age_s: float) -> float:
        """For how long there is taken to have been no arrival before the first one."""
        more = self._count - 1
        return min(PRIOR_S, max(PRIOR_S * 0.5 ** (more / PRIOR_GOALS), LEAST_PRIOR_GOALS * age_s / more)) if more else PRIOR_S

    def _fade(self, now: float) -> float:
        if self._since_s is None:
            self._since_s = self._at_s = now
        if now > self._at_s:
            factor = math.exp((self._at_s - now) / MEMORY_S)
            self._at_s = now
            if self._tokens * factor < FORGOTTEN:  # before a long silence leaves nothing to divide by
                self._tokens = self._tokens_squared = self._prompt_s = self._prompt_s_squared = self._window_s = 0.0
                self._latest.clear()
            else:
                self._tokens *= factor
                self._tokens_squared *= factor
                self._prompt_s *= factor
                self._prompt_s_squared *= factor
                self._window_s *= factor
        return now - self._since_s
