"""FastServe: preemptive scheduling with a skip-join multi-level feedback queue (Wu et al., 2023). Second baseline of the SLICE paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slice_ros.latency.model import LatencyModel
from slice_ros.mask import MaskMatrix
from slice_ros.scheduling.policies.base import Limits, next_cell
from slice_ros.scheduling.task import Task


@dataclass(slots=True)
class _Place:
    """A task's level, the tokens it may still have there, and since when it waits."""

    level: int
    quantum_left: int
    tokens_seen: int
    waiting_since_s: float


class FastServe:
    """The best ``max_batch`` tasks by (level, arrival) take part in each step.

    Args:
        first_quantum: output tokens a task may have on level 0; doubles with every level.
        levels: number of levels.
        starvation_s: a task that has waited this long without a step goes back to level 0.
    """

    name = "fastserve"

    def __init__(self, first_quantum: int = 4, levels: int = 6, starvation_s: float = 10.0) -> None:
        self._first_quantum = first_quantum
        self._levels = levels
        self._starvation_s = starvation_s
        self._places: dict[str, _Place] = {}

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:
        for task in tasks:
            self._update(task, now, latency)
        ranked = sorted(tasks, key=lambda task: (self._places[task.goal_id].level, task.order))
        chosen = ranked[: limits.max_batch]
        for task in chosen:
            self._places[task.goal_id].waiting_since_s = now
        return MaskMatrix((tuple(next_cell(task) for task in chosen),))

    def ended(self, task: Task, *, completed: bool) -> None:  # noqa: ARG002
        self._places.pop(task.goal_id, None)

    def _update(self, task: Task, now: float, latency: LatencyModel) -> None:
        place = self._places.get(task.goal_id)
        if place is None:
            # Skip-join: straight to the level whose quantum is worth the task's prompt.
            prefill_tokens = (latency.step_s(1) + latency.prompt_s(task.prompt_left)) / latency.step_s(1)
            level = 0
            while level < self._levels - 1 and self._quantum(level) < prefill_tokens:
                level += 1
            self._places[task.goal_id] = _Place(level, self._quantum(level), task.tokens, now)
            return
        place.quantum_left -= task.tokens - place.tokens_seen
        place.tokens_seen = task.tokens
        if place.quantum_left <= 0 and place.level < self._levels - 1:
            place.level += 1
            place.quantum_left = self._quantum(place.level)
        if place.level > 0 and now - place.waiting_since_s > self._starvation_s:
            place.level = 0
            place.quantum_left = self._quantum(0)
            place.waiting_since_s = now

    def _quantum(self, level: int) -> int:
        return self._first_quantum << level
