"""What a task still needs and by when, as planning and admission see it: expected work, due times, slack."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slice_ros.latency import LatencyModel
from slice_ros.lengths import Lengths
from slice_ros.task import Task

SHORT_RISK = 0.1
"""An answer is taken to reach the length that this share of its kind falls short of."""


@dataclass(slots=True, eq=False)
class Outlook:
    """One task at one moment; a plan advances it through the columns to come. Times are the scheduler clock's, in seconds.

    A TPOT bound p judges the mean over all gaps, so the k-th token is due at ``first + (k - 1) * p`` only if it is the last one. Up
    to the length s that answers of its kind hardly fall short of, tokens are due together, at ``first + (s - 1) * p``; then one by one.

    Args:
        task: whose outlook this is.
        tokens: output tokens it has.
        prompt_left: prompt tokens to compute before its next output token.
        first_s: when its first output token came.
        short: s, the length in tokens that it hardly falls short of.
        expected: the length in tokens that it will have in the mean.
        kv_tokens: KV tokens its next step attends to.
        prompt_s: what is left of its prompt, as time beyond that of its rows.
        work_s: time to its expected end, alone in its steps.
        due_s: when its next tokens are due under TTFT, TPOT and deadline together; infinite without such a bound.
        end_s: when its last token is due if it comes to its expected length; infinite without such a bound.
        slack_s: how long it can be left out and still be in time, alone in its steps from then on, even if its answer is short.
        is_real_time: the task's class.
        is_hopeless: whether its SLO is out of reach, even alone in its steps from now on.
        is_promised: whether the plan keeps its SLO; the others have the time that is left.
    """

    task: Task
    tokens: int
    prompt_left: int
    first_s: float | None
    short: int = 0
    expected: float = 0.0
    kv_tokens: int = 0
    prompt_s: float = 0.0
    work_s: float = 0.0
    due_s: float = math.inf
    end_s: float = math.inf
    slack_s: float = math.inf
    is_real_time: bool = False
    is_hopeless: bool = False
    is_promised: bool = False

    @classmethod
    def bare(cls, task: Task) -> Outlook:
        """Of a task that no bound matters for."""
        return cls(task, task.tokens, task.prompt_left, None, kv_tokens=task.kv_tokens)

    @classmethod
    def of(cls, task: Task, now: float, latency: LatencyModel, lengths: Lengths) -> Outlook:
        slo, tokens = task.slo, task.tokens
        kv_tokens = task.kv_tokens
        token_s = latency.step_s(1, kv_tokens=kv_tokens)
        prompt_s = latency.prompt_s(task.prompt_left) if task.prompt_left else 0.0
        start_s = now + prompt_s
        short = lengths.at_least(task.kind, tokens, task.max_tokens, SHORT_RISK)
        expected = lengths.expected(task.kind, tokens, task.max_tokens)
        short_at_s = start_s + token_s * (short - tokens)  # when it has that many tokens, alone from now on
        expected_at_s = start_s + token_s * (expected - tokens)

        end_s = task.due_end_s
        slack_s = hope_s = end_s - short_at_s
        first_s = None
        if tokens:
            first_s = task.token_times_s[0]
            if slo.tpot_s is not None:
                last_s = first_s + slo.tpot_s * (expected - 1)
                short_slack_s = first_s + slo.tpot_s * (short - 1) - short_at_s
                end_s = min(end_s, last_s)
                slack_s = min(slack_s, short_slack_s)
                hope_s = min(hope_s, max(short_slack_s, last_s - expected_at_s))  # a longer answer has time to catch up
        else:
            if slo.tpot_s is not None:
                end_s = min(end_s, start_s + token_s + slo.tpot_s * (expected - 1))
            if slo.ttft_s is not None:
                hope_s = min(hope_s, task.arrival_s + slo.ttft_s - start_s - token_s)
                slack_s = min(slack_s, hope_s)
        job = cls(
            task, tokens, task.prompt_left, first_s, short, expected, kv_tokens, prompt_s, expected_at_s - now,
            math.inf, end_s, slack_s, task.is_real_time, hope_s < 0.0,
        )  # fmt: skip
        job._set_due()
        return job

    def advance(self, prompt_tokens: int, now: float) -> None:
        """It took part in a step that ends at ``now``, with so many prompt tokens."""
        self.prompt_left -= prompt_tokens
        self.kv_tokens += max(1, prompt_tokens)
        if self.prompt_left > 0:
            return
        self.tokens += 1
        if self.first_s is None:
            self.first_s = now
        self._set_due()

    def _set_due(self) -> None:
        task, slo = self.task, self.task.slo
        self.due_s = task.due_end_s
        if self.first_s is None:
            if slo.ttft_s is not None:
                self.due_s = min(self.due_s, task.arrival_s + slo.ttft_s)
        elif slo.tpot_s is not None:
            self.due_s = min(self.due_s, self.first_s + slo.tpot_s * (max(self.short, self.tokens + 1) - 1))
