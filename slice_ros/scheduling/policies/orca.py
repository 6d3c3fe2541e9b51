"""Orca: iteration-level continuous batching, first come, first served (Yu et al., OSDI 2022). The baseline of the SLICE paper."""

from __future__ import annotations

from collections.abc import Sequence

from slice_ros.latency.model import LatencyModel
from slice_ros.mask import MaskMatrix
from slice_ros.scheduling.policies.base import Limits, next_cell
from slice_ros.scheduling.task import Task


class Orca:
    """Every running task takes part in every step; a free place goes to the task that has waited longest.

    As places are given in order of arrival and kept to the end, the running tasks are always the earliest ones.
    """

    name = "orca"

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:  # noqa: ARG002
        return MaskMatrix((tuple(next_cell(task) for task in tasks[: limits.max_batch]),))

    def ended(self, task: Task, *, completed: bool) -> None:
        pass
