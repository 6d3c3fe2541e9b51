"""Subscriptions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from slice_ros.rclpy_dds import messages, qos
from slice_ros.rclpy_dds.callback_groups import CallbackGroup
from slice_ros.rclpy_dds.cdr import DecodeError
from slice_ros.rclpy_dds.qos import QoSProfile
from slice_ros.rclpy_dds.waitable import Waitable

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.node import Node


class Subscription(Waitable):
    """Calls back with each message of a topic. Made by ``Node.create_subscription``.

    Bytes that are no message of the topic's type are logged and dropped.

    Args:
        raw: the callback gets the serialized bytes.
    """

    def __init__(
        self,
        node: Node,
        msg_type: Any,
        topic: str,
        callback: Callable[[Any], Any],
        callback_group: CallbackGroup,
        qos_profile: QoSProfile,
        raw: bool,
    ) -> None:
        self.msg_type = msg_type
        self.callback = callback
        self.callback_group = callback_group
        self.qos_profile = qos_profile
        self.raw = raw
        self._node = node
        self._topic = topic
        typename = msg_type.__msgtype__
        self._codec = messages.codec(typename)
        user_data = f"typehash={messages.type_hash(typename)};"
        self._reader = node.context.participant.reader(f"rt{topic}", typename, qos.to_dds(qos_profile, user_data))
        self.condition = self._reader.condition
        self.endpoints = [("readers", self._reader.guid)]

    @property
    def topic_name(self) -> str:
        return self._topic

    topic = topic_name

    def wants(self, data: bytes) -> bool:  # noqa: ARG002 - for subclasses
        """Whether these bytes are to be decoded and handed over; others are passed over."""
        return True

    def take(self) -> Callable[[], Any] | None:
        while (sample := self._reader.take()) is not None:
            if not self.wants(sample.data):
                continue
            if self.raw:
                return partial(self.callback, sample.data)
            try:
                return partial(self.callback, self._codec.decode(sample.data))
            except DecodeError as error:
                self._node.get_logger().error(f"dropped a message on {self._topic}: {error}", throttle_duration_sec=1.0)
        return None

    def get_publisher_count(self) -> int:
        """Writers that are connected now."""
        return len(self._reader.matched())

    def destroy(self) -> None:
        self._reader.close()
