"""Action servers.

Design: https://design.ros2.org/articles/actions.html. States and cancel rules are rcl_action's.
"""

from __future__ import annotations

import inspect
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from slice_ros.rclpy_dds import messages
from slice_ros.rclpy_dds.callback_groups import CallbackGroup
from slice_ros.rclpy_dds.exceptions import InvalidHandle, RCLError
from slice_ros.rclpy_dds.qos import QoSProfile, qos_profile_action_status_default, qos_profile_default, qos_profile_services_default
from slice_ros.rclpy_dds.service import DeferredService, RequestId, Service
from slice_ros.rclpy_dds.task import Future

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.node import Node

GoalInfo = messages.message("action_msgs/msg/GoalInfo")
GoalStatus = messages.message("action_msgs/msg/GoalStatus")
CancelGoal = messages.service("action_msgs/srv/CancelGoal")

STATUS_SHARE = 0.05
"""Share of the time that the states of all goals may take to publish: with a thousand of them, each time is many milliseconds, here and
at every client."""


class GoalResponse(Enum):
    """What a goal callback answers."""

    REJECT = 1
    ACCEPT = 2


class CancelResponse(Enum):
    """What a cancel callback answers."""

    REJECT = 1
    ACCEPT = 2


class GoalEvent(IntEnum):
    """What can happen to a goal."""

    EXECUTE = 1
    CANCEL_GOAL = 2
    SUCCEED = 3
    ABORT = 4
    CANCELED = 5


_ACTIVE: tuple[int, ...] = (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_CANCELING)
_CANCELABLE: tuple[int, ...] = (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING)
_TRANSITIONS = {
    (GoalStatus.STATUS_ACCEPTED, GoalEvent.EXECUTE): GoalStatus.STATUS_EXECUTING,
    (GoalStatus.STATUS_ACCEPTED, GoalEvent.CANCEL_GOAL): GoalStatus.STATUS_CANCELING,
    (GoalStatus.STATUS_EXECUTING, GoalEvent.CANCEL_GOAL): GoalStatus.STATUS_CANCELING,
    (GoalStatus.STATUS_EXECUTING, GoalEvent.SUCCEED): GoalStatus.STATUS_SUCCEEDED,
    (GoalStatus.STATUS_EXECUTING, GoalEvent.ABORT): GoalStatus.STATUS_ABORTED,
    (GoalStatus.STATUS_CANCELING, GoalEvent.SUCCEED): GoalStatus.STATUS_SUCCEEDED,
    (GoalStatus.STATUS_CANCELING, GoalEvent.ABORT): GoalStatus.STATUS_ABORTED,
    (GoalStatus.STATUS_CANCELING, GoalEvent.CANCELED): GoalStatus.STATUS_CANCELED,
}


