"""Sends goals to members, moves those that a lost member had, and tells one end of each; knows no network and no ROS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from slice_ros.dispatch.attempt import Attempt, Link
from slice_ros.dispatch.member import Member, MemberReport
from slice_ros.dispatch.offer import Offer, Rest, offer
from slice_ros.dispatch.policies import DispatchPolicy
from slice_ros.dispatch.prompts import PromptLengths, text_of
from slice_ros.goal import ErrorCode, FinishReason, GoalError, GoalRequest, TokenLogprob, ToolCall
from slice_ros.scheduling.admission import Admission, Prediction
from slice_ros.scheduling.dependencies import Dependencies
from slice_ros.scheduling.events import Checked, Event, Finished, Progress, Sent
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.task import SloReport, Task

LONGEST_WAIT_S = 30.0
"""A goal waits for so long for a member that can be used."""
MOST_ATTEMPTS = 8
"""A goal is sent so often at most."""
LOST = frozenset({ErrorCode.ENGINE_DIED, ErrorCode.SHUTTING_DOWN})
"""A member that ends a goal with one of these is lost; ..."""
MOVED_ON = LOST | {ErrorCode.OVERLOADED, ErrorCode.INFEASIBLE, ErrorCode.CONTEXT_EXCEEDED, ErrorCode.INTERNAL}
"""... with one of these, the goal may fare better elsewhere."""


@dataclass(slots=True, eq=False)
class _Goal:
    request: GoalRequest
    whole: Task
    attempts: list[Attempt] = field(default_factory=list)
    speaker: Attempt | None = None
    """Whose text goes to the client; while there is none, the first one that says something."""
    pieces: list[str] = field(default_factory=list)
    has_reasoned: bool = False
    refused_by: set[str] = field(default_factory=set)
    sent: int = 0
    error: GoalError | None = None
    """Why the latest attempt failed."""

    @property
    def can_go_on(self) -> bool:
        """Whether it may be sent once more, and go on from its text: log-probabilities, calls of tools and reasoning are more than that."""
        is_more_than_text = bool(self.pieces) and bool(self.request.logprobs or self.request.tools or self.has_reasoned)
        return self.sent < MOST_ATTEMPTS and not is_more_than_text


class Dispatcher:
    """A fleet's front. One thread calls all methods.

    Args:
        policy: decides where goals go.
        link: the way to the members.
        emit: receives events as a scheduler's does, but for snapshots.
        now: the clock, in seconds.
        admission: strict ends a goal with INFEASIBLE that no member can keep.
    """

    def __init__(
        self,
        policy: DispatchPolicy,
        link: Link,
        emit: Callable[[list[Event]], None],
        now: Callable[[], float],
        *,
        admission: Admission = Admission.ALWAYS,
    ) -> None:
        self.policy = policy
        self.admission = admission
        self._link = link
        self._emit = emit
        self._now = now
        self._members: dict[str, Member] = {}
        self._lengths = Lengths()
        self._prompts = PromptLengths()
        self._dependencies = Dependencies()
        self._goals: dict[str, _Goal] = {}
        self._unsent: dict[str, _Goal] = {}
        """Those of the goals that no member has: they wait for others, or for a member."""
        self._arrivals = 0

    # ---- the members

    @property
    def members(self) -> Mapping[str, Member]:
        return self._members

    def join(self, name: str, quality: float = 0.0) -> None:
        """A member is to be used as soon as it tells of itself and answers; one that is known keeps its place."""
        if name not in self._members:
            self._members[name] = Member(name, quality, self._lengths)

    def heard(self, name: str, report: MemberReport) -> None:
        """A member's status came."""
        self._members[name].heard(report, self._now())
        self._send_unsent()

    def silent(self, name: str) -> None:
        """A member seems to be gone: others try its goals as well."""
        member = self._members[name]
        if member.trust.answers:
            member.trust.lost(self._now())
            self._send_spares(member)

    def answered(self, name: str, seconds: float) -> None:
        """A member answered a question within so long."""
        member = self._members[name]
        member.network.observe(seconds)
        if not member.is_quiet(self._now()):
            member.trust.answered(self._now())
        self._send_unsent()

    def lost(self, name: str) -> None:
        """A member is gone, and what it had with it."""
        member = self._members[name]
        member.trust.lost(self._now())
        for attempt in self._attempts_at(member):
            self.ended(attempt, None, GoalError(ErrorCode.ENGINE_DIED, f"the member {name} is gone"))

    def _attempts_at(self, member: Member) -> list[Attempt]:
        return [attempt for goal in self._goals.values() for attempt in goal.attempts if attempt.member is member]

    def look(self) -> None:
        """To be called again and again: what does not happen is not told by anybody."""
        now = self._now()
        for member in self._members.values():
            if member.is_quiet(now):
                self.silent(member.name)
        self._send_unsent()

    # ---- what clients want

    def submit(self, request: GoalRequest) -> None:
        """Take in a goal; exactly one ``Finished`` follows."""
        text = text_of(request) + request.answer_prefix
        whole = Task.of(request, self._prompts.expected(request.kind, len(text)), self._arrivals + 1)
        self._arrivals += 1
        goal = _Goal(request, whole)
        try:
            whole.chain_due_s = whole.budget_due_s = self._dependencies.add(request, self._goals)
        except GoalError as error:
            self._dependencies.ended(request.goal_id, succeeded=False)
            self._emit([_finished(goal, error=error)])
            return
        self._goals[request.goal_id] = self._unsent[request.goal_id] = goal
        self._send_unsent([goal])

    def cancel(self, goal_id: str, error: GoalError) -> None:
        """End a goal with that error; one that has ended or is unknown is left as it is."""
        if goal_id in self._goals:
            self._end(self._goals[goal_id], error=error)

    def cancel_all(self, error: GoalError) -> None:
        """End every goal with that error."""
        for goal_id in list(self._goals):
            self.cancel(goal_id, error)

    def check(self, check_id: str, request: GoalRequest, prompt_tokens: int = 0) -> None:
        """Tell what a goal could expect now; a ``Checked`` event follows."""
        whole = Task.of(request, prompt_tokens or self._prompts.expected(request.kind, len(text_of(request))), 0)
        try:
            best = self._ranked(_Goal(request, whole))[0]
        except GoalError as error:
            self._emit([Checked(check_id, None, error.code, error.message)])
            return
        self._emit([Checked(check_id, _with_network(best))])

    # ---- what members say

    def progressed(
        self,
        attempt: Attempt,
        text: str,
        tokens: int,
        report: SloReport,
        logprobs: Sequence[TokenLogprob] = (),
        calls: Sequence[ToolCall] = (),
        reasoning: str = "",
    ) -> None:
        """A goal got so many more tokens from a member."""
        now, member = self._now(), attempt.member
        member.worked(now)
        goal = self._goals.get(attempt.goal_id)
        if goal is None or attempt not in goal.attempts:
            return
        if not attempt.task.tokens:
            self._learn_prompt(goal, attempt, report)
        attempt.task.token_times_s.extend([now] * tokens)
        if goal.speaker is None:
            goal.speaker = attempt
            for other in [other for other in goal.attempts if other is not attempt]:
                self._withdraw(goal, other)
        whole = goal.whole
        if goal.request.is_default and whole.tokens + tokens > whole.max_tokens:  # the member has another default, or begins to count anew
            self._end(goal, reason=FinishReason.LENGTH)
            return
        if not whole.tokens:
            whole.prompt_tokens, whole.cached_tokens = report.prompt_tokens, report.cached_tokens
            whole.started_s = attempt.request.submitted_s + (0.0 if math.isnan(report.queue_s) else report.queue_s)
        whole.token_times_s.extend([now] * tokens)
        whole.steps += 1
        goal.pieces.append(text)
        goal.has_reasoned |= bool(reasoning)
        self._emit([Progress(attempt.goal_id, text, whole.report(completed=False), tuple(logprobs), tuple(calls), reasoning)])

    def ended(self, attempt: Attempt, reason: FinishReason | None, error: GoalError | None) -> None:
        """A goal ended at a member; all of its text was told before."""
        now, member = self._now(), attempt.member
        member.worked(now)
        goal = self._goals.get(attempt.goal_id)
        if goal is None or attempt not in goal.attempts:
            return
        self._forget(goal, attempt)
        if error is None:
            self._lengths.observe(goal.request.kind, goal.whole.tokens, goal.whole.steps)
            self._end(goal, reason=reason)
            return
        goal.error = error
        if error.code in LOST:
            member.trust.lost(now)
        if goal.attempts:
            return  # another one goes on
        if error.code not in MOVED_ON or not goal.can_go_on:
            self._end(goal, error=error)
            return
        if error.code not in LOST:
            goal.refused_by.add(member.name)
        member.moved += 1
        goal.speaker = None
        self._unsent[attempt.goal_id] = goal
        self._send_unsent([goal])

    # ---- sending

    def _tasks(self) -> dict[str, Task]:
        return {goal_id: goal.whole for goal_id, goal in self._goals.items()}

    def _send_unsent(self, goals: Iterable[_Goal] | None = None) -> None:
        """Send what can be sent of the goals that no member has."""
        if not self._unsent:
            return
        for goal in list(self._unsent.values() if goals is None else goals):
            goal_id = goal.request.goal_id
            if goal_id not in self._unsent or self._dependencies.is_waiting(goal_id):
                continue
            try:
                self._send(goal)
            except GoalError as error:
                self._end(goal, error=error)

    def _send(self, goal: _Goal) -> None:
        """Send a goal to the best member, or leave it where it is while there is none.

        Raises:
            GoalError: it can be served nowhere, or not any more.
        """
        now, whole = self._now(), goal.whole
        if whole.slo.ends_on_miss and whole.is_lost(now):
            what = f"the SLO is out of reach {now - whole.arrival_s:.3f} s after the goal was sent, with {whole.tokens} tokens"
            raise GoalError(ErrorCode.SLO_MISSED, what)
        if whole.tokens >= whole.max_tokens:
            self._end(goal, reason=FinishReason.LENGTH)
            return
        try:
            ranked = self._ranked(goal)
        except GoalError as error:
            if error.code is not ErrorCode.ENGINE_DIED or now - whole.arrival_s > LONGEST_WAIT_S:
                raise
            return
        best = ranked[0]
        if not goal.sent:
            told = _with_network(best)
            whole.predicted_ttft_s, whole.predicted_tpot_s, whole.predicted_e2e_s = told.ttft_s, told.tpot_s, told.e2e_s
            if self.admission is Admission.STRICT and not best.fits:
                raise GoalError(ErrorCode.INFEASIBLE, told.reason)
        del self._unsent[goal.request.goal_id]
        for chosen in ranked[: 1 + goal.request.hedge]:
            self._try(goal, chosen)

    def _ranked(self, goal: _Goal) -> list[Offer]:
        """What the members offer, the best first.

        Raises:
            GoalError: ENGINE_DIED where no member can be used now, the error of the latest attempt where all have refused it, or
                INVALID_GOAL or CONTEXT_EXCEEDED where none could ever serve it.
        """
        now, request, whole = self._now(), goal.request, goal.whole
        able = self._able(request, whole)
        usable = [member for member in able if member.is_usable(now)] or [member for member in able if member.is_there]
        if not usable:
            names = ", ".join(self._members) or "no members"
            raise GoalError(ErrorCode.ENGINE_DIED, f"none of {names} can be used now; send the goal again")
        left = [member for member in usable if member.name not in goal.refused_by]
        if not left:
            assert goal.error is not None
            raise goal.error
        report = usable[0].report
        assert report is not None
        if self._dependencies.has_chains:
            self._dependencies.split_budgets(self._tasks(), now, report.latency)
        rest = self._rest(goal)
        return self.policy.rank(left, lambda member: offer(rest, member, self._lengths, now))

    def _able(self, request: GoalRequest, whole: Task) -> list[Member]:
        """Those that can serve a goal, used or not.

        Raises:
            GoalError: there is none, and all have told of themselves.
        """
        tokens = 1 if request.is_default else whole.max_tokens  # of the prompt, nobody here knows how long it is
        lacking = {member.name: member.lacks(request.adapter, request.model, tokens) for member in self._members.values()}
        able = [member for member in self._members.values() if not lacking[member.name]]
        if not able and lacking and all(member.report is not None for member in self._members.values()):
            what = "; ".join(f"{name} {lack}" for name, lack in lacking.items())
            raise GoalError(ErrorCode.INVALID_GOAL, f"no member can serve the goal: {what}")
        return able

    def _rest(self, goal: _Goal) -> Rest:
        """What is left of a goal: the prompt with the text so far, and the tokens that are left."""
        request, whole = goal.request, goal.whole
        so_far = "".join(goal.pieces)
        left = replace(
            request,
            answer_prefix=request.answer_prefix + so_far,
            supersede=False,
            max_tokens=whole.max_tokens - whole.tokens,
            is_default=request.is_default and not request.logprobs,  # what is cut here has none
        )
        return Rest(left, whole, whole.prompt_tokens + whole.tokens)

    def _try(self, goal: _Goal, chosen: Offer) -> None:
        member = chosen.member
        attempt = Attempt(goal.request.goal_id, member, chosen.request, chosen.task, chosen.cached)
        goal.attempts.append(attempt)
        goal.sent += 1
        attempt.remote_id = self._link.send(attempt)
        member.took(attempt.remote_id, attempt.task, self._now())
        member.why = chosen.why
        member.prefixes.note(text_of(chosen.request) + chosen.request.answer_prefix)
        self._emit([Sent(goal.request.goal_id, member.name, chosen.why)])

    def _send_spares(self, member: Member) -> None:
        """Send the goals of a member that says nothing to others as well: whoever speaks first goes on with them."""
        for attempt in self._attempts_at(member):
            goal = self._goals[attempt.goal_id]
            if goal.attempts != [attempt] or not goal.can_go_on:
                continue
            try:
                best = self._ranked(goal)[0]
            except GoalError:
                continue  # it waits on
            goal.speaker = None
            member.moved += 1
            self._try(goal, best)

    def _withdraw(self, goal: _Goal, attempt: Attempt) -> None:
        self._link.withdraw(attempt)
        self._forget(goal, attempt)

    def _forget(self, goal: _Goal, attempt: Attempt) -> None:
        goal.attempts.remove(attempt)
        attempt.member.let_go(attempt.remote_id)

    # ---- learning and ending

    def _learn_prompt(self, goal: _Goal, attempt: Attempt, report: SloReport) -> None:
        attempt.task.prompt_left = 0
        if not goal.whole.tokens:
            self._prompts.observe(goal.request.kind, len(text_of(goal.request)), report.prompt_tokens)
        if report.prompt_tokens:
            attempt.member.prefixes.learn(attempt.expected_share, report.cached_tokens / report.prompt_tokens)

    def _end(self, goal: _Goal, *, reason: FinishReason | None = None, error: GoalError | None = None) -> None:
        """End a goal, and with an error all that wait for it."""
        ends = [(goal, reason, error)]
        while ends:
            goal, reason, error = ends.pop()
            goal_id = goal.request.goal_id
            if self._goals.pop(goal_id, None) is None:
                continue
            self._unsent.pop(goal_id, None)
            for attempt in list(goal.attempts):
                self._withdraw(goal, attempt)
            if goal.speaker is not None and error is None:
                goal.speaker.member.prefixes.note(text_of(goal.request) + "".join(goal.pieces))
            self._emit([_finished(goal, reason=reason, error=error)])
            stranded, failure = self._dependencies.ended(goal_id, succeeded=error is None)
            ends.extend((self._goals[stranded_id], None, failure) for stranded_id in reversed(stranded))
        self._send_unsent()


def _finished(goal: _Goal, *, reason: FinishReason | None = None, error: GoalError | None = None) -> Finished:
    code, message = (ErrorCode.NONE, "") if error is None else (error.code, error.message)
    return Finished(goal.request.goal_id, reason, code, message, goal.whole.report(completed=error is None))


def _with_network(best: Offer) -> Prediction:
    """What a goal can expect of a member, as it will be seen from here."""
    prediction, network_s = best.prediction, best.member.network.expected_s
    return replace(prediction, ttft_s=prediction.ttft_s + network_s, e2e_s=prediction.e2e_s + network_s, is_feasible=best.use <= 1.0)
