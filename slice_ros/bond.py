"""The heartbeat by which Nav2's lifecycle manager sees that an active node lives; needs ``bondpy``."""

from __future__ import annotations

from typing import Any

from slice_ros.ros import Node

HEARTBEAT_TIMEOUT_S = 4.0
"""As Nav2's nodes have it."""


def form_bond(node: Node, period_s: float) -> Any:
    """A bond that was started, to be ended with ``shutdown()``; ``None`` where ``bondpy`` is not installed or the period is 0."""
    if period_s <= 0.0:
        return None
    try:
        from bondpy.bondpy import Bond
    except ImportError:
        return None
    bond = Bond(node, "bond", node.get_name())
    bond.set_heartbeat_period(period_s)
    bond.set_heartbeat_timeout(HEARTBEAT_TIMEOUT_S)
    bond.start()
    return bond
