"""What a goal can expect at its submission: predicted TTFT, TPOT and end, whether that meets its SLO, and whether it harms others.

A prediction is one pass over the tasks in hand, no simulation. It describes the default policy: real-time tasks first, by due time;
chosen best-effort tasks beside or after them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.experience import Experience
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies.base import Limits, narrowed
from slice_ros.scheduling.policies.promises import select
from slice_ros.scheduling.policies.slack import BEST_EFFORT_WORTH, SPARE_WORTH, URGENCY_DECAY, best_width
from slice_ros.scheduling.task import Task

BUSIEST = 0.95
"""Share of the time that real-time goals are taken to need at most: best-effort ones get the rest."""


class Admission(Enum):
    """What becomes of a goal whose SLO cannot be met: it runs all the same, or it is ended at once."""

    ALWAYS = "always"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a goal submitted now can expect, in seconds from now.

    Args:
        ttft_s, tpot_s, e2e_s: as in ``SloReport``.
        is_feasible: every bound it asks for is predicted to be met.
        is_safe: real-time goals in hand that are predicted to be in time stay so.
        fits_in_s: when it would be feasible and safe to submit it; 0 is now, infinite is never.
    """

    ttft_s: float
    tpot_s: float
    e2e_s: float
    is_feasible: bool
    is_safe: bool
    fits_in_s: float

    @property
    def fits(self) -> bool:
        return self.is_feasible and self.is_safe

    @property
    def reason(self) -> str:
        """A sentence for the sender of a goal that does not fit."""
        what = "its SLO cannot be met" if not self.is_feasible else "a real-time goal in hand would miss its SLO"
        when = "it never will, alone on this machine neither" if math.isinf(self.fits_in_s) else f"it would fit in {self.fits_in_s:.2f} s"
        return (
            f"{what}: predicted are ttft {self.ttft_s:.3f} s, tpot {self.tpot_s * 1e3:.0f} ms and its end after {self.e2e_s:.3f} s; {when}"
        )


def predict(newcomer: Task, tasks: Iterable[Task], now: float, latency: LatencyModel, limits: Limits, experience: Experience) -> Prediction:
    """What ``newcomer`` can expect beside ``tasks``."""
    tasks = [task for task in tasks if not task.is_lost(now)]
    limits = narrowed(limits, (newcomer, *tasks))
    jobs = [Outlook.of(task, now, latency, experience.lengths) for task in tasks]
    own = Outlook.of(newcomer, now, latency, experience.lengths)
    real_time = sorted((job for job in jobs if job.task.is_real_time and job.hope_s >= now), key=lambda job: job.due_s)
    best_effort = [job for job in jobs if not job.task.is_real_time and job.hope_s >= now]
    bounded = [job for job in best_effort if job.end_s < math.inf]
    if newcomer.is_real_time:
        return _predict_real_time(own, real_time, bounded, now, latency, limits)
    spare = [job for job in best_effort if job.end_s == math.inf] if own.end_s == math.inf else []
    return _predict_best_effort(own, real_time, bounded, spare, now, latency, limits, experience)


def _predict_real_time(
    own: Outlook, real_time: Sequence[Outlook], best_effort: Sequence[Outlook], now: float, latency: LatencyModel, limits: Limits
) -> Prediction:
    """Those due before it come first."""
    ahead = [job for job in real_time if job.due_s <= own.due_s]
    behind = [job for job in real_time if job.due_s > own.due_s]
    step_s, rows = _step(len(real_time) + 1, len(best_effort), latency, limits)
    token_s = step_s / rows

    ahead_s = sum(_work_s(job, token_s) for job in ahead)
    start_s = _start_s(ahead, rows, token_s)
    prompt_s = own.prompt_s
    ttft_s = start_s + prompt_s + step_s
    own_s = _work_s(own, token_s)
    e2e_s = max(start_s + prompt_s + step_s * own.steps_to(own.expected), ahead_s + own_s)

    at_s = now + ahead_s
    is_safe = True
    for job in behind:
        first_s = at_s + job.prompt_s + token_s
        needed_s = at_s + job.prompt_s + token_s * job.steps_to(job.needed)
        bounds = (first_s, job.task.first_due_s), (needed_s, job.end_s)
        is_safe = is_safe and not any(then_s <= due_s < then_s + own_s for then_s, due_s in bounds)
        at_s += _work_s(job, token_s)
    backlog_s = at_s - now
    return _verdict(own, ttft_s, e2e_s, is_safe=is_safe, backlog_s=backlog_s, now=now, latency=latency)


