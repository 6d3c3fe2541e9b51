"""A goal at one of the members it was sent to, and the way there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from slice_ros.dispatch.member import Member
from slice_ros.goal import GoalRequest
from slice_ros.scheduling.task import Task


@dataclass(slots=True, eq=False)
class Attempt:
    """A goal at a member.

    Args:
        request: as it is sent there.
        task: the same as the member has it, as far as one can tell from here.
        remote_id: the goal's id there.
    """

    goal_id: str
    member: Member
    request: GoalRequest
    task: Task
    expected_share: float
    remote_id: str = ""


class Link(Protocol):
    """The way to the members. What comes back is told to the dispatcher by the methods of the same subject."""

    def send(self, attempt: Attempt) -> str:
        """Send a goal to a member; returns its id there."""

    def withdraw(self, attempt: Attempt) -> None: ...
