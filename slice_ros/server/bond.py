"""The heartbeat by which Nav2's lifecycle manager sees that an active node lives; needs ``bondpy``."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node

HEARTBEAT_TIMEOUT_S = 4.0
"""As Nav2's nodes have it."""


class Heartbeat:
    """A bond with whoever watches this node; where ``bondpy`` is not installed, or with a period of 0, nothing.

    Args:
        node: its name is the bond's id, as Nav2 expects.
        period_s: of the heartbeat.
    """

    def __init__(self, node: Node, period_s: float) -> None:
        self._node = node
        self._bond: Any = None
        if period_s <= 0.0:
            return
        try:
            from bondpy.bondpy import Bond
        except ImportError:
            return
        self._bond = Bond(node, "bond", node.get_name())
        self._bond.set_heartbeat_period(period_s)
        self._bond.set_heartbeat_timeout(HEARTBEAT_TIMEOUT_S)
        self._bond.start()

    def end(self) -> None:
        """Tell the other side that the node is no longer active."""
        bond, self._bond = self._bond, None
        if bond is None:
            return
        bond.break_bond()
        # bondpy destroys its entities without the node's knowledge, and the executor fails on them: the node does it instead.
        with bond.lock:
            subscription, publisher = bond.sub, bond.pub
            bond.sub = bond.pub = _Gone()
        self._node.destroy_subscription(subscription)
        self._node.destroy_publisher(publisher)
        bond.shutdown()


class _Gone:
    """Stands where an entity was."""

    def destroy(self) -> None: ...

    def publish(self, message: Any) -> None: ...
