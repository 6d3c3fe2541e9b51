"""Who holds KV cells: how many are left to claim, and who gives way. Pure functions of what the scheduler knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from slice_ros.engines.base import KvUse
from slice_ros.task import Task


def claim(task: Task) -> int:
    """KV cells that a task can come to hold: its prompt and the longest answer it may have."""
    return task.prompt_tokens + task.max_tokens


def unclaimed(kv: KvUse, holders: Iterable[Task]) -> int:
    """KV cells that are left when every open task grows to its claim. Cells that several of them share are counted once."""
    return kv.total - kv.used - sum(claim(task) - task.kv_tokens for task in holders)


def victims(holders: Iterable[Task], members: Collection[str], opener: Task, *, must: bool = False) -> list[Task]:
    """Open tasks that may be evicted for another one, in the order in which they give way.

    Best-effort tasks come first, the youngest before the oldest; real-time ones only where nothing else could move.

    Args:
        holders: the open tasks.
        members: ids of tasks that are needed in this step; they stay.
        opener: who needs the cells.
        must: real-time tasks give way to a best-effort one, too.
    """
    may = (task for task in holders if task.goal_id not in members and (must or opener.is_real_time or not task.is_real_time))
    return sorted(may, key=lambda task: (task.is_real_time, -task.order))
