"""What the scheduler asks of a policy."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, Column, MaskMatrix
from slice_ros.scheduling.task import Task


class PolicyError(ValueError):
    """No such policy, or a policy's parameter is out of range."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step can hold, and the KV cache beside it.

    Args:
        max_batch: goals in one step at most.
        max_step_tokens: prompt tokens and decodes together.
        cells: KV cells of all goals that have begun.
        sequences: goals that can have begun, so that they hold cells.
        max_draft: tokens guessed ahead for one goal; 0 = none.
    """

    max_batch: int = 16
    max_step_tokens: int = 512
    cells: int = sys.maxsize
    sequences: int = sys.maxsize
    max_draft: int = 0

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_step_tokens", "cells", "sequences"):
            if getattr(self, name) < 1:
                raise PolicyError(f"{name} is {getattr(self, name)}; it must be 1 or more")


def narrowed(limits: Limits, tasks: Iterable[Task]) -> Limits:
    """The limits of steps that can only hold tasks of one adapter: no more rows than the most common of several has tasks."""
    counts = Counter(task.adapter for task in tasks)
    return limits if len(counts) < 2 else replace(limits, max_batch=min(limits.max_batch, max(counts.values())))


class Policy(Protocol):
    """Answers every question with a mask matrix."""

    @property
    def name(self) -> str: ...

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:
        """The coming steps.

        Args:
            tasks: every goal that wants tokens, in order of arrival; not empty.
            now: the clock's reading, in seconds.
            latency: predicts steps.
            limits: no column may exceed them.

        Returns:
            A matrix with at least one column, none of them empty. The scheduler asks again at its end, and earlier when a goal
            arrives, ends or is canceled, or when steps take longer or shorter than predicted.
        """

    def ended(self, task: Task, *, completed: bool) -> None:
        """A task is gone; with ``completed`` its number of output tokens is its true length."""


def chunked(tasks: Sequence[Task], budget: int) -> Column:
    """A cell for each task, and then as much of their prompts, in this order, as the tokens of a step leave."""
    spare, cells = budget - len(tasks), []
    for task in tasks:
        chunk = min(task.prompt_left, 1 + spare)
        spare -= max(0, chunk - 1)
        cells.append(Cell(task.goal_id, chunk))
    return tuple(cells)


def next_cell(task: Task) -> Cell:
    """The cell that carries a task furthest: its whole remaining prompt, or one decode."""
    return Cell(task.goal_id, task.prompt_left)
