"""What the commands share: a node for as long as a command runs, and sentences when nobody answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from action_msgs.msg import GoalStatus, GoalStatusArray
from rclpy.executors import SingleThreadedExecutor

from slice_ros.ros.conversions import uuid_hex
from slice_ros.ros.distributions import mind_the_dead
from slice_ros.ros.interfaces import SloStatus
from slice_ros.ros.qos import ACTION_STATUS

IN_HAND = (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_CANCELING)


class NoAnswer(Exception):
    """The server is not there or does not answer; the sentence says what to look at."""


class Session:
    """Context manager over a node that asks one server.

    Args:
        server: name of the server node.
        timeout_s: how long to look for it, and to wait for each answer.
    """

    def __init__(self, server: str, timeout_s: float) -> None:
        self.server = server if server.startswith("/") else f"/{server}"
        self.timeout_s = timeout_s

    def __enter__(self) -> Session:
        mind_the_dead()
        rclpy.init(args=[])
        self.node = rclpy.create_node("slice_cli")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.node.destroy_node()
        rclpy.try_shutdown()

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """The answer of a service of the server.

        Raises:
            NoAnswer: there is none in time.
        """
        client = self.node.create_client(kind, f"{self.server}/{service}")
        if not client.wait_for_service(timeout_sec=self.timeout_s):
            raise NoAnswer(self._sentence())
        future = client.call_async(request)
        self.spin_until(future.done)
        return future.result()

    def status(self) -> Any:
        """The server's next ``SloStatus``.

        Raises:
            NoAnswer: there is none in time.
        """
        got: list[Any] = []
        subscription = self.node.create_subscription(SloStatus, f"{self.server}/slo_status", got.append, 10)
        self.spin_until(lambda: bool(got))
        self.node.destroy_subscription(subscription)
        return got[-1]

    def goals(self) -> list[str]:
        """Ids of the goals in hand.

        Raises:
            NoAnswer: the server is not there.
        """
        told: list[Any] = []
        topic = f"{self.server}/generate/_action/status"
        subscription = self.node.create_subscription(GoalStatusArray, topic, told.append, ACTION_STATUS)
        self.status()
        self.status()  # a server that had a goal has told its state by now
        self.node.destroy_subscription(subscription)
        return [uuid_hex(goal.goal_info.goal_id) for goal in (told[-1].status_list if told else ()) if goal.status in IN_HAND]

    def spin_until(self, condition: Callable[[], bool]) -> None:
        """Raises:
        NoAnswer: the condition does not hold in time.
        """
        deadline = time.monotonic() + self.timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise NoAnswer(self._sentence())
            self._executor.spin_once(timeout_sec=0.05)

    def _sentence(self) -> str:
        return (
            f"no answer from {self.server} within {self.timeout_s:g} s; start a server with `slice-ros serve` "
            "and see that ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE are the same for both"
        )


def message_dict(message: Any) -> Any:
    """A message as plain data for JSON; NaN and infinite become ``None``."""
    if hasattr(message, "get_fields_and_field_types"):
        return {name: message_dict(getattr(message, name)) for name in message.get_fields_and_field_types()}
    if isinstance(message, float):
        return message if math.isfinite(message) else None
    if isinstance(message, str | bool | int):
        return message
    if isinstance(message, bytes):
        return int.from_bytes(message, "little")
    return [message_dict(element) for element in (message.tolist() if hasattr(message, "tolist") else message)]
