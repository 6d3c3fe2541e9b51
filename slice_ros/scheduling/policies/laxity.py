"""How long others may keep the device from the real-time tasks: a schedulability test of those in hand and of those to come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.load import Traffic
from slice_ros.scheduling.outlook import CAUTION, Outlook
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.policies.promises import UNLIKELY, Due, Lump, Promises, token_s_by_width

RISK = 0.01
"""How likely it may be that more real-time work has piled up than is reckoned with."""
SHARE = 0.5
"""Share of that time that others get in one plan where another real-time goal may come meanwhile, which finds what is left."""


def laxity_s(
    real_time: Sequence[Outlook], traffic: Traffic, now: float, latency: LatencyModel, limits: Limits, beside: int | None = None
) -> float:
    """For how long the device may do nothing for real-time tasks, from now on, and all of them be in time; below 0 if some will not be.

    Two things are asked. Of the tasks in hand, gone through by due time, what is due by T has to fit into T, with caution as to how
    long their answers are, and beside what arrives meanwhile and is due by then as well. And one that arrives now, with as little slack
    as they lately did, has to find time after the work in hand that is due before it and what others pile up (:func:`backlog_s`).
    """
    demand = Promises(Traffic(), now, latency, limits)
    busy = min(traffic.busy(token_s_by_width(latency, limits)[-1]), 1.0)
    laxity, work_s, before_s = math.inf, 0.0, 0.0
    for due_s, needed_s, work_s in _demand(sorted(lump for job in real_time for lump in _lumps(job, now, latency)), demand, latency):
        meanwhile_s = busy * max(0.0, due_s - traffic.window_s)
        laxity = min(laxity, due_s - needed_s - max(meanwhile_s, prompts_s(traffic, needed_s)))
        if due_s <= traffic.window_s:
            before_s = work_s
    if not real_time or traffic.goals_hz * work_s > UNLIKELY:
        laxity = min(laxity, traffic.slack_s - before_s)
    laxity = (laxity - backlog_s(traffic, latency, limits, beside)) / (1.0 + latency.margin)
    if laxity > 0.0 and traffic.goals_hz * (work_s + laxity) > UNLIKELY:
        laxity *= SHARE
    return laxity


def too_early(real_time: Sequence[Outlook], now: float, latency: LatencyModel, limits: Limits) -> list[Outlook]:
    """Tasks that had better not begin yet: their pace counts from the first token on, and leaves no time for it beside those in hand.

    One that could not wait until these are done begins all the same.
    """
    waiting = [job for job in real_time if job.task.slo.tpot_s is not None and not job.tokens]
    if not waiting or len(real_time) == 1:
        return []
    demand = Promises(Traffic(), now, latency, limits)
    begun = [job for job in real_time if job.task.slo.tpot_s is None or job.tokens]
    lumps = [lump for job in begun for lump in _lumps(job, now, latency)]
    work_s = sum(job.work_s for job in begun)
    held: list[Outlook] = []
    for job in sorted(waiting, key=lambda job: job.due_s):
        if lumps and job.latest_s - now > work_s:
            with_it = sorted([*lumps, *_lumps_once_begun(job, now)])
            if held or any(needed_s > due_s for due_s, needed_s, _ in _demand(with_it, demand, latency)):
                held.append(job)
                continue
        lumps += _lumps_once_begun(job, now)
        work_s += job.work_s
    return held


def _lumps_once_begun(job: Outlook, now: float) -> list[Lump]:
    """What a task needs, and by when, if it has its first token as soon as can be."""
    first_s = job.prompt_s + job.token_s
    pace_s = job.task.slo.tpot_s or 0.0
    soon, left = float(max(job.short, 1)), job.expected
    lumps = [Lump(first_s + (soon - 1.0) * pace_s, soon, soon, job.prompt_s, 0.0, job.task.adapter)]
    if left > soon:
        end_s = min(first_s + (left - 1.0) * pace_s, job.due_end_s - now)
        lumps.append(Lump(end_s, left - soon, left, 0.0, job.deviation**2, job.task.adapter))
    return lumps


def _demand(lumps: Sequence[Lump], demand: Promises, latency: LatencyModel) -> Iterator[tuple[float, float, float]]:
    """For each due time, how long all takes that is due until then: with caution, and in the mean."""
    tokens = serial_s = variance = 0.0
    due = Due(demand)
    for lump in lumps:
        tokens, serial_s, variance = tokens + lump.tokens, serial_s + lump.serial_s, variance + lump.variance
        due.add(lump)
        mean_s = due.seconds()
        cautious_s = mean_s + CAUTION * math.sqrt(variance) * mean_s / max(tokens, 1.0) + serial_s
        yield lump.due_s, cautious_s * (1.0 + latency.margin), mean_s + serial_s


def prompts_s(traffic: Traffic, window_s: float) -> float:
    """Time of the prompts of real-time goals that may arrive within a time, if any is likely to."""
    goals = traffic.goals_hz * max(window_s, 0.0)
    if goals < RISK:
        return 0.0
    return max(1.0, goals + CAUTION * math.sqrt(goals)) * traffic.prompt_share / traffic.goals_hz


def backlog_s(traffic: Traffic, latency: LatencyModel, limits: Limits, beside: int | None = None) -> float:
    """How much real-time work has piled up at most when another goal arrives, but for a probability of ``RISK``.

    Of work that arrives in independent pieces, a share ``busy`` of the time with ``variance`` a second, as much as x is waiting with a
    probability of ``busy * exp(-2 * (1 - busy) * x / variance)`` (Kingman's bound for heavy traffic). A token takes what it does in the
    best steps of as many rows as there are: of real-time goals, each there until it is due, and ``beside`` of others; all, by default.
    """
    by_width = token_s_by_width(latency, limits)
    rows = len(by_width) - 1
    if beside is not None and traffic.goals_hz:
        rows = max(1, math.ceil(min(rows, traffic.goals_hz * traffic.window_s + beside)))
    token_s = by_width[rows]
    busy = traffic.busy(token_s)
    if busy <= RISK:
        return 0.0
    if busy >= 1.0:
        return math.inf
    deviation = math.sqrt(traffic.variance) * token_s + math.sqrt(traffic.prompt_variance)
    return math.log(busy / RISK) * deviation**2 / (2.0 * (1.0 - busy))


def _lumps(job: Outlook, now: float, latency: LatencyModel) -> Iterator[Lump]:
    """What a task needs, and by when: a short answer by the time that its pace asks for, once that counts; an expected one by its end."""
    left = job.needed - job.tokens
    serial_s = job.prompt_s + left * latency.kv_s(job.kv_tokens)
    end_s = min(job.end_s, job.due_end_s) if job.tokens else max(job.due_end_s, job.due_s)
    if job.due_s < end_s:
        soon = min(left, max(job.short - job.tokens, 1.0) if job.tokens else 1.0)
        yield Lump(job.due_s - now, soon, soon, serial_s, 0.0, job.task.adapter)
        if left > soon and end_s < math.inf:
            yield Lump(end_s - now, left - soon, left, 0.0, job.deviation**2, job.task.adapter)
    elif end_s < math.inf:
        yield Lump(end_s - now, left, left, serial_s, job.deviation**2, job.task.adapter)
