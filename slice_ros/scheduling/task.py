"""One goal's life in the scheduler: how far it is, when its tokens came, and the verdict on its SLO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from slice_ros.goal import GoalRequest
from slice_ros.scheduling.drafts import Tally
from slice_ros.slo import Slo


class SloReport(NamedTuple):  # one is made for every token, and as a tuple it costs a third
    """What a goal experienced; times in seconds since submission, NaN where not (yet) known. Fields as in ``msg/SloReport.msg``."""

    attained: bool = False
    ttft_met: bool = False
    tpot_met: bool = False
    deadline_met: bool = False
    ttft_s: float = math.nan
    tpot_s: float = math.nan
    e2e_s: float = math.nan
    queue_s: float = math.nan
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0
    predicted_ttft_s: float = math.nan
    predicted_tpot_s: float = math.nan
    predicted_e2e_s: float = math.nan


class TaskState(NamedTuple):
    """How far a task is, as others may know it who predict with it; ages in seconds, fields else as in ``Task``.

    Args:
        age_s: since its submission.
        first_age_s: since its first output token; NaN = there is none.
    """

    goal_id: str
    slo: Slo
    kind: str
    adapter: str
    max_tokens: int
    prompt_tokens: int
    prompt_left: int
    tokens: int
    age_s: float
    first_age_s: float


@dataclass(slots=True, eq=False)
class Task:
    """A goal that the scheduler holds. Times are readings of the scheduler's clock, in seconds.

    Args:
        goal_id: the goal's id.
        slo: its bounds.
        kind: label or class name; tasks of one kind share what is learnt of output lengths.
        max_tokens: output tokens at most; how many it will really be, nobody knows.
        prompt_tokens: length of its prompt.
        arrival_s: when the goal was submitted.
        order: position in the order of arrival.
        lead: tokens of its answer that are certain beforehand; they are computed with the prompt.
        ends_on_miss: whether it is ended once its SLO cannot be met any more.
        prompt_left: tokens still to compute before it can decode, if there are several: of its prompt and lead; the latest and those that
            it forced; or all of them again after an eviction.
        computed_tokens: prompt tokens and decodes computed for it so far, those that were computed again included.
        token_times_s: when each output token was produced.
        steps: steps that brought output tokens.
        drafts: how those of its answer fared.
        adapter: LoRA adapter it is computed with; a step holds tasks with one adapter only.
        reasons_in_time: whether its reasoning ends so that there is time for an answer before its deadline.
        is_reasoning: whether its next token is one of its reasoning.
        reasoned: output tokens up to the end of its reasoning.
        hung_up: its client hung up with some of its answer, and in time.
        started_s: when its first step began.
        is_decoding: whether what is left are the latest token and those that it forced.
        chain_due_s: when the last goal of its chain is due; infinite without a chain deadline.
        budget_due_s: when its own end is due so that the chain's can be kept; the scheduler moves it on.
        followers_due_s: when it is due so that those that wait for it can be in time; infinite if none has a deadline.
        followers: those that wait for it.
        predicted_ttft_s, predicted_tpot_s, predicted_e2e_s: what was predicted at its submission; NaN if nothing was.
    """

    goal_id: str
    slo: Slo
    kind: str
    max_tokens: int
    prompt_tokens: int
    arrival_s: float
    order: int = 0
    lead: int = 0
    ends_on_miss: bool = field(init=False)
    prompt_left: int = field(init=False)
    cached_tokens: int = 0
    computed_tokens: int = 0
    token_times_s: list[float] = field(default_factory=list)
    steps: int = 0
    drafts: Tally = field(default_factory=Tally)
    started_s: float | None = None
    is_open: bool = False
    is_decoding: bool = False
    adapter: str = ""
    reasons_in_time: bool = False
    is_reasoning: bool = False
    reasoned: int = 0
    hung_up: bool = False
    chain_due_s: float = math.inf
    budget_due_s: float = math.inf
    followers_due_s: float = math.inf
    followers: Sequence[Task] = ()
    predicted_ttft_s: float = math.nan
    predicted_tpot_s: float = math.nan
    predicted_e2e_s: float = math.nan

    def __post_init__(self) -> None:
        self.ends_on_miss = self.slo.ends_on_miss
        self.prompt_left = self.known_tokens

    @classmethod
    def of(cls, request: GoalRequest, prompt_tokens: int, order: int, lead: int = 0) -> Task:
        task = cls(request.goal_id, request.slo, request.kind, request.max_tokens, prompt_tokens, request.submitted_s, order, lead)
        task.adapter = request.adapter
        task.reasons_in_time = task.is_reasoning = request.reasoning == "deadline"
        return task

    @classmethod
    def from_state(cls, state: TaskState, now: float) -> Task:
        """A task that is as far as that was ``now``, as far as predictions need it: of its tokens only the first one's time is known."""
        task = cls(state.goal_id, state.slo, state.kind, state.max_tokens, state.prompt_tokens, now - state.age_s)
        task.adapter, task.prompt_left = state.adapter, state.prompt_left
        if state.tokens:
            task.token_times_s = [now - state.first_age_s] * state.tokens
        return task

    def state(self, now: float) -> TaskState:
        """How far it is."""
        return TaskState(
            self.goal_id,
            self.slo,
            self.kind,
            self.adapter,
            self.max_tokens,
            self.prompt_tokens,
            self.prompt_left,
            self.tokens,
            now - self.arrival_s,
            now - self.token_times_s[0] if self.token_times_s else math.nan,
        )

    @property
    def is_real_time(self) -> bool:
        return self.slo.is_real_time

    @property
    def answer_kind(self) -> str:
        """What is learnt of its answers without the reasoning is known under this name."""
        return f"{self.kind}, after reasoning"

    @property
    def tokens(self) -> int:
        """Output tokens so far."""
        return len(self.token_times_s)

    @property
    def known_tokens(self) -> int:
        """Tokens whose KV can be computed: prompt and answer so far, or the lead."""
        return self.prompt_tokens + max(self.lead, self.tokens)

    @property
    def kv_tokens(self) -> int:
        """KV cells it holds while open."""
        return self.known_tokens - self.prompt_left

    @property
    def needed_tpot_s(self) -> float | None:
        """Its TPOT bound, or the pace its deadline asks for if it starts at once; ``None`` without either."""
        if self.slo.tpot_s is not None:
            return self.slo.tpot_s
        return None if self.slo.deadline_s is None else self.slo.deadline_s / self.max_tokens

    @property
    def due_end_s(self) -> float:
        """When its end is due under its deadline and its share of a chain's; infinite without both."""
        deadline_s = self.slo.deadline_s
        return self.budget_due_s if deadline_s is None else min(self.arrival_s + deadline_s, self.budget_due_s)

    @property
    def first_due_s(self) -> float:
        """When its first token is due; infinite without a bound on it, or once it is there."""
        return math.inf if self.slo.ttft_s is None or self.token_times_s else self.arrival_s + self.slo.ttft_s

    @property
    def is_settled(self) -> bool:
        """Whether nothing is due any more: its SLO asks for nothing, or for a first token that it has."""
        return self.slo.tpot_s is None and self.due_end_s == self.first_due_s == math.inf

    def is_lost(self, now: float) -> bool:
        """Whether no future can meet its SLO any more, however fast its remaining tokens come."""
        slo = self.slo
        if now > self.chain_due_s or (slo.deadline_s is not None and now > self.arrival_s + slo.deadline_s):
            return True
        if not self.token_times_s:
            return slo.ttft_s is not None and now > self.arrival_s + slo.ttft_s
        first = self.token_times_s[0]
        if slo.ttft_s is not None and first - self.arrival_s > slo.ttft_s:
            return True
        return slo.tpot_s is not None and now > first + slo.tpot_s * (self.max_tokens - 1)

    def report(self, *, completed: bool) -> SloReport:
        """The figures so far, and the verdict; attained needs a completed goal that met every bound it asked for.

        A goal that ends after its chain is due has missed its deadline: so has the chain, whose last goal ends no earlier.
        """
        slo, times, arrival_s = self.slo, self.token_times_s, self.arrival_s
        ttft_s = tpot_s = e2e_s = math.nan
        count, is_late = len(times), False
        if count:
            first_s, last_s = times[0], times[-1]
            ttft_s, e2e_s, is_late = first_s - arrival_s, last_s - arrival_s, last_s > self.chain_due_s
            if count > 1:
                tpot_s = (last_s - first_s) / (count - 1)
        ttft_met = slo.ttft_s is None or ttft_s <= slo.ttft_s
        tpot_met = slo.tpot_s is None or count == 1 or tpot_s <= slo.tpot_s  # one token has no gap to judge
        deadline_met = (slo.deadline_s is None or e2e_s <= slo.deadline_s) and not is_late
        return SloReport(
            completed and ttft_met and tpot_met and deadline_met,
            ttft_met,
            tpot_met,
            deadline_met,
            ttft_s,
            tpot_s,
            e2e_s,
            math.nan if self.started_s is None else self.started_s - arrival_s,
            self.prompt_tokens,
            self.cached_tokens,
            count,
            self.steps,
            self.predicted_ttft_s,
            self.predicted_tpot_s,
            self.predicted_e2e_s,
        )
