"""Action clients."""

from __future__ import annotations

import inspect
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from slice_ros.rclpy_dds import messages
from slice_ros.rclpy_dds.callback_groups import CallbackGroup
from slice_ros.rclpy_dds.cdr import HEADER_SIZE
from slice_ros.rclpy_dds.client import Client, wait_for_match
from slice_ros.rclpy_dds.qos import QoSProfile, qos_profile_action_status_default, qos_profile_default, qos_profile_services_default
from slice_ros.rclpy_dds.subscription import Subscription
from slice_ros.rclpy_dds.task import Future

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.node import Node

GoalStatus = messages.message("action_msgs/msg/GoalStatus")
CancelGoal = messages.service("action_msgs/srv/CancelGoal")
UUID = messages.message("unique_identifier_msgs/msg/UUID")
_ENDED = (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED)
_ID_SIZE, _STAMP_SIZE = 16, 8


class ClientGoalHandle:
    """One goal that was sent."""

    def __init__(self, action_client: ActionClient, goal_id: Any, goal_response: Any) -> None:
        self._action_client = action_client
        self._goal_id = goal_id
        self._goal_response = goal_response
        self._status: int = GoalStatus.STATUS_UNKNOWN

    @property
    def goal_id(self) -> Any:
        """``unique_identifier_msgs/UUID``."""
        return self._goal_id

    @property
    def stamp(self) -> Any:
        """When the server accepted the goal."""
        return self._goal_response.stamp

    @property
    def accepted(self) -> bool:
        return bool(self._goal_response.accepted)

    @property
    def status(self) -> int:
        """The latest state heard of; one of ``GoalStatus.STATUS_…``."""
        return self._status

    def cancel_goal_async(self) -> Future:
        """Ask to cancel; the future completes with ``CancelGoal.Response``."""
        return self._action_client._cancel_goal_async(self)

    def get_result_async(self) -> Future:
        """The future completes with the result response: ``status`` and ``result``."""
        return self._action_client._get_result_async(self)

    def cancel_goal(self) -> Any:
        """Ask to cancel and block until the answer; not in the executor's thread."""
        return _blocking(self.cancel_goal_async())

    def get_result(self) -> Any:
        """Block until the result; not in the executor's thread."""
        return _blocking(self.get_result_async())

    def __eq__(self, other: object) -> bool:
        return self._goal_id == other._goal_id if isinstance(other, ClientGoalHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(bytes(self._goal_id.uuid))

    def __repr__(self) -> str:
        return f"ClientGoalHandle <id={bytes(self._goal_id.uuid).hex()}, accepted={self.accepted}, status={self.status}>"


class ActionClient:
    """Sends goals to an action server."""

    def __init__(
        self,
        node: Node,
        action_type: Any,
        action_name: str,
        *,
        callback_group: CallbackGroup | None = None,
        goal_service_qos_profile: QoSProfile = qos_profile_services_default,
        result_service_qos_profile: QoSProfile = qos_profile_services_default,
        cancel_service_qos_profile: QoSProfile = qos_profile_services_default,
        feedback_sub_qos_profile: QoSProfile = qos_profile_default,
        status_sub_qos_profile: QoSProfile = qos_profile_action_status_default,
    ) -> None:
        self._node = node
        self._action_type = action_type
        self._action_name = action_name
        impl, name = action_type.Impl, node.resolve_topic_name(action_name, only_expand=True)
        self._goals: dict[bytes, ClientGoalHandle] = {}
        self._feedback_callbacks: dict[bytes, Callable[[Any], Any]] = {}

        def client(part: str, srv_type: Any, qos: QoSProfile) -> Client:
            return node.create_client(srv_type, f"{name}/_action/{part}", qos_profile=qos, callback_group=callback_group)

        self._goal_client = client("send_goal", impl.SendGoalService, goal_service_qos_profile)
        self._cancel_client = client("cancel_goal", impl.CancelGoalService, cancel_service_qos_profile)
        group, feedback_name = callback_group or node.default_callback_group, node.resolve_topic_name(f"{name}/_action/feedback")
        self._feedback = node.add_entity(
            _Feedback(
                node, impl.FeedbackMessage, feedback_name, self._on_feedback, group, feedback_sub_qos_profile, self._feedback_callbacks
            )
        )
        result_name = node.resolve_service_name(f"{name}/_action/get_result")
        self._result_client = node.add_entity(
            _ResultClient(node, impl.GetResultService, result_name, result_service_qos_profile, group, self._feedback)
        )
        self._status = node.create_subscription(
            impl.GoalStatusMessage,
            f"{name}/_action/status",
            self._on_status,
            status_sub_qos_profile,
            callback_group=callback_group,
            raw=True,
        )

    def send_goal_async(self, goal: Any, feedback_callback: Callable[[Any], Any] | None = None, goal_uuid: Any = None) -> Future:
        """Send a goal; the future completes with a ``ClientGoalHandle``, which tells whether it was accepted.

        Args:
            goal: the action's ``Goal``.
            feedback_callback: gets each feedback message; the feedback itself is its field ``feedback``.
            goal_uuid: the goal's id; a random one where none is given.

        Raises:
            TypeError: the goal is not of the action's type, or a field has a value that its type cannot hold.
        """
        if not isinstance(goal, self._action_type.Goal):
            raise TypeError(f"{goal!r} is a {type(goal).__name__}; it must be a {self._action_type.Goal.__name__}")
        goal_id = goal_uuid if goal_uuid is not None else UUID(uuid=uuid.uuid4().bytes)
        key = bytes(goal_id.uuid)
        if feedback_callback is not None:
            self._feedback_callbacks[key] = feedback_callback  # before the server can send any
        sent = self._goal_client.call_async(self._goal_client.srv_type.Request(goal_id=goal_id, goal=goal))
        answered = Future(executor=self._node.executor)

        def on_answer() -> None:
            if sent.cancelled():
                answered.cancel()
                return
            goal_handle = ClientGoalHandle(self, goal_id, sent.result())
            if goal_handle.accepted:
                self._goals[key] = goal_handle
            else:
                self._feedback_callbacks.pop(key, None)
            answered.set_result(goal_handle)

        sent._resume_when_done(on_answer)
        return answered

    def send_goal(self, goal: Any, **options: Any) -> Any:
        """Send a goal and block until its result, ``None`` where it was rejected; not in the executor's thread."""
        goal_handle = _blocking(self.send_goal_async(goal, **options))
        return goal_handle.get_result() if goal_handle.accepted else None

    def server_is_ready(self) -> bool:
        """Is there a server, connected in every direction? False soon after it has gone."""
        return (
            all(client.service_is_ready() for client in (self._goal_client, self._cancel_client, self._result_client))
            and self._feedback.get_publisher_count() > 0
            and self._status.get_publisher_count() > 0
        )

    def wait_for_server(self, timeout_sec: float | None = None) -> bool:
        """Block until a server is ready, at most ``timeout_sec``; says whether one is."""
        end = None if timeout_sec is None else time.monotonic() + timeout_sec

        def left() -> float | None:
            return None if end is None else max(0.0, end - time.monotonic())

        def connected(subscription: Subscription) -> bool:
            return wait_for_match(self._node, [subscription._reader], lambda: subscription.get_publisher_count() > 0, left())

        return (
            all(client.wait_for_service(left()) for client in (self._goal_client, self._cancel_client, self._result_client))
            and all(connected(subscription) for subscription in (self._feedback, self._status))
            and self.server_is_ready()
        )

    def destroy(self) -> None:
        for client in (self._goal_client, self._cancel_client, self._result_client):
            self._node.destroy_client(client)
        for subscription in (self._feedback, self._status):
            self._node.destroy_subscription(subscription)
        self._feedback_callbacks.clear()
        self._goals.clear()

    def _cancel_goal_async(self, goal_handle: ClientGoalHandle) -> Future:
        request = CancelGoal.Request()
        request.goal_info.goal_id = goal_handle.goal_id
        return self._cancel_client.call_async(request)

    def _get_result_async(self, goal_handle: ClientGoalHandle) -> Future:
        future = self._result_client.call_async(self._result_client.srv_type.Request(goal_id=goal_handle.goal_id))

        def on_result() -> None:
            if not future.cancelled():
                goal_handle._status = future.result().status
            self._goals.pop(bytes(goal_handle.goal_id.uuid), None)
            self._feedback_callbacks.pop(bytes(goal_handle.goal_id.uuid), None)

        future._resume_when_done(on_result)
        return future

    def _on_feedback(self, message: Any) -> Any:
        callback = self._feedback_callbacks.get(bytes(message.goal_id.uuid))
        return callback(message) if callback is not None else None

    def _on_status(self, data: bytes) -> None:
        """Take the states of this client's goals out of those of everybody's, which to decode would be most of the work in a crowd."""
        for key, goal_handle in list(self._goals.items()):
            state = _state_of(key, data)
            if state is not None:
                goal_handle._status = state
                if state in _ENDED:
                    self._goals.pop(key, None)


def _state_of(goal_id: bytes, data: bytes) -> int | None:
    """A goal's state in a serialized ``GoalStatusArray``: its id is followed by a stamp of eight bytes, aligned to four, and the state."""
    start = data.find(goal_id, HEADER_SIZE)
    after = start + _ID_SIZE - HEADER_SIZE
    place = HEADER_SIZE + after + -after % 4 + _STAMP_SIZE
    return data[place] if start >= 0 and place < len(data) else None


class _Feedback(Subscription):
    """Passes over what is for other clients: everybody hears all goals' feedback.

    Args:
        listeners: goals whose feedback is wanted, by id.
    """

    def __init__(
        self,
        node: Node,
        msg_type: Any,
        topic: str,
        callback: Callable[[Any], Any],
        callback_group: CallbackGroup,
        qos_profile: QoSProfile,
        listeners: Mapping[bytes, Any],
    ) -> None:
        super().__init__(node, msg_type, topic, callback, callback_group, qos_profile, raw=False)
        self._listeners = listeners

    def wants(self, data: bytes) -> bool:
        return data[HEADER_SIZE : HEADER_SIZE + _ID_SIZE] in self._listeners


class _ResultClient(Client):
    """Hands a result over after the feedback that has arrived: the server sent it after that."""

    def __init__(
        self, node: Node, srv_type: Any, srv_name: str, qos_profile: QoSProfile, callback_group: CallbackGroup, feedback: Subscription
    ) -> None:
        super().__init__(node, srv_type, srv_name, qos_profile, callback_group)
        self._feedback = feedback

    def take(self) -> Callable[[], Any] | None:
        complete = super().take()
        return partial(self._after_feedback, complete) if complete is not None else None

    async def _after_feedback(self, complete: Callable[[], Any]) -> None:
        while (callback := self._feedback.take()) is not None:
            result = callback()
            if inspect.isawaitable(result):
                await result
        complete()


def _blocking(future: Future) -> Any:
    done = threading.Event()
    future._resume_when_done(done.set)
    done.wait()
    return future.result()
