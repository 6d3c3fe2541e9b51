"""Gets goals ready for the scheduler on a thread of its own: a long prompt or grammar holds up neither steps nor cancels."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from slice_ros.goal import ErrorCode, GoalError, GoalRequest
from slice_ros.process.protocol import Check, Submit
from slice_ros.scheduling.events import Checked, Event
from slice_ros.scheduling.scheduler import Scheduler, failed

logger = logging.getLogger(__name__)


class Preparation:
    """Goals and checks in order of arrival; a goal that is canceled meanwhile ends at once.

    Args:
        scheduler: gets the goals that are ready.
        answer: takes the ends of those that cannot be; called on this thread and on that of ``cancel``.
    """

    def __init__(self, scheduler: Scheduler, answer: Callable[[list[Event]], None]) -> None:
        self._scheduler = scheduler
        self._answer = answer
        self._queue: queue.SimpleQueue[Submit | Check] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: dict[str, GoalRequest] = {}

    def put(self, command: Submit | Check) -> None:
        """Have a goal submitted, or a check answered, after all before it."""
        if isinstance(command, Submit):
            with self._lock:
                self._waiting[command.request.goal_id] = command.request
        self._queue.put(command)

    def cancel(self, goal_id: str, error: GoalError) -> None:
        """End a goal, wherever it is."""
        with self._lock:
            request = self._waiting.pop(goal_id, None)
        if request is not None:
            self._scheduler.refuse(goal_id)
            self._answer([failed(request, error)])
        self._scheduler.cancel(goal_id, error.code, error.message)

    def run(self) -> None:
        """Prepare for ever."""
        while True:
            command = self._queue.get()
            if isinstance(command, Submit):
                self._submit(command.request)
            else:
                self._check(command)

    def _submit(self, request: GoalRequest) -> None:
        try:
            if not self._is_wanted(request.goal_id):
                return
            self._scheduler.submit(request)
            with self._lock:
                canceled = self._waiting.pop(request.goal_id, None) is None
            if canceled:  # while it was prepared; its end has been told
                self._scheduler.cancel(request.goal_id)
        except GoalError as error:
            self._end(request, error)
        except Exception as error:
            logger.exception("goal %s could not be prepared", request.goal_id)
            self._end(request, GoalError(ErrorCode.INTERNAL, f"the goal could not be prepared: {error!r}"))

    def _check(self, command: Check) -> None:
        try:
            self._scheduler.check(command.check_id, command.request, command.prompt_tokens)
        except GoalError as error:
            self._answer([Checked(command.check_id, None, error.code, error.message)])
        except Exception as error:
            logger.exception("a goal could not be checked")
            self._answer([Checked(command.check_id, None, ErrorCode.INTERNAL, f"the goal could not be checked: {error!r}")])

    def _is_wanted(self, goal_id: str) -> bool:
        with self._lock:
            return goal_id in self._waiting

    def _end(self, request: GoalRequest, error: GoalError) -> None:
        with self._lock:
            canceled = self._waiting.pop(request.goal_id, None) is None
        if not canceled:
            self._answer([failed(request, error)])
