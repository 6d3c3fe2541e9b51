"""Which tasks can be promised their SLO: real-time ones beside each other, best-effort ones beside the traffic of those to come."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.load import Traffic
from slice_ros.scheduling.outlook import CAUTION, Outlook
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.residency import Room

UNLIKELY = 0.5 * math.erfc(CAUTION / math.sqrt(2.0))
"""How likely it is that more comes than that, 0.067: while it is less likely that any goal arrives, none has to be left room for."""
SPARING = 1.5
"""Steps are wide enough where a token costs no more than so many times what it does in the best."""
MOST_DUE_TIMES = 12
"""Deadlines that promises are checked against at most; beyond that the two closest count as the earlier of them."""


def select(
    jobs: Sequence[Outlook], traffic: Traffic, now: float, latency: LatencyModel, limits: Limits, room: Room | None = None
) -> list[Outlook]:
    """The best-effort tasks whose SLO can be kept beside the real-time traffic; those with the most utility per second of work first.

    Args:
        room: of the KV cache, for those that are not open; ``None`` is enough for all.
    """
    promises = Promises(traffic, now, latency, limits)
    chosen = []
    for job in sorted(jobs, key=lambda job: job.needed_s / job.task.slo.weight):
        if (room is None or room.has(job.task)) and promises.take(job):
            chosen.append(job)
            if room is not None and not job.task.is_open:
                room.take(job.task)
    return chosen


def keepable(jobs: Sequence[Outlook], now: float, latency: LatencyModel, limits: Limits, slip: float = 0.0) -> list[Outlook]:
    """The real-time tasks whose SLO can be kept beside each other: all of them, or as many as can if they are too many.

    Moore and Hodgson's rule: by due time, and where one comes too late, the one with the most work per utility so far is left out. None is
    left out for what may come, nor for answers that may be long.

    Args:
        slip: what part of the others' share of wide steps each is left time for beyond the work that is due; see :mod:`.slip`.
    """
    promises = Promises(Traffic(), now, latency, limits)
    lumps = sorted((lump, i) for i, job in enumerate(jobs) for lump in promises.lumps(job))
    kept: dict[int, list[Lump]] = {}
    left_out: set[int] = set()
    most_work: list[tuple[float, int]] = []
    due = Due(promises)
    serial_s, wide = 0.0, sparing_rows(latency, limits, limits.max_batch) if slip else 1
    for lump, i in lumps:
        if i in left_out:
            continue
        if i not in kept:
            heappush(most_work, (-jobs[i].needed_s / jobs[i].task.slo.weight, i))
        kept.setdefault(i, []).append(lump)
        due.add(lump)
        serial_s += lump.serial_s
        beside_s = slip * lump.longest * promises.others_s(min(len(kept), wide))
        while kept and due.seconds() + serial_s + beside_s > lump.due_s:
            worst = heappop(most_work)[1]  # of equals the one that came first: the others can be late for longer
            left_out.add(worst)
            gone = kept.pop(worst)
            serial_s -= sum([lump.serial_s for lump in gone])
            due.remove(gone, (lump for lumps in kept.values() for lump in lumps))
    return [job for i, job in enumerate(jobs) if i not in left_out]


class Promises:
    """Work promised to be done in time, and whether more of it fits.

    A task with a TPOT bound needs its ``left`` tokens evenly until its end is due, like the real-time traffic; one without needs them
    by its deadline, and its first one alone where only that is due. For each time T that something is due at, the tokens due by then
    have to fit::

        seconds(tokens(T)) + serial(T) + CAUTION * deviation(T) <= T        tokens(T) = T * sum(rates) + sum(left, due by T)

    where serial work (prompts, KV tokens) takes its time in any step, and lengths and arrivals vary independently; arrivals do not count
    in the deviation where T is so short that hardly any comes. Before its first token, such a task has a prompt that is due by its TTFT
    instead: where that takes more of the time than its decodes will, that share counts.
    """

    def __init__(self, traffic: Traffic, now: float, latency: LatencyModel, limits: Limits) -> None:
        self._now = now
        self._latency = latency
        self._row_s = step_s_by_rows(latency, limits)
        self._token_s = token_s_by_width(latency, limits)
        self._arrivals_variance = traffic.variance
        self._quiet_s = UNLIKELY / traffic.goals_hz if traffic.goals_hz else math.inf
        self._even = _Even(traffic.rate, traffic.fastest, traffic.prompt_share, 0.0)
        self._lumps: list[Lump] = []

    def take(self, job: Outlook) -> bool:
        """Promise the task its SLO, if that fits."""
        window_s = max(job.end_s - self._now, job.token_s)
        left = job.steps_to(job.needed)
        variance = (job.deviation / job.gain) ** 2
        lump = Lump(window_s, left, left, job.prompt_s + left * self._latency.kv_s(job.kv_tokens), variance)
        if job.task.slo.tpot_s is None:
            even, (lumps, from_s) = self._even, _with_lump(self._lumps, lump)
            fits = self._fit(even, lumps, from_s)  # what is due before it does not change
        else:
            even, lumps = self._even.with_(lump, self._first_share(job), self._token_s[-1]), self._lumps
            fits = self._fit(even, [Lump(window_s, 0.0, 0.0, 0.0, 0.0)]) and self._fit(even, lumps)
        if fits:
            self._even, self._lumps = even, lumps
        return fits

    def _first_share(self, job: Outlook) -> float:
        """Share of the time that a task's prompt takes until its first token is due; all of its TTFT counts, as others wait as well."""
        ttft_s = job.task.slo.ttft_s
        return 0.0 if job.tokens or ttft_s is None else job.prompt_s / ttft_s

    def _fit(self, even: _Even, lumps: Sequence[Lump], from_s: float = 0.0) -> bool:
        """Whether all is in time that is due at ``from_s`` or later."""
        tokens = serial_s = variance = longest = 0.0
        for due_s, lump_tokens, lump_longest, lump_serial_s, lump_variance, _ in lumps:
            tokens += lump_tokens
            serial_s += lump_serial_s
            variance += lump_variance
            if lump_longest > longest:  # noqa: PLR1730 - max() is a twelfth of the time of a plan with many deadlines
                longest = lump_longest
            if due_s < from_s:
                continue
            all_tokens = even.rate * due_s + tokens
            needed_s = self.seconds(all_tokens, max(even.fastest * due_s, longest))
            arrivals_variance = self._arrivals_variance * due_s if due_s > self._quiet_s else 0.0
            deviation = math.sqrt(variance + even.variance * due_s**2 + arrivals_variance) * needed_s / all_tokens
            if needed_s + serial_s + even.serial_share * due_s + CAUTION * deviation > due_s:
                return False
        return True

    def lumps(self, job: Outlook) -> Iterator[Lump]:
        """What a task needs at least and by when: its prompt and first token by TTFT, the others of a likely answer by its end."""
        if job.due_s == math.inf:
            return
        left = needed = job.steps_to(min(job.needed, job.likely))
        serial_s = job.prompt_s + left * self._latency.kv_s(job.kv_tokens)
        if job.due_s < job.end_s and not job.tokens and left > 1.0:
            yield Lump(max(job.due_s - self._now, job.token_s), 1.0, 1.0, serial_s, 0.0, job.task.adapter)
            left, serial_s = left - 1.0, 0.0
        yield Lump(max(job.end_s - self._now, job.token_s), left, needed, serial_s, 0.0, job.task.adapter)

    def others_s(self, rows: int) -> float:
        """What of a step of so many rows is not one's own."""
        return self._row_s[rows] * (1.0 - 1.0 / rows)

    def seconds(self, tokens: float, longest: float) -> float:
        """Time of so many tokens, ``longest`` of them one task's: as that takes part in every step, of mean width tokens / longest.

        The least of ``tokens * l(w) / w`` over widths w up to the mean, and of as many steps as ``longest``, of the two widths around it.
        """
        width = min(tokens / longest, len(self._row_s) - 1)
        narrow = int(width)
        seconds = tokens * self._token_s[narrow]
        if narrow == width:
            return seconds
        return min(seconds, longest * (self._row_s[narrow] + (width - narrow) * (self._row_s[narrow + 1] - self._row_s[narrow])))


