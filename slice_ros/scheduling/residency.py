"""Who holds KV cells: how many are left to claim, and who gives way. Pure functions of what the scheduler knows."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.task import Task

COPY_SHARE = 0.1
"""Share of the real-time tasks' slack that copies between KV cache and host memory may take, ..."""
WAITING_SHARE = 0.5
"""Share of its time for which a goal waits to be begun where cells are scarce."""
LONGEST_COPY_S = 0.1
"""... and how long they may take at most, as a real-time goal may arrive meanwhile."""


def claim(task: Task) -> int:
    """KV cells that a task can come to hold: its prompt and the longest answer it may have."""
    return task.prompt_tokens + task.max_tokens


def unclaimed(total: int, held: int, holders: Iterable[Task]) -> int:
    """KV cells that are left of ``total`` when every holder of the ``held`` ones grows to its claim."""
    return total - held - sum(claim(task) - task.kv_tokens for task in holders)


def held_back(tasks: Sequence[Task], now: float, most_rows: int, cells: int) -> frozenset[str]:
    """Ids of best-effort tasks that are not begun for now: cells are too few for all in hand, and as many are begun as steps have rows.

    No more would decode at once, but the cells of one more may be missed by somebody whose first token is due soon. Those can wait that
    are not begun, of which no first token is due by itself, and half of whose time is still to come.
    """
    if sum(task.is_open for task in tasks) < most_rows or sum(claim(task) for task in tasks) <= cells:
        return frozenset()
    return frozenset(task.goal_id for task in tasks if not task.is_real_time and _can_wait(task, now))


def _can_wait(task: Task, now: float) -> bool:
    if task.is_open or task.tokens or task.slo.ttft_s is not None:
        return False
    return now - task.arrival_s < WAITING_SHARE * (task.due_end_s - task.arrival_s)


class Room:
    """KV cells and sequences that are left for tasks to be opened: what no open one claims, unless its SLO is lost.

    Best-effort tasks that nothing is due of any more give way to those of which something is.

    Args:
        tasks: those in hand.
        cells, sequences: that there are.
        held_back: ids of tasks that are not opened for now, and need no room.
    """

    def __init__(self, tasks: Iterable[Task], now: float, cells: int, sequences: int, held_back: Collection[str] = ()) -> None:
        self._cells, self._sequences = cells, sequences
        self._settled_cells = self._settled = 0
        self._now = now
        self._held_back = held_back
        for task in tasks:
            if not task.is_open or task.is_lost(now):
                continue
            self.take(task)
            if task.is_settled and not task.is_real_time:
                self._settled_cells += claim(task)
                self._settled += 1

    def take(self, task: Task) -> None:
        """Open it in any case."""
        if task.goal_id in self._held_back:
            return
        self._cells -= claim(task)
        self._sequences -= 1

    def has(self, task: Task) -> bool:
        """Whether it is open or held back, or there is room to open it with none giving way but settled ones, if its SLO can be met."""
        if task.is_open or task.goal_id in self._held_back:
            return True
        if task.is_settled or task.is_lost(self._now):
            return claim(task) <= self._cells and self._sequences > 0
        return claim(task) <= self._cells + self._settled_cells and self._sequences + self._settled > 0


def victims(
    holders: Iterable[Task], members: Collection[str], opener: Task, now: float, planned: Collection[str] = frozenset()
) -> list[Task]:
    """Open tasks that may be evicted for another one, in the order in which they give way.

    Best-effort tasks come first, of them those whose SLO is lost or of which nothing is due any more, then the youngest before the oldest;
    real-time ones last, and never for a best-effort one.

    Args:
        holders: the open tasks.
        members: ids of tasks that are needed in this step; they stay.
        opener: who needs the cells.
        planned: ids of tasks that are needed in other steps of the plan. They stay as well, but for a real-time opener's sake where they
            are not real-time: else two steps of a plan could take the cells from each other for ever.
    """

    def may_go(task: Task) -> bool:
        if task.goal_id in members or (task.is_real_time and not opener.is_real_time):
            return False
        return task.goal_id not in planned or (opener.is_real_time and not task.is_real_time)

    return sorted(filter(may_go, holders), key=lambda task: (task.is_real_time, not (task.is_lost(now) or task.is_settled), -task.order))


def first_to_go(holders: Sequence[Task], members: Sequence[str]) -> Task:
    """Who is evicted when a step finds no room, so that the others can take it: never the only one in the step.

    Args:
        holders: the open tasks, two or more.
        members: ids of those in the step, one or more.
    """
    may = (task for task in holders if [task.goal_id] != list(members))
    return min(may, key=lambda task: (task.is_real_time, task.goal_id in members, -task.order))


def is_worth_copying(tokens: int, token_s: float, latency: LatencyModel) -> bool:
    """Whether so many tokens' KV is copied out and back sooner than it is computed again.

    Where prompts take long, on a CPU, it always is; a GPU may compute them sooner than their cells come back from host memory.

    Args:
        token_s: how long a token's copy takes, in one direction.
    """
    return 2 * token_s * tokens <= latency.prompt_s(tokens)


def copy_time(real_time: Iterable[Outlook], now: float) -> float:
    """How long copies before the next step may take, in seconds, so that no real-time task comes late by them."""
    slack_s = min((job.latest_s - now for job in real_time if job.hope_s >= now), default=math.inf)
    return min(LONGEST_COPY_S, max(0.0, COPY_SHARE * slack_s))