class ServerGoalHandle:
    """One accepted goal: its request, its state, and the way to tell its sender how it goes. Usable from any thread."""

    def __init__(self, action_server: ActionServer, goal_info: Any, goal_request: Any) -> None:
        self._action_server = action_server
        self._goal_info = goal_info
        self._goal_request = goal_request
        self._status: int = GoalStatus.STATUS_ACCEPTED
        self._lock = threading.Lock()
        self._result: Future = Future()
        self._ended_s: float | None = None

    @property
    def request(self) -> Any:
        """The goal message."""
        return self._goal_request

    @property
    def goal_id(self) -> Any:
        """``unique_identifier_msgs/UUID``."""
        return self._goal_info.goal_id

    @property
    def status(self) -> int:
        """One of ``GoalStatus.STATUS_…``."""
        return self._status

    @property
    def is_active(self) -> bool:
        """Neither succeeded, aborted nor canceled yet."""
        return self._status in _ACTIVE

    @property
    def is_cancel_requested(self) -> bool:
        return bool(self._status == GoalStatus.STATUS_CANCELING)

    def execute(self, execute_callback: Callable[[ServerGoalHandle], Any] | None = None) -> None:
        """Have the server's execute callback, or another, work on this goal in the executor."""
        if not self.is_cancel_requested:
            self._update_state(GoalEvent.EXECUTE)
        self._action_server.notify_execute(self, execute_callback)

    def publish_feedback(self, feedback: Any) -> None:
        """Raises:
        TypeError: it is not the action's feedback, or a field has a value that its type cannot hold.
        """
        self._action_server._publish_feedback(self.goal_id, feedback)

    def succeed(self) -> None:
        self._update_state(GoalEvent.SUCCEED)

    def abort(self) -> None:
        self._update_state(GoalEvent.ABORT)

    def canceled(self) -> None:
        self._update_state(GoalEvent.CANCELED)

    def destroy(self) -> None:
        """Forget the goal."""
        self._action_server._forget(self)

    def _update_state(self, event: GoalEvent) -> None:
        with self._lock:
            status: int | None = _TRANSITIONS.get((self._status, event))
            if status is None:
                raise RCLError(f"Failed to update goal state: a goal of status {self._status} cannot {event.name}")
            self._status = status
            if status not in _ACTIVE:
                self._ended_s = time.monotonic()
        self._action_server._status_changed()

    def __eq__(self, other: object) -> bool:
        return self.goal_id == other.goal_id if isinstance(other, ServerGoalHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(bytes(self.goal_id.uuid))


def default_handle_accepted_callback(goal_handle: ServerGoalHandle) -> None:
    """Execute at once."""
    goal_handle.execute()


def default_goal_callback(goal_request: Any) -> GoalResponse:  # noqa: ARG001
    """Accept everything."""
    return GoalResponse.ACCEPT


def default_cancel_callback(cancel_request: Any) -> CancelResponse:  # noqa: ARG001
    """Cancel nothing."""
    return CancelResponse.REJECT


class ActionServer:
    """Offers an action. All callbacks may be coroutine functions; a goal that awaits takes no thread.

    Args:
        execute_callback: works on a goal: ends it with ``succeed()``, ``abort()`` or ``canceled()`` and returns the result.
        goal_callback: gets the goal message, says whether to accept it.
        handle_accepted_callback: gets the handle of an accepted goal; executes it at once where none is given.
        cancel_callback: gets the handle of a goal that somebody wants to cancel, says whether to.
        result_timeout: seconds for which a result is kept after its goal ended.
    """

    def __init__(
        self,
        node: Node,
        action_type: Any,
        action_name: str,
        execute_callback: Callable[[ServerGoalHandle], Any],
        *,
        callback_group: CallbackGroup | None = None,
        goal_callback: Callable[[Any], Any] = default_goal_callback,
        handle_accepted_callback: Callable[[ServerGoalHandle], Any] = default_handle_accepted_callback,
        cancel_callback: Callable[[ServerGoalHandle], Any] = default_cancel_callback,
        goal_service_qos_profile: QoSProfile = qos_profile_services_default,
        result_service_qos_profile: QoSProfile = qos_profile_services_default,
        cancel_service_qos_profile: QoSProfile = qos_profile_services_default,
        feedback_pub_qos_profile: QoSProfile = qos_profile_default,
        status_pub_qos_profile: QoSProfile = qos_profile_action_status_default,
        result_timeout: float = 900,
    ) -> None:
        self._node = node
        self._action_type = action_type
        self._result_timeout_s = result_timeout
        self._logger = node.get_logger().get_child("action_server")
        self._lock = threading.RLock()
        self._goals: dict[bytes, ServerGoalHandle] = {}
        self._pending_ids: set[bytes] = set()
        self._status_due = False
        self._status_from_s = 0.0
        self.register_goal_callback(goal_callback)
        self.register_handle_accepted_callback(handle_accepted_callback)
        self.register_cancel_callback(cancel_callback)
        self.register_execute_callback(execute_callback)

        impl, name = action_type.Impl, node.resolve_topic_name(action_name, only_expand=True)

        group = callback_group or node.default_callback_group

        def service(part: str, srv_type: Any, callback: Callable[[Any, RequestId], Any], qos: QoSProfile) -> Service:
            full_name = node.resolve_service_name(f"{name}/_action/{part}")
            return node.add_entity(DeferredService(node, srv_type, full_name, callback, group, qos))

        self._goal_service = service("send_goal", impl.SendGoalService, self._on_goal, goal_service_qos_profile)
        self._cancel_service = service("cancel_goal", impl.CancelGoalService, self._on_cancel, cancel_service_qos_profile)
        self._result_service = service("get_result", impl.GetResultService, self._on_get_result, result_service_qos_profile)
        self._feedback = node.create_publisher(impl.FeedbackMessage, f"{name}/_action/feedback", feedback_pub_qos_profile)
        self._status = node.create_publisher(impl.GoalStatusMessage, f"{name}/_action/status", status_pub_qos_profile)

    @property
    def action_type(self) -> Any:
        return self._action_type

    def register_goal_callback(self, goal_callback: Callable[[Any], Any] | None) -> None:
        self._goal_callback = goal_callback or default_goal_callback

    def register_handle_accepted_callback(self, handle_accepted_callback: Callable[[ServerGoalHandle], Any] | None) -> None:
        self._handle_accepted_callback = handle_accepted_callback or default_handle_accepted_callback

    def register_cancel_callback(self, cancel_callback: Callable[[ServerGoalHandle], Any] | None) -> None:
        self._cancel_callback = cancel_callback or default_cancel_callback

    def register_execute_callback(self, execute_callback: Callable[[ServerGoalHandle], Any]) -> None:
        if not callable(execute_callback):
            raise TypeError("Failed to register goal execution callback: not callable")
        self._execute_callback = execute_callback

    def notify_execute(self, goal_handle: ServerGoalHandle, execute_callback: Callable[[ServerGoalHandle], Any] | None) -> None:
        """Queue the work on a goal."""
        executor = self._node.executor
        if executor is None:
            raise RCLError("Failed to execute the goal: the node has no executor")
        executor.create_task(self._execute, execute_callback or self._execute_callback, goal_handle)

    def destroy(self) -> None:
        """End; goals that are active are left without an answer."""
        for service in (self._goal_service, self._cancel_service, self._result_service):
            self._node.destroy_service(service)
        for publisher in (self._feedback, self._status):
            self._node.destroy_publisher(publisher)
        self._goals.clear()

    # ---- requests

    async def _on_goal(self, request: Any, request_id: RequestId) -> None:
        goal_id = bytes(request.goal_id.uuid)
        self._forget_expired()
        accepted, goal_handle = False, None
        with self._lock:
            is_new = goal_id not in self._goals and goal_id not in self._pending_ids
            if is_new:
                self._pending_ids.add(goal_id)
        info = GoalInfo(goal_id=request.goal_id)
        try:
            if is_new:
                accepted = await self._asked(self._goal_callback, request.goal, GoalResponse) is GoalResponse.ACCEPT
            if accepted:
                info.stamp = self._node.get_clock().now().to_msg()
                goal_handle = ServerGoalHandle(self, info, request.goal)
                with self._lock:
                    self._goals[goal_id] = goal_handle
        finally:
            with self._lock:
                self._pending_ids.discard(goal_id)
        self._answer(self._goal_service, request_id, accepted=accepted, stamp=info.stamp)
        if goal_handle is not None:
            self._status_changed()
            result = self._handle_accepted_callback(goal_handle)
            if inspect.isawaitable(result):
                await result

    async def _on_cancel(self, request: Any, request_id: RequestId) -> None:
        code, candidates = self._to_cancel(request.goal_info)
        canceling = []
        for goal_handle in candidates:
            if await self._asked(self._cancel_callback, goal_handle, CancelResponse) is CancelResponse.ACCEPT:
                try:
                    goal_handle._update_state(GoalEvent.CANCEL_GOAL)
                except RCLError as error:
                    self._logger.debug(f"a goal ended while it was to be canceled: {error}")
                else:
                    canceling.append(goal_handle._goal_info)
        if candidates and not canceling:
            code = CancelGoal.Response.ERROR_REJECTED
        self._answer(self._cancel_service, request_id, return_code=code, goals_canceling=canceling)

    def _to_cancel(self, info: Any) -> tuple[int, list[ServerGoalHandle]]:
        """The code to answer with, and the goals that are meant: one by its id, those accepted until a time, both, or all."""
        goal_id, until = bytes(info.goal_id.uuid), (info.stamp.sec, info.stamp.nanosec)
        with self._lock:
            goals = list(self._goals.values())
            named = self._goals.get(goal_id)
        cancelable = [goal for goal in goals if goal.status in _CANCELABLE]
        if any(goal_id) and until == (0, 0):
            if named is None:
                return CancelGoal.Response.ERROR_UNKNOWN_GOAL_ID, []
            if named not in cancelable:
                return CancelGoal.Response.ERROR_GOAL_TERMINATED, []
            return CancelGoal.Response.ERROR_NONE, [named]
        if until == (0, 0):
            return CancelGoal.Response.ERROR_NONE, cancelable

        def stamp(goal: ServerGoalHandle) -> tuple[int, int]:
            return goal._goal_info.stamp.sec, goal._goal_info.stamp.nanosec

        return CancelGoal.Response.ERROR_NONE, [goal for goal in cancelable if stamp(goal) <= until or goal is named]

    async def _on_get_result(self, request: Any, request_id: RequestId) -> None:
        self._forget_expired()
        goal_handle = self._goals.get(bytes(request.goal_id.uuid))
        if goal_handle is None:
            self._answer(self._result_service, request_id, status=GoalStatus.STATUS_UNKNOWN)
        else:
            goal_handle._result.add_done_callback(partial(self._send_result, request_id))

    def _send_result(self, request_id: RequestId, future: Future) -> None:
        status, result = future.result()
        self._answer(self._result_service, request_id, status=status, result=result)

    async def _asked(self, callback: Callable[[Any], Any], subject: Any, answers: type[Enum]) -> Any:
        """A callback's answer; an error or another type of answer is logged and means no."""
        try:
            answer = callback(subject)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:
            self._logger.error(f"Error raised in a callback, which counts as {answers.__name__}.REJECT: {error}\n{traceback.format_exc()}")
            return None
        if not isinstance(answer, answers):
            self._logger.warning(f"a callback returned {answer!r}, which counts as {answers.__name__}.REJECT")
        return answer

    @staticmethod
    def _answer(service: Service, request_id: RequestId, **fields: Any) -> None:
        with suppress(RCLError, InvalidHandle):  # shut down or destroyed: nobody can be answered any more
            service.send_response(service.srv_type.Response(**fields), request_id)

    # ---- goals

    async def _execute(self, callback: Callable[[ServerGoalHandle], Any], goal_handle: ServerGoalHandle) -> None:
        result = None
        try:
            result = callback(goal_handle)
            if inspect.isawaitable(result):
                result = await result
            self._check(result)
        except Exception as error:
            result = None
            self._logger.error(f"Error raised in execute callback: {error}\n{traceback.format_exc()}")
        if goal_handle.is_active:
            self._logger.warning(f"Goal state not set, assuming aborted. Goal ID: {bytes(goal_handle.goal_id.uuid).hex()}")
            if goal_handle.status == GoalStatus.STATUS_ACCEPTED:
                goal_handle._update_state(GoalEvent.EXECUTE)
            goal_handle.abort()
        goal_handle._result.set_result((goal_handle.status, self._action_type.Result() if result is None else result))

    def _check(self, result: Any) -> None:
        """Raises:
        TypeError: it is not the action's result, or has a field that cannot be sent; better here than when somebody asks for it.
        """
        if result is not None:
            messages.codec(self._action_type.Result.__msgtype__).encode(result)

    def _publish_feedback(self, goal_id: Any, feedback: Any) -> None:
        if not isinstance(feedback, self._action_type.Feedback):
            raise TypeError(f"{feedback!r} is a {type(feedback).__name__}; it must be a {self._action_type.Feedback.__name__}")
        self._feedback.publish(self._feedback.msg_type(goal_id=goal_id, feedback=feedback))

    def _status_changed(self) -> None:
        """Publish the goals' states soon: what changes in one turn of the executor goes out together, and more where they are many."""
        executor = self._node.executor
        with self._lock:
            if self._status_due:
                return
            self._status_due = executor is not None
            wait_s = self._status_from_s - time.monotonic()
        if executor is None:
            self._publish_status()
        elif wait_s <= 0.0:
            executor.create_task(self._publish_status)
        else:
            self._publish_status_in(wait_s)

    def _publish_status_in(self, wait_s: float) -> None:
        def publish() -> None:
            timer.destroy()
            self._publish_status()

        timer = self._node.create_timer(wait_s, publish)

    def _publish_status(self) -> None:
        began_s = time.monotonic()
        with self._lock:
            self._status_due = False
            states = [GoalStatus(goal_info=goal._goal_info, status=goal.status) for goal in self._goals.values()]
        with suppress(RCLError, InvalidHandle):
            self._status.publish(self._status.msg_type(status_list=states))
        now_s = time.monotonic()
        self._status_from_s = now_s + (now_s - began_s) / STATUS_SHARE

    def _forget_expired(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._goals = {
                goal_id: goal
                for goal_id, goal in self._goals.items()
                if goal._ended_s is None or not goal._result.done() or now - goal._ended_s < self._result_timeout_s
            }

    def _forget(self, goal_handle: ServerGoalHandle) -> None:
        with self._lock:
            self._goals.pop(bytes(goal_handle.goal_id.uuid), None)
