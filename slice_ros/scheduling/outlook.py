"""What a task still needs and by when, as planning and admission see it: expected work, due times, slack."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.reasoning import answer_tokens
from slice_ros.scheduling.task import Task

CAUTION = 1.5
"""Standard deviations of what is not known that are left room for."""
RISK = 0.02
"""Share of the answers of a kind that may be shorter than they are taken to be, or longer."""


@dataclass(slots=True, eq=False)
class Outlook:
    """One task at one moment; a plan advances it through the columns to come. Times are the scheduler clock's, in seconds.

    A TPOT bound p judges the mean over all gaps, so the k-th token is due at ``first + (k - 1) * p`` only if it is the last one. Up
    to the length s that answers of its kind hardly fall short of, tokens are due together, at ``first + (s - 1) * p``; then one by one.

    Args:
        task: whose outlook this is.
        tokens: output tokens it has; a plan counts what a step brings on average.
        prompt_left: prompt tokens to compute before its next output token.
        first_s: when its first output token came.
        token_s: time of a step, alone in it.
        prompt_s: what is left of its prompt, as time beyond that of its rows.
        chunk_s: the part of it that does not depend on how much that is.
        kv_tokens: KV tokens that its next step attends to.
        gain: tokens that a step brings to answers of its kind.
        short: s, the length in tokens that it hardly falls short of.
        likely: the length that it falls short of as often as not; one more token where nothing was learnt of its kind.
        long: the length in tokens that it hardly exceeds.
        expected: the length in tokens that it will have in the mean.
        deviation: the standard deviation of that.
        needed: the length in tokens that its bounds are about: the expected one, or 1 where only the first token is due.
        end_s: when it must have that length; infinite where nothing is due any more.
        due_end_s: when its end is due for its deadline and, while that can be kept, for the sake of those that wait for it.
        due_s: when its next tokens are due under TTFT, TPOT and deadline together; infinite without such a bound.
        latest_s: until when it can be left out and be in time, alone in its steps from then on, even if its answer is short for its pace
            and long for its deadline.
        latest_steps: how many steps it needs from then on.
        last_s: the same if its answer is short for its deadline, too.
        hope_s: the same if its answer is as long as suits it best; once it is past, its SLO is out of reach.
        is_real_time: the task's class.
        is_promised: whether the plan keeps its SLO; the others have the time that is left.
        is_pressed: whether it goes by its due time beside the real-time tasks, as it could not wait for them.
        is_crowded: whether it is promised without a pace, where not all that are due can be.
        is_hopeless: whether its SLO is out of reach.
    """

    task: Task
    tokens: float
    prompt_left: int
    first_s: float | None
    token_s: float
    prompt_s: float = 0.0
    chunk_s: float = 0.0
    kv_tokens: int = 0
    gain: float = 1.0
    short: int = 0
    likely: int = 0
    long: int = 0
    expected: float = 0.0
    deviation: float = 0.0
    needed: float = 0.0
    end_s: float = math.inf
    due_end_s: float = math.inf
    due_s: float = math.inf
    latest_s: float = math.inf
    latest_steps: float = 1.0
    last_s: float = math.inf
    hope_s: float = math.inf
    is_real_time: bool = False
    is_promised: bool = False
    is_pressed: bool = False
    is_crowded: bool = False
    is_hopeless: bool = False

    @classmethod
    def bare(cls, task: Task, latency: LatencyModel) -> Outlook:
        """Of a task that no bound matters for."""
        return cls(task, task.tokens, task.prompt_left, None, latency.step_s(1), kv_tokens=task.kv_tokens, is_real_time=task.is_real_time)

    @classmethod
    def of(cls, task: Task, now: float, latency: LatencyModel, lengths: Lengths) -> Outlook:
        slo, tokens, kv_tokens = task.slo, task.tokens, task.kv_tokens
        first_s = task.token_times_s[0] if tokens else None
        token_s = latency.step_s(1, kv_tokens=latency.attended(kv_tokens))
        prompt_s = latency.prompt_s(task.prompt_left, kv_tokens) if task.prompt_left else 0.0
        kind, before, most = task.kind, 0, task.max_tokens
        if task.reasons_in_time and task.is_reasoning:  # it may answer at once
            kind, before, most = task.answer_kind, tokens, max(1, min(most - tokens, answer_tokens(task, lengths)))
        elif task.reasoned:
            kind, before, most = task.answer_kind, task.reasoned, max(1, most - task.reasoned)
        after = tokens - before
        expected, deviation = lengths.expected(kind, after, most)
        expected += before
        short = lengths.at_least(kind, 0, most, RISK)  # of all its kind, not anew with each token
        short = before + (short if short > after else min(after + 1, most))
        likely = before + lengths.at_least(kind, after, most, 0.5)
        job = cls(
            task,
            tokens,
            task.prompt_left,
            first_s,
            token_s,
            prompt_s,
            latency.chunk_s,
            kv_tokens,
            lengths.gain(task.kind),
            short,
            likely,
            before + lengths.at_most(kind, after, most, RISK),
            expected,
            deviation,
            expected,
            due_end_s=task.due_end_s,
            is_real_time=task.is_real_time,
        )
        job._set_due()
        job.end_s, job.hope_s = task.due_end_s, job.last_s
        if slo.tpot_s is not None:
            last_s = (now + prompt_s + token_s if first_s is None else first_s) + slo.tpot_s * (expected - 1)
            job.end_s = min(job.end_s, last_s)
            if first_s is not None:  # while it decodes faster than it must, a longer answer has time to catch up
                job.hope_s = min(task.due_end_s - job._until(short), max(job.latest_s, last_s - job._until(expected)))
        if job.end_s == math.inf and job.due_s < math.inf:
            job.needed, job.end_s, job.deviation = 1.0, job.due_s, 0.0
        if task.followers_due_s < job.due_end_s and now + job._until(likely) <= task.followers_due_s:
            job.due_end_s = task.followers_due_s
            job._set_due()
        return job

    @property
    def work_s(self) -> float:
        """Time to its expected end, alone in its steps."""
        return self._until(self.expected)

    @property
    def needed_s(self) -> float:
        """Time to the length that its bounds are about, alone in its steps."""
        return self._until(self.needed)

    def advance(self, prompt_tokens: int, now: float) -> None:
        """It took part in a step that ends at ``now``, with so many prompt tokens."""
        self.kv_tokens += max(1, prompt_tokens)
        if prompt_tokens:
            left = self.prompt_left - prompt_tokens
            left_s = self.chunk_s + (self.prompt_s - self.chunk_s) * left / self.prompt_left if left else 0.0
            self.hope_s += self.prompt_s - left_s
            self.prompt_s, self.prompt_left = left_s, left
        if not self.prompt_left:
            self.tokens += self.gain
            self.hope_s += self.token_s
            if self.first_s is None:
                self.first_s = now
        self._set_due()

    def steps_to(self, length: float) -> float:
        """Steps until it has that many tokens: one for the next, at least."""
        left = length - self.tokens
        return left if self.gain == 1.0 else max(left / self.gain, min(1.0, left))

    def _until(self, length: float) -> float:
        """Time until it has that many tokens, alone in its steps."""
        return self.prompt_s + self.token_s * self.steps_to(length)

    def _set_due(self) -> None:
        """Find out by when what comes next is due, and until when it can be left out for that."""
        slo, end_s, after_next = self.task.slo, self.due_end_s, self.tokens + 1
        pace_length = after_next
        if self.first_s is None:
            first_s = self.task.first_due_s
            self.due_s, pace_s = min(end_s, first_s), math.inf if first_s == math.inf else first_s - self._until(after_next)
        elif slo.tpot_s is not None:
            pace_length = max(self.short, after_next)
            last_s = self.first_s + slo.tpot_s * (pace_length - 1)
            self.due_s, pace_s = min(end_s, last_s), last_s - self._until(pace_length)
        else:
            self.due_s, pace_s = end_s, math.inf
        self.latest_s = self.last_s = pace_s
        self.latest_steps = self.steps_to(pace_length)
        if end_s < math.inf:
            self.last_s = min(end_s - self._until(max(self.short, after_next)), pace_s)
            long = max(self.long, after_next)
            if (long_s := end_s - self._until(long)) < pace_s:
                self.latest_s, self.latest_steps = long_s, self.steps_to(long)
