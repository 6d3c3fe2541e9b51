"""Plain priorities, as LLM servers offer them: the class first, then arrival. The baseline that answers "why not just priorities?"."""

from __future__ import annotations

from collections.abc import Sequence

from slice_ros.latency.model import LatencyModel
from slice_ros.mask import MaskMatrix
from slice_ros.scheduling.policies.base import Limits, chunked
from slice_ros.scheduling.task import Task

STEP_TOKENS = 512
"""Tokens a step at most, decodes and prompts together: longer prompts are computed in chunks (vLLM's ``max_num_batched_tokens``, by default
512 when it brought chunks, and more since: of what was made for QoServe, 2048 keeps up to 0.04 more)."""


class Priority:
    """The first ``max_batch`` tasks by (class, arrival) take part in each step, under a token budget.

    Real-time tasks come first, and displace best-effort ones at the batch limit, where vLLM lets those that run go on. Decodes go before
    prompts within the budget, so that a long prompt stalls nobody for longer than a step. It knows neither due times nor step times.

    Args:
        step_tokens: decodes and prompt tokens of a step together.
    """

    name = "priority"

    def __init__(self, step_tokens: int = STEP_TOKENS) -> None:
        self._step_tokens = step_tokens

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:  # noqa: ARG002
        budget = min(self._step_tokens, limits.max_step_tokens)
        chosen = sorted(tasks, key=lambda task: (not task.is_real_time, task.order))[: min(limits.max_batch, budget)]
        return MaskMatrix((chunked(chosen, budget),))

    def ended(self, task: Task, *, completed: bool) -> None:
        pass
