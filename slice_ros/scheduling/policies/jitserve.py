"""JITServe, first called Tempo: the goals with the most reward per second of work left, of similar length, run for a while.

Zhang et al., arXiv 2504.20068, NSDI 2026; its public code is ``jitserve/scheduler`` of JITServe.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, MaskMatrix
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.policies.base import Limits, chunked
from slice_ros.scheduling.task import Task

EVERY_STEPS = 50
"""Who runs is chosen anew after so many steps."""
DECODE_WEIGHT = 8.0
"""An output token's reward, that of a prompt token being 1."""
PENALTY = 1.0
"""Exponent of how much too late a reward comes."""
LENGTH_RISK = 0.05
"""Predicted lengths are exceeded with this probability."""
FIRST_STEP_S = 0.02
"""Mean time of a step, before any was measured."""
SHORTEST_STEP_S = 1e-6
"""No step takes less, also where nothing passes on the clock between plans."""
INTERVALS = 10
"""Choices whose step times make the mean."""
CANDIDATES = 4
"""Of so many times the batch limit, the best ones, those that run are chosen."""
SWAPS = 4
"""Running tasks that give way at most when they are chosen."""
STEP_TOKENS = 512
"""Decodes and prompt tokens of a step together."""


class JitServe:
    """Running tasks take part in every step, decodes first, prompts in chunks; free places go to the best by reward density.

    - *Density.* reward / (predicted tokens left * mean step time). Of a streamed answer (with TTFT or TPOT) the prompt's reward counts by
      TTFT and that of its tokens by the time of its end; of another one all counts by its deadline. What comes late counts
      ``bound / predicted time``.
    - *Groups.* Every ``EVERY_STEPS`` steps the ``CANDIDATES`` * batch limit best are sorted by length and cut into groups; the group
      with the most density runs. Tasks of other lengths give way to it, ``SWAPS`` at most.
    - *Lengths* are upper quantiles, refined as tokens come.

    Put in its place: quantiles of the lengths that answers of the kind had, for a quantile regression forest over prompts; the reward times
    the goal's utility, since the paper leaves rewards to the operator, so that a real-time goal counts 100 times a best-effort one;
    ``CANDIDATES``, ``SWAPS`` and ``STEP_TOKENS`` are ours, as their values are not in the public scheduler; ``DECODE_WEIGHT`` is that of
    streamed answers, and counts for the others as well. Goals of a chain count one by one, by their
    share of the chain's deadline.
    """

    name = "jitserve"

    def __init__(self) -> None:
        self._lengths = Lengths()
        self._steps = 0
        self._chosen_at_s: float | None = None
        self._intervals_s = deque([FIRST_STEP_S], maxlen=INTERVALS)
        self._densities: dict[str, float] = {}
        self._running: list[str] = []

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:  # noqa: ARG002
        in_hand = {task.goal_id: task for task in tasks}
        self._running = [goal_id for goal_id in self._running if goal_id in in_hand][: limits.max_batch]
        self._steps += 1
        if self._steps % EVERY_STEPS == 0:
            if self._chosen_at_s is not None:
                self._intervals_s.append((now - self._chosen_at_s) / EVERY_STEPS)
            self._chosen_at_s = now
            self._densities.clear()
            self._choose(tasks, now, limits)
        waiting = [task for task in tasks if task.goal_id not in self._running]
        if places := limits.max_batch - len(self._running):
            best = sorted(waiting, key=lambda task: (-self._density(task, now), task.order))
            self._running += [task.goal_id for task in best[:places]]
        return MaskMatrix((_column([in_hand[goal_id] for goal_id in self._running], limits),))

    def ended(self, task: Task, *, completed: bool) -> None:
        self._densities.pop(task.goal_id, None)
        if completed:
            self._lengths.observe(task.kind, task.tokens, task.steps)

    def _choose(self, tasks: Sequence[Task], now: float, limits: Limits) -> None:
        """Let the best group run in place of tasks of other lengths."""
        best = sorted(tasks, key=lambda task: (-self._density(task, now), task.order))[: CANDIDATES * limits.max_batch]
        best.sort(key=_length)
        size = max(limits.max_batch, len(best) // CANDIDATES)
        groups = [best[first : first + size] for first in range(0, len(best), size)]
        group = max(groups, key=lambda group: sum(self._density(task, now) for task in group))
        shortest, longest = _length(group[0]), _length(group[-1])
        running = [task for task in tasks if task.goal_id in self._running]
        others = [task.goal_id for task in running if not shortest <= _length(task) <= longest]
        coming = [task.goal_id for task in group if task.goal_id not in self._running]
        free = limits.max_batch - len(self._running)
        for leaving in others[: min(SWAPS, max(0, len(coming) - free))]:
            self._running.remove(leaving)
        self._running += coming[: limits.max_batch - len(self._running)]

    def _density(self, task: Task, now: float) -> float:
        """Reward per second of work left, as of the latest choice or of the task's arrival, if that was later."""
        if task.goal_id not in self._densities:
            slo = task.slo
            predicted = self._lengths.at_most(task.kind, task.tokens, task.max_tokens, LENGTH_RISK)
            left = max(predicted - task.tokens, 1)
            step_s = max(SHORTEST_STEP_S, sum(self._intervals_s) / len(self._intervals_s))
            left_s, waited_s = step_s * left, now - task.arrival_s
            bound_s = task.due_end_s - task.arrival_s
            if slo.tpot_s is not None:
                bound_s = min(bound_s, (slo.ttft_s or 0.0) + slo.tpot_s * predicted)
            tokens_reward = DECODE_WEIGHT * _in_time(bound_s, waited_s + left_s)
            if task.tokens:
                reward = DECODE_WEIGHT + tokens_reward * left
            elif slo.ttft_s is not None:
                reward = task.prompt_tokens * _in_time(slo.ttft_s, waited_s + step_s) + tokens_reward * predicted
            else:
                reward = task.prompt_tokens * _in_time(bound_s, waited_s + left_s) + tokens_reward * predicted
            self._densities[task.goal_id] = slo.weight * reward / left_s
        return self._densities[task.goal_id]


def _in_time(bound_s: float, predicted_s: float) -> float:
    """What is left of a reward."""
    return 1.0 if bound_s == math.inf else max(1e-6, min(1.0, bound_s / max(predicted_s, 1e-9))) ** PENALTY


def _length(task: Task) -> int:
    return task.prompt_tokens + task.tokens


def _column(tasks: Sequence[Task], limits: Limits) -> tuple[Cell, ...]:
    """Decodes, then as much of the prompts as the budget leaves."""
    budget = min(STEP_TOKENS, limits.max_step_tokens)
    return chunked(sorted(tasks, key=lambda task: task.prompt_left > 0)[:budget], budget)