class Due:
    """Tokens that are due by some time, and how long they take: of each adapter by themselves, as no step holds two."""

    def __init__(self, promises: Promises) -> None:
        self._promises = promises
        self._of: dict[str, tuple[float, float]] = {}
        """Of each adapter, tokens and those of the longest task."""

    def add(self, lump: Lump) -> None:
        tokens, longest = self._of.get(lump.adapter, (0.0, 0.0))
        self._of[lump.adapter] = tokens + lump.tokens, max(longest, lump.longest)

    def remove(self, gone: Sequence[Lump], others: Iterable[Lump]) -> None:
        """Give up a task's lumps; ``others`` are those that stay."""
        adapter = gone[0].adapter
        longest = max((lump.longest for lump in others if lump.adapter == adapter), default=0.0)
        tokens, _ = self._of.pop(adapter)
        if longest:
            self._of[adapter] = tokens - sum([lump.tokens for lump in gone]), longest

    def seconds(self) -> float:
        return sum([self._promises.seconds(tokens, longest) for tokens, longest in self._of.values()])


class Lump(NamedTuple):
    """Work that is due at a time from now: tokens, those of the longest task in it, serial work, variance of the tokens, adapter."""

    due_s: float
    tokens: float
    longest: float
    serial_s: float
    variance: float
    adapter: str = ""


