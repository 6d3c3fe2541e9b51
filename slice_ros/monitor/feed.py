"""A node's view of servers, for windows: which there are, the statuses of one, its policy switch. Polled: threads do not matter."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter

from slice_ros.ros.distributions import InvalidHandle, RCLError, refusal
from slice_ros.ros.interfaces import SloStatus

SUFFIX = "/slo_status"
ANSWER_S = 2.0
"""How long to look for the service of a server that is to change its policy."""


class Feed:
    """Somebody else spins the node.

    Args:
        node: with it the servers are found and heard.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._statuses: deque[Any] = deque(maxlen=100)
        self._subscription: Any = None
        self._setter: Any = None
        self._answers: deque[str] = deque()
        self._wanted = ""
        self._ask_until_s = 0.0
        self.server = ""

    def servers(self) -> list[str]:
        """Names of the servers that publish their status; none once ROS was shut down, as rqt does before its windows close."""
        try:
            topics = self._node.get_topic_names_and_types()
        except (RCLError, InvalidHandle):
            return []
        return sorted(topic[: -len(SUFFIX)] for topic, types in topics if topic.endswith(SUFFIX) and "slice_ros/msg/SloStatus" in types)

    def choose(self, server: str) -> None:
        """Hear this server from now on, and no other."""
        self.close()
        self.server = server
        self._subscription = self._node.create_subscription(SloStatus, server + SUFFIX, self._hear, 10)

    def take(self) -> list[Any]:
        """The statuses that came since the last call; to be called again and again."""
        self._ask()
        return [self._statuses.popleft() for _ in range(len(self._statuses))]

    def set_policy(self, name: str) -> None:
        """Ask the server for another policy, as soon as it is found; why that failed can be read with :meth:`complaint`."""
        if not self.server:
            self._answers.append("no server is chosen")
            return
        self._wanted, self._ask_until_s = name, time.monotonic() + ANSWER_S
        if self._setter is None:
            # Only now: under SROS2, who may look need not be allowed this.
            try:
                self._setter = self._node.create_client(SetParameters, f"{self.server}/set_parameters")
            except RCLError as error:
                self._wanted = ""
                self._answers.append(f"the policy cannot be switched: {refusal(error)}")

    def complaint(self) -> str:
        """The latest reason why a change was refused, once; empty where there is none."""
        return self._answers.popleft() if self._answers else ""

    def _ask(self) -> None:
        if not self._node.context.ok():
            self._wanted = ""
        if self._wanted and self._setter.service_is_ready():
            change = SetParameters.Request(parameters=[Parameter("scheduler.policy", value=self._wanted).to_parameter_msg()])
            self._setter.call_async(change).add_done_callback(self._answered)
            self._wanted = ""
        elif self._wanted and time.monotonic() > self._ask_until_s:
            self._wanted = ""
            self._answers.append(f"{self.server} does not answer")

    def close(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        if self._setter is not None:
            self._node.destroy_client(self._setter)
        self._subscription = self._setter = None
        self._wanted = ""
        self._statuses.clear()

    def _hear(self, status: Any) -> None:
        self._statuses.append(status)

    def _answered(self, future: Any) -> None:
        if not future.cancelled():  # by the choice of another server
            self._answers.extend(result.reason for result in future.result().results if not result.successful)
