"""Goals that wait for other goals, and deadlines over whole chains of them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from slice_ros.goal import ErrorCode, GoalError, GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.task import Task

REMEMBERED = 1024
"""Ended goals that ``after`` may still name; older ones are unknown."""


@dataclass(frozen=True, slots=True)
class _Ended:
    succeeded: bool
    chain_due_s: float


class Dependencies:
    """The graph of the goals in hand.

    A goal can only name goals that were submitted before it, so no cycle can form: of two goals that name each other, the first one
    names an unknown goal.
    """

    def __init__(self) -> None:
        self._waits_for: dict[str, set[str]] = {}
        self._successors: dict[str, list[str]] = {}
        self._chain_due_s: dict[str, float] = {}
        self._ended: OrderedDict[str, _Ended] = OrderedDict()

    def add(self, request: GoalRequest, in_hand: Container[str]) -> float:
        """Take in a goal.

        Returns:
            When its chain is due: the earliest of its own chain deadline and those of the goals before it; infinite without one.

        Raises:
            GoalError: UNKNOWN_GOAL or PREDECESSOR_FAILED; nothing is remembered then.
        """
        waits_for = set()
        due_s = math.inf if request.chain_deadline_s is None else request.submitted_s + request.chain_deadline_s
        for goal_id in request.after:
            if goal_id == request.goal_id:
                raise GoalError(
                    ErrorCode.UNKNOWN_GOAL, f"after names the goal itself, {goal_id}; it can only wait for goals sent before it"
                )
            if goal_id in in_hand:
                waits_for.add(goal_id)
                due_s = min(due_s, self._chain_due_s.get(goal_id, math.inf))
                continue
            ended = self._ended.get(goal_id)
            if ended is None:
                raise GoalError(
                    ErrorCode.UNKNOWN_GOAL,
                    f"after names {goal_id}, which this server does not know; send the goals of a chain in their order",
                )
            if not ended.succeeded:
                raise _predecessor_failed(goal_id)
            due_s = min(due_s, ended.chain_due_s)
        if waits_for:
            self._waits_for[request.goal_id] = waits_for
            for goal_id in waits_for:
                self._successors.setdefault(goal_id, []).append(request.goal_id)
        if due_s < math.inf:
            self._chain_due_s[request.goal_id] = due_s
        return due_s

    @property
    def has_chains(self) -> bool:
        """Whether any goal in hand waits for another, or is in a chain that is due."""
        return bool(self._chain_due_s or self._successors)

    @property
    def any_waiting(self) -> bool:
        """Whether any goal in hand waits for another."""
        return bool(self._waits_for)

    def is_waiting(self, goal_id: str) -> bool:
        """Whether a goal before it has not ended yet."""
        return goal_id in self._waits_for

    def ended(self, goal_id: str, *, succeeded: bool) -> tuple[list[str], GoalError | None]:
        """A goal has ended.

        Returns:
            The goals that waited for it and have to end now, and the error to end them with.
        """
        self._ended[goal_id] = _Ended(succeeded, self._chain_due_s.pop(goal_id, math.inf))
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        for predecessor in self._waits_for.pop(goal_id, ()):
            if goal_id in (successors := self._successors.get(predecessor, [])):
                successors.remove(goal_id)
        successors = self._successors.pop(goal_id, [])
        if not succeeded:
            return successors, _predecessor_failed(goal_id)
        for successor in successors:
            self._waits_for[successor].discard(goal_id)
            if not self._waits_for[successor]:
                del self._waits_for[successor]
        return [], None

    def split_budgets(self, tasks: Mapping[str, Task], now: float, latency: LatencyModel) -> None:
        """Tell each task who waits for it, ``Task.followers``, and its share of the time left.

        It has one of its chain's deadline, ``Task.budget_due_s``, and one of those that the goals after it have for themselves,
        ``Task.followers_due_s``, if they are of its class or a higher one.

        What is left until the chain is due is split in proportion to work: a task with w seconds of it, before goals whose longest path
        has d seconds, is due at ``now + (due - now) * w / (w + d)``. As nobody knows an answer's length, w is what max_tokens allow.
        """
        if not self.has_chains:
            return
        path_s: dict[str, float] = {}  # longest path from a task's start to the chain's end; successors are younger, so youngest first
        tightest: dict[str, _Path] = {}
        for task in sorted(tasks.values(), key=lambda task: -task.order):
            work_s = latency.step_s(1) * (task.max_tokens - task.tokens) + (
                latency.prompt_s(task.prompt_left, task.kv_tokens) if task.prompt_left else 0.0
            )
            successors = self._successors.get(task.goal_id, ())
            task.followers = [tasks[successor] for successor in successors]
            following_s = max((path_s[successor] for successor in successors), default=0.0)
            path_s[task.goal_id] = work_s + following_s
            if task.chain_due_s < math.inf:
                task.budget_due_s = now + (task.chain_due_s - now) * work_s / max(work_s + following_s, 1e-9)
            paths = [tightest[successor].behind(work_s) for successor in successors if tasks[successor].is_real_time >= task.is_real_time]
            closest = min(paths, default=_Path(math.inf, work_s), key=lambda path: path.share(now))
            task.followers_due_s = now + work_s * closest.share(now)
            tightest[task.goal_id] = min(closest, _Path(task.due_end_s, work_s), key=lambda path: path.share(now))


class _Path(NamedTuple):
    """Goals one after the other, the last of which is due."""

    due_s: float
    work_s: float

    def behind(self, work_s: float) -> _Path:
        """The same after so much other work."""
        return _Path(self.due_s, self.work_s + work_s)

    def share(self, now: float) -> float:
        """Time left by work left."""
        return (self.due_s - now) / max(self.work_s, 1e-9)


def _predecessor_failed(goal_id: str) -> GoalError:
    return GoalError(ErrorCode.PREDECESSOR_FAILED, f"{goal_id}, which after names, did not succeed; send the chain again from there")
