"""What a member can offer to a goal: the prediction that it would make itself, with the network's time there and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from slice_ros.dispatch.member import Member
from slice_ros.dispatch.prompts import text_of
from slice_ros.goal import GoalRequest
from slice_ros.scheduling.admission import Prediction, predict
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.task import Task
from slice_ros.slo import BestEffort, Slo


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left of a goal: all of it, or what goes on elsewhere.

    Args:
        request: for a member: with the text so far, the tokens that are left, and the bounds as the client set them.
        whole: the goal as its client experiences it.
        prompt_tokens: of the prompt and the text so far, as expected.
    """

    request: GoalRequest
    whole: Task
    prompt_tokens: int

    def request_at(self, member: Member, lengths: Lengths, now: float) -> GoalRequest:
        """The goal as that member is to serve it: its bounds count from now on, and the network's time is taken off them."""
        slo = rest_of_slo(self.whole, lengths, now + member.network.expected_s)
        return replace(self.request, slo=slo, submitted_s=now, after=(), chain_deadline_s=None)

    def task_at(self, member: Member, request: GoalRequest) -> Task:
        """The same as a task of the member."""
        task = Task.of(request, self.prompt_tokens, 0)
        task.prompt_left -= int(member.prefixes.share(text_of(request)) * (task.prompt_left - 1))
        return task


def rest_of_slo(whole: Task, lengths: Lengths, now: float) -> Slo:
    """The bounds that are left of a goal's, in seconds from ``now`` on; none where one is past.

    A TPOT bound is about the mean gap of all tokens, so that what was lost or won of it so far counts for those that are left.
    """
    slo, tokens = whole.slo, whole.tokens
    ttft_s = None if slo.ttft_s is None or tokens else whole.arrival_s + slo.ttft_s - now
    deadline_s = whole.due_end_s - now if whole.due_end_s < math.inf else None
    tpot_s = slo.tpot_s
    if tpot_s is not None and tokens:
        left = max(1.0, lengths.expected(whole.kind, tokens, whole.max_tokens)[0] - tokens)
        tpot_s = (whole.token_times_s[0] + tpot_s * (tokens + left - 1.0) - now) / left
    if any(bound_s is not None and bound_s <= 0.0 for bound_s in (ttft_s, deadline_s, tpot_s)):
        return BestEffort(utility=slo.utility)
    if ttft_s is not None and deadline_s is not None:
        ttft_s = min(ttft_s, deadline_s)
    return replace(slo, ttft_s=ttft_s, tpot_s=tpot_s, deadline_s=deadline_s)


@dataclass(frozen=True, slots=True)
class Offer:
    """A member, and what a goal can expect there.

    Args:
        request: what would be sent.
        task: the same as a task of the member.
        prediction: made with the bounds that are left for the member.
        use: the share of the tightest of the goal's own bounds that it will have used; above 1 it is missed, 0 without bounds.
        cached: share of the prompt that need not be computed there.
    """

    member: Member
    request: GoalRequest
    task: Task
    prediction: Prediction
    use: float
    cached: float

    @property
    def fits(self) -> bool:
        """Whether the goal is in time there, and no real-time goal late for it."""
        return self.use <= 1.0 and self.prediction.fits

    @property
    def why(self) -> str:
        """What speaks for it, in words."""
        end = f"its end is predicted after {self.prediction.e2e_s:.2f} s"
        if not self.use:
            return end
        harm = "" if self.prediction.is_safe else ", at the cost of others"
        return f"{end}, {self.use:.0%} of its tightest bound{harm}"


def offer(rest: Rest, member: Member, lengths: Lengths, now: float) -> Offer:
    """What a usable member can offer."""
    report = member.report
    assert report is not None, "a usable member has told of itself"
    request = rest.request_at(member, lengths, now)
    task = rest.task_at(member, request)
    prediction = predict(task, member.tasks, now, report.latency, report.limits, member.experience)
    cached = 1.0 - task.prompt_left / max(1, task.prompt_tokens)
    return Offer(member, request, task, prediction, _use(rest.whole, prediction, member, now), cached)


def _use(whole: Task, prediction: Prediction, member: Member, now: float) -> float:
    slo = whole.slo
    ahead_s = now - whole.arrival_s + member.network.expected_s
    uses = [0.0]
    if slo.ttft_s is not None and not whole.tokens:
        uses.append((ahead_s + prediction.ttft_s) / slo.ttft_s)
    if slo.tpot_s is not None and not math.isnan(prediction.tpot_s):
        uses.append(prediction.tpot_s / slo.tpot_s)
    if whole.due_end_s < math.inf:
        uses.append((ahead_s + prediction.e2e_s) / max(whole.due_end_s - whole.arrival_s, 1e-9))
    return max(uses)