class _Even(NamedTuple):
    """Work that is due all the time: tokens/s, those of the fastest task, share of time of serial work, variance of the tokens/s."""

    rate: float
    fastest: float
    serial_share: float
    variance: float

    def with_(self, lump: Lump, first_share: float, token_s: float) -> _Even:
        rate = lump.tokens / lump.due_s
        return _Even(
            self.rate + rate,
            max(self.fastest, rate),
            self.serial_share + max(lump.serial_s / lump.due_s, first_share - rate * token_s),
            self.variance + lump.variance / lump.due_s**2,
        )


def _with_lump(lumps: Sequence[Lump], lump: Lump) -> tuple[list[Lump], float]:
    """The lumps and one more, in order of due time, and from which due time on they are others than before."""
    together = [*lumps]
    insort(together, lump)
    if len(together) <= MOST_DUE_TIMES:
        return together, lump.due_s
    ratios = [later.due_s / sooner.due_s for sooner, later in pairwise(together)]
    i = ratios.index(min(ratios))
    a, b = together[i : i + 2]
    merged = Lump(a.due_s, a.tokens + b.tokens, max(a.longest, b.longest), a.serial_s + b.serial_s, a.variance + b.variance)
    together[i : i + 2] = [merged]
    return together, min(lump.due_s, a.due_s)


@lru_cache(maxsize=4)  # the same in every plan, until the latency model is refined
def step_s_by_rows(latency: LatencyModel, limits: Limits) -> tuple[float, ...]:
    """Item b: l(b), up to the batch limit."""
    return tuple(latency.step_s(rows) for rows in range(limits.max_batch + 1))


@lru_cache(maxsize=4)
def token_s_by_width(latency: LatencyModel, limits: Limits) -> tuple[float, ...]:
    """Item w: time of a token in the best steps of up to w rows, ``min of l(b) / b``; item 0 as item 1."""
    step_s = step_s_by_rows(latency, limits)
    costs = [step_s[1]]
    for rows in range(1, limits.max_batch + 1):
        costs.append(min(costs[-1], step_s[rows] / rows))
    return tuple(costs)


@lru_cache(maxsize=64)  # the same in every plan
def sparing_rows(latency: LatencyModel, limits: Limits, most: int) -> int:
    """The fewest rows, up to so many, in whose steps a token costs hardly more than in the best of theirs."""
    row_s, most = step_s_by_rows(latency, limits), min(most, limits.max_batch)
    enough_s = SPARING * token_s_by_width(latency, limits)[most]
    return next(rows for rows in range(1, most + 1) if row_s[rows] / rows <= enough_s)
