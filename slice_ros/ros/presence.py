"""Whether a process lives, as DDS knows it: its publishers bear a liveliness lease, which DDS's own threads keep up.

A client so notices that its server was killed or stands still, and a server that a client did, and neither takes the other for dead because
it is busy. Below the topic that shows a client's life is one on which it hears the feedback of its goals, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from std_msgs.msg import Empty

from slice_ros.ros import qos
from slice_ros.ros.distributions import InvalidHandle, SubscriptionEventCallbacks, UnsupportedEventTypeError
from slice_ros.ros.interfaces import Generate

AT_ONCE = 16
"""So many pieces of feedback are heard in one turn of an executor, which would hear one, and take longer for the turn than for that. Of a
dispatcher they are fewer than what it tells in a turn, so that it does not hear faster than it tells."""
FOLDER = "_clients"
"""Below a server's name: the topics on which its clients show that they live."""


def client_topic(server: str, client_id: str) -> str:
    """The topic of one client of a server, for which nothing is ever published."""
    return f"{server}/{FOLDER}/{client_id}"


def offer(node: Node, topic: str, group: CallbackGroup) -> Any:
    """A publisher that shows that this process lives."""
    return node.create_publisher(Empty, topic, qos.ALIVE, callback_group=group)


def speak(node: Node, topic: str, group: CallbackGroup | None = None) -> Any:
    """A publisher of feedback for the client that offers this topic."""
    return node.create_publisher(Generate.Impl.FeedbackMessage, f"{topic}/feedback", qos.FEEDBACK, callback_group=group)


def listen(node: Node, topic: str, group: CallbackGroup, hear: Callable[[bytes], None]) -> Any:
    """A subscription of the client that offers this topic; ``hear`` is called with each feedback, serialized."""
    kind = Generate.Impl.FeedbackMessage

    def heard(first: bytes) -> None:
        hear(first)
        for _ in range(AT_ONCE - 1):
            try:
                with subscription.handle:
                    taken = subscription.handle.take_message(kind, True)
            except InvalidHandle:  # what was heard before has destroyed it
                return
            if taken is None:
                return
            hear(taken[0])

    subscription = node.create_subscription(kind, f"{topic}/feedback", heard, qos.FEEDBACK, callback_group=group, raw=True)
    return subscription


class Watch:
    """Looks whether anybody alive publishes on a topic.

    Args:
        kind, topic: what is published there.
        hear: called with each message, serialized.
        changed: called where somebody has come to life or has gone.
    """

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        group: CallbackGroup,
        *,
        hear: Callable[[bytes], None] = lambda _: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._node = node
        self._changed = changed
        self.is_alive: bool | None = None
        """``None`` while the middleware has said nothing."""
        self.can_tell = True
        """Whether the middleware knows of leases; Zenoh does not."""
        options: dict[str, Any] = {"callback_group": group, "raw": True}
        try:
            callbacks = SubscriptionEventCallbacks(liveliness=self._told)
            self._subscription = node.create_subscription(kind, topic, hear, qos.watching(), event_callbacks=callbacks, **options)
        except UnsupportedEventTypeError:
            self.can_tell = False
            self._subscription = node.create_subscription(kind, topic, hear, qos.SERVICE, **options)

    def _told(self, event: Any) -> None:
        self.is_alive = event.alive_count > 0
        self._changed()

    def doubt(self) -> None:
        """Somebody else is there than who has gone, and DDS has said nothing of them yet."""
        if self.is_alive is False:
            self.is_alive = None

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)
