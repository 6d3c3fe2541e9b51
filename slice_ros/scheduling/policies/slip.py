"""How much more time a real-time task needs beside others than was reckoned, learnt from promises that were not kept."""

from __future__ import annotations

from collections.abc import Iterable

from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.task import Task

RAISE = 0.05
"""What a task adds that was begun under a promise and is not promised its SLO any more, ..."""
LOWER = 0.002
"""... and what one takes off that ends while it is promised: in the long run, one in RAISE / LOWER is lost."""
MOST = 3.0
"""No more than that is added up."""
OVERLOADED = 1.0
"""The least while real-time goals ask for more than all the time there is."""


class Slip:
    """The part of the others' share of its steps that a real-time task is left time for when it is asked whether its SLO can be kept.

    Work is reckoned in the best steps there are. That is right as long as there is time; where real-time goals alone overload a device
    on which wide steps cost little, all of them would be begun as late as can be, in steps as narrow as they then have to be, in which
    ever more of them are late, and what was computed for these is lost as well. How much time has to be left depends on the device and on
    the traffic, so it is learnt: nothing, until a task is lost that was begun.
    """

    def __init__(self) -> None:
        self._share = 0.0
        self._begun: set[str] = set()

    def share(self, busy: float) -> float:
        """That part, where real-time goals take this share of the time in the best steps."""
        return max(self._share, OVERLOADED if busy > 1.0 else 0.0)

    def promised(self, jobs: Iterable[Outlook]) -> None:
        """All the real-time tasks in hand that are promised their SLO now."""
        begun = {job.task.goal_id for job in jobs if job.task.computed_tokens}
        self._share = min(MOST, self._share + RAISE * len(self._begun - begun))
        self._begun = begun

    def ended(self, task: Task) -> None:
        """A task is gone."""
        if task.goal_id in self._begun:
            self._begun.remove(task.goal_id)
            self._share = max(0.0, self._share - LOWER)
