"""SLICE as published: utility-maximising selection and a decode-mask matrix of one cycle (arXiv 2510.18544)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, Column, MaskMatrix
from slice_ros.scheduling.policies.base import Limits, PolicyError, next_cell
from slice_ros.scheduling.task import Task


class Slice:
    """Selects by utility rate what fits into a cycle, then scans the cycle's matrix column by column.

    The published algorithm knows rates only: it does not plan prompts, it knows no deadline but through the rate it implies
    (deadline / max_tokens), and it drops the matrix on every arrival and completion.

    Args:
        cycle_s: T, the time that one matrix covers.
        ratio: share of the cycle that selection may fill, the paper's hyper-parameter.

    Raises:
        PolicyError: a parameter is not above 0.
    """

    name = "slice"

    def __init__(self, cycle_s: float = 1.0, ratio: float = 1.0) -> None:
        if cycle_s <= 0.0 or ratio <= 0.0:
            raise PolicyError(f"slice: cycle is {cycle_s} s and ratio {ratio}; both must be above 0")
        self._cycle_s = cycle_s
        self._ratio = ratio

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:  # noqa: ARG002
        rows = self.select(tasks, latency, limits)
        return MaskMatrix(tuple(self._column(rows, j) for j in range(rows[0][1])))

    def ended(self, task: Task, *, completed: bool) -> None:
        pass

    def rate(self, task: Task) -> int:
        """v = floor(T / TPOT), tokens a cycle; a task that asks for no pace gets one."""
        tpot_s = task.needed_tpot_s
        return 1 if tpot_s is None else max(1, math.floor(self._cycle_s / tpot_s + 1e-9))

    def select(self, tasks: Sequence[Task], latency: LatencyModel, limits: Limits) -> list[tuple[Task, int]]:
        """The selected tasks with their rates v, v descending; at least one, so that time never stands still.

        Order: class, then utility rate r = U * TPOT descending, then arrival. Stops at the first task that does not fit the cycle.
        """

        def key(task: Task) -> tuple[bool, float, int]:
            tpot_s = task.needed_tpot_s
            return not task.is_real_time, -task.slo.weight * (self._cycle_s if tpot_s is None else tpot_s), task.order

        taken: list[tuple[Task, int]] = []
        for task in sorted(tasks, key=key)[: limits.max_batch]:
            candidate = sorted([*taken, (task, self.rate(task))], key=lambda row: -row[1])
            if taken and cycle_time_s([v for _, v in candidate], latency) > self._cycle_s * self._ratio + 1e-9:
                break
            taken = candidate
        return taken

    @staticmethod
    def _column(rows: list[tuple[Task, int]], j: int) -> Column:
        # Row i holds v_i ones, packed to the left; its first one carries the prompt.
        return tuple(next_cell(task) if j == 0 else Cell(task.goal_id) for task, v in rows if j < v)


def cycle_time_s(rates: Sequence[int], latency: LatencyModel) -> float:
    """Phi = sum over k of (v_k - v_{k+1}) * l(k), with the rates v in descending order and v_{n+1} = 0."""
    following = [*rates[1:], 0]
    return sum((v - w) * latency.step_s(k) for k, (v, w) in enumerate(zip(rates, following, strict=True), 1))
