"""Who sent the goals in hand, and whether they live: nobody computes for a planner that has crashed."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Empty

from slice_ros.ros.presence import Watch, client_topic

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


class Senders:
    """Watches the presence of each client with goals in hand.

    With a node and a thread of its own: as many subscriptions as there are clients would make each turn of the server's executor longer.

    Args:
        server: the node whose clients they are.
    """

    def __init__(self, server: Node) -> None:
        self._name = server.get_fully_qualified_name()
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
        self._thread = threading.Thread(target=self._spin, name="senders", daemon=True)
        self._thread.start()

    def join(self, sender: str, goal_id: str) -> None:
        """A goal came from this sender."""
        if sender not in self._senders:
            topic = client_topic(self._name, sender)
            self._senders[sender] = _Sender(Watch(self._node, Empty, topic, self._group), time.monotonic())
        self._senders[sender].goals.add(goal_id)

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
        self._senders.pop(name).watch.destroy()

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(timeout=1.0)
        self._node.destroy_node()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()
