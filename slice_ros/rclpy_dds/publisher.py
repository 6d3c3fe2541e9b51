"""Publishers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slice_ros.rclpy_dds import messages, qos
from slice_ros.rclpy_dds.exceptions import RCLError
from slice_ros.rclpy_dds.qos import QoSProfile

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.node import Node


class Publisher:
    """Sends messages on a topic; from any thread. Made by ``Node.create_publisher``."""

    def __init__(self, node: Node, msg_type: Any, topic: str, qos_profile: QoSProfile) -> None:
        self.msg_type = msg_type
        self.qos_profile = qos_profile
        self._node = node
        self._topic = topic
        typename = msg_type.__msgtype__
        self._codec = messages.codec(typename)
        user_data = f"typehash={messages.type_hash(typename)};"
        self._writer = node.context.participant.writer(f"rt{topic}", typename, qos.to_dds(qos_profile, user_data))
        self.endpoints = [("writers", self._writer.guid)]

    @property
    def topic_name(self) -> str:
        return self._topic

    topic = topic_name

    def publish(self, msg: Any) -> None:
        """Send.

        Args:
            msg: a message, or its serialized bytes.

        Raises:
            TypeError: it is not of the topic's type, or a field has a value that its type cannot hold.
            RCLError: the context was shut down.
        """
        data = msg if isinstance(msg, bytes) else self._codec.encode(msg)
        if not self._node.context.ok():
            raise RCLError("Failed to publish: publisher's context is invalid")
        self._writer.write(data)

    def get_subscription_count(self) -> int:
        """Readers that are connected now."""
        return len(self._writer.matched())

    def destroy(self) -> None:
        self._writer.close()
