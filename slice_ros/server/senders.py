"""Who sent the goals in hand: whether they live, as nobody computes for a planner that has crashed, and what they hear."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Empty

from slice_ros.ros.conversions import uuid_msg
from slice_ros.ros.interfaces import Generate
from slice_ros.ros.presence import Watch, speak

GONE_S = 2.0
"""A sender that DDS takes for dead has this long to come back, ..."""
UNSEEN_S = 5.0
"""... and one that was never seen alive to be discovered."""
KEPT_S = 30.0
"""A sender without goals is watched on for this long, as it will send the next."""


@dataclass(slots=True)
class _Sender:
    watch: Watch
    since_s: float
    limit_s: float = UNSEEN_S
    goals: set[str] = field(default_factory=set)
    feedback: Any = None


class Senders:
    """Watches the presence of each client with goals in hand, and tells it alone how they go on.

    With a node and a thread of its own: as many subscriptions as there are clients would make each turn of the server's executor longer.

    Args:
        server: the node whose clients they are.
    """

    def __init__(self, server: Node) -> None:
        self._node = rclpy.create_node(
            f"_{server.get_name()}_senders",
            namespace=server.get_namespace(),
            context=server.context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._group = ReentrantCallbackGroup()
        self._executor = SingleThreadedExecutor(context=server.context)
        self._executor.add_node(self._node)
        self._senders: dict[str, _Sender] = {}
        self._is_closed = False
        self._thread = threading.Thread(target=self._spin, name="senders", daemon=True)
        self._thread.start()

    def join(self, sender: str, goal_id: str, *, streams: bool) -> None:
        """A goal came from the sender that offers this topic, with or without a wish for feedback."""
        now = time.monotonic()
        known = self._senders.get(sender)
        if known is None:
            known = self._senders[sender] = _Sender(Watch(self._node, Empty, sender, self._group), now)
        elif known.watch.is_alive:
            known.since_s = now
        known.goals.add(goal_id)
        if streams and known.feedback is None:
            known.feedback = speak(self._node, sender, self._group)

    def tell(self, sender: str, goal_id: str, feedback: Any) -> None:
        """Send it a ``Generate.Feedback`` of a goal that wishes for it, if it is there."""
        known = self._senders.get(sender)
        if known is not None and known.feedback is not None:
            known.feedback.publish(Generate.Impl.FeedbackMessage(goal_id=uuid_msg(goal_id), feedback=feedback))

    def leave(self, sender: str, goal_id: str) -> None:
        """One of its goals has ended."""
        if sender in self._senders:
            self._senders[sender].goals.discard(goal_id)

    def orphans(self) -> list[str]:
        """Goals whose sender is gone; to be called again and again."""
        now, found = time.monotonic(), list[str]()
        for name, sender in list(self._senders.items()):
            if sender.watch.is_alive or not sender.watch.can_tell:
                sender.since_s, sender.limit_s = now if sender.goals else sender.since_s, GONE_S
                if now - sender.since_s > KEPT_S:
                    self._forget(name)
            elif now - sender.since_s > sender.limit_s:
                found += sender.goals
                self._forget(name)
        return found

    def _forget(self, name: str) -> None:
        sender = self._senders.pop(name)
        sender.watch.destroy()
        if sender.feedback is not None:
            self._node.destroy_publisher(sender.feedback)

    def close(self) -> None:
        self._is_closed = True
        self._executor.wake()
        self._thread.join(timeout=2.0)
        self._executor.shutdown(timeout_sec=1.0)
        self._node.destroy_node()

    def _spin(self) -> None:
        while self._node.context.ok() and not self._is_closed:
            try:
                self._executor.spin_once(timeout_sec=1.0)
            except (ExternalShutdownException, ShutdownException):
                return
            except Exception as error:
                self._node.get_logger().error(f"a callback raised {error!r}, and clients are watched on")