def _predict_best_effort(
    own: Outlook,
    real_time: Sequence[Outlook],
    best_effort: Sequence[Outlook],
    spare: Sequence[Outlook],
    now: float,
    latency: LatencyModel,
    limits: Limits,
    experience: Experience,
) -> Prediction:
    """It waits for the real-time tasks in hand, then shares what the real-time goals to come leave with the other chosen ones; without
    bounds it waits for a place among those that have none either, which came before it."""
    traffic = experience.load.traffic(now)
    bounded = own.end_s < math.inf
    chosen = select([*best_effort, own] if bounded else best_effort, traffic, now, latency, limits)
    spare_rows = best_width([SPARE_WORTH] * (len(spare) + 1), latency, limits)
    rows = len(chosen) + (own not in chosen) * spare_rows
    step_s, rt_rows = _step(len(real_time) + 1, rows, latency, limits)
    be_width = best_width([BEST_EFFORT_WORTH] * rows, latency, limits)
    be_step_s = latency.step_s(be_width) * rows / be_width
    rt_token_s = step_s / rt_rows
    busy = min(traffic.share(rt_token_s), BUSIEST)
    gap_s = be_step_s / (1.0 - busy)
    backlog_s = sum(_work_s(job, rt_token_s) for job in real_time)
    if best_width([1.0] + [BEST_EFFORT_WORTH] * rows, latency, limits) > 1:  # it rides in the real-time tasks' steps
        gap_s = min(gap_s, max(step_s, be_step_s) / (1.0 - min(traffic.prompt_share, BUSIEST)))
        backlog_s = sum(job.prompt_s for job in real_time)
    start_s = _start_s(spare, spare_rows, gap_s / spare_rows)
    ttft_s = backlog_s + start_s + own.prompt_s + be_step_s
    e2e_s = ttft_s + gap_s * (own.steps_to(own.expected) - 1)
    verdict = _verdict(own, ttft_s, e2e_s, is_safe=True, backlog_s=backlog_s, now=now, latency=latency)
    if not bounded or own in chosen or math.isinf(verdict.fits_in_s):
        return verdict
    ends = sorted(now + gap_s * job.steps_to(job.expected) for job in chosen)
    for place, end_s in enumerate(ends, 1):
        remaining = sorted(chosen, key=lambda job: job.steps_to(job.expected))[place:]
        if own in select([*remaining, own], traffic, now, latency, limits):
            return Prediction(ttft_s, verdict.tpot_s, e2e_s, False, True, end_s - now)
    return Prediction(ttft_s, verdict.tpot_s, e2e_s, False, True, math.inf)


def _verdict(
    own: Outlook, ttft_s: float, e2e_s: float, *, is_safe: bool, backlog_s: float, now: float, latency: LatencyModel
) -> Prediction:
    slo = own.task.slo
    tpot_s = (e2e_s - ttft_s) / (own.expected - 1.0) if own.expected > 1.0 else math.nan
    late_s = max(
        0.0,
        -math.inf if slo.ttft_s is None else ttft_s - slo.ttft_s,
        now + e2e_s - own.task.due_end_s,
        backlog_s if slo.tpot_s is not None and tpot_s > slo.tpot_s else 0.0,
    )
    is_feasible = late_s <= 0.0 and not (slo.tpot_s is not None and tpot_s > slo.tpot_s)
    fits_in_s = 0.0 if is_feasible and is_safe else max(late_s, 0.0 if is_safe else backlog_s)
    if own.hope_s < now or now + own.work_s > own.task.due_end_s or (slo.tpot_s is not None and latency.step_s(1) > slo.tpot_s):
        fits_in_s = math.inf  # alone it would be late as well
    return Prediction(ttft_s, tpot_s, e2e_s, is_feasible, is_safe, fits_in_s)


def _step(real_time: int, best_effort: int, latency: LatencyModel, limits: Limits) -> tuple[float, int]:
    """Time of the steps that real-time tasks take part in, and how many of them do."""
    worths = [URGENCY_DECAY**k for k in range(real_time)] + [BEST_EFFORT_WORTH] * best_effort
    width = best_width(worths, latency, limits)
    return latency.step_s(width), min(width, real_time)


def _start_s(ahead: Sequence[Outlook], rows: int, token_s: float) -> float:
    """When n tasks that come first, in steps of r rows, leave a place: after 1 - (r - 1) / n of their tokens."""
    prompts_s = sum(job.prompt_s for job in ahead)
    tokens_s = sum(_work_s(job, token_s) for job in ahead) - prompts_s
    return prompts_s + tokens_s * (max(0.0, 1.0 - (rows - 1) / len(ahead)) if ahead else 0.0)


def _work_s(job: Outlook, token_s: float) -> float:
    return token_s * job.steps_to(job.expected) + job.prompt_s
