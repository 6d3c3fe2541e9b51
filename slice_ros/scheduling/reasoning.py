"""When a model that reasons has to begin its answer, so that the goal meets its deadline. Pure functions of what the scheduler knows."""

from __future__ import annotations

import math

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.lengths import PRIOR_SHARES, Lengths
from slice_ros.scheduling.task import Task

LONGER_RISK = 0.1
"""Share of answers that may turn out longer than there is time for."""
LATEST = 8
"""A goal's own pace is that of so many of its latest tokens."""
CLOSING_STEPS = 3
"""The step that ends the block, the one that computes its end and draws the first token of the answer, and one to look again."""


def answer_tokens(task: Task, lengths: Lengths) -> int:
    """How long the answer after the block will hardly be more than; of a kind that nothing is known of, a quarter of ``max_tokens``."""
    if not lengths.knows(task.answer_kind):
        return math.ceil(PRIOR_SHARES[0] * task.max_tokens)
    return lengths.at_most(task.answer_kind, 0, task.max_tokens, LONGER_RISK)


def must_answer(task: Task, now: float, others: int, latency: LatencyModel, lengths: Lengths) -> bool:
    """Whether a goal has just so many steps left before its deadline, or tokens, as the end of its block and its answer take.

    A step is taken to be as long as its latest ones were apart, with all waiting for others in it, but no shorter than one with all goals.

    Args:
        others: goals in hand that may be in its steps.
    """
    tokens = answer_tokens(task, lengths)
    if task.max_tokens - task.tokens <= tokens + CLOSING_STEPS:
        return True
    times_s = task.token_times_s[-LATEST - 1 :]
    pace_s = latency.step_s(1 + others, kv_tokens=latency.attended(task.kv_tokens))
    if len(times_s) > 1:
        pace_s = max(pace_s, (times_s[-1] - times_s[0]) / (len(times_s) - 1))
    return now + pace_s * (CLOSING_STEPS + tokens / lengths.gain(task.answer_kind)) >= task.due_end_s
