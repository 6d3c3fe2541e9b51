"""QoS of what server and client exchange, the same on both sides.

ROS services keep the last ten requests and replies. A burst of a hundred goals, or sixteen that end with one step, would lose some, and
a lost reply is a client that waits for ever. Depth is not matched between peers, so clients with the default still connect.
"""

from __future__ import annotations

import random
from typing import Any

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile

DEPTH = 2000

LEASE_S = 0.5
"""A process whose DDS threads have said nothing for this long is not alive. They go on while its Python is busy."""

SERVICE = QoSProfile(depth=DEPTH)
"""Reliable, volatile, deep."""

GOAL_EVENTS = QoSProfile(depth=DEPTH)
"""Reliable and deep: a recorder that is slow for a moment loses nothing."""

FEEDBACK = QoSProfile(depth=DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""To one client: what is said before it has discovered who says it comes, too."""

ACTION_STATUS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""As action servers publish the states of their goals: who comes late hears the latest, too."""

ALIVE = QoSProfile(depth=10, liveliness=LivelinessPolicy.AUTOMATIC, liveliness_lease_duration=Duration(seconds=LEASE_S))
"""Of publishers that show that their process lives; who asks for no lease hears them, too."""


def watching() -> QoSProfile:
    """Of a subscription that watches one.

    Each has a lease a little longer than the publisher's, and of its own: of several with the same lease in a process, Fast DDS tells only
    the first of a life, while it tells all of a death (its liveliness manager knows a publisher by its lease, and reports changes alone).
    """
    lease_s = LEASE_S + random.uniform(0.0, 0.1)
    return QoSProfile(depth=10, liveliness=LivelinessPolicy.AUTOMATIC, liveliness_lease_duration=Duration(seconds=lease_s))


SERVER: dict[str, Any] = {f"{name}_qos_profile": SERVICE for name in ("goal_service", "result_service", "cancel_service", "feedback_pub")}
"""Keyword arguments of ``ActionServer``."""
