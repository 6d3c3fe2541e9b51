"""Keeps a run to itself: DDS on the loopback interface and on a domain of its own. Call before the ROS layer is imported."""

from __future__ import annotations

import os
import random
import zlib


def isolate(seed: int) -> None:
    """Set the environment of this process and of all it starts; a domain that the caller's environment names is kept."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    for variable in ("ROS_STATIC_PEERS", "CYCLONEDDS_URI", "ROS_LOCALHOST_ONLY", "ROS_NAMESPACE"):
        os.environ.pop(variable, None)
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.Random(zlib.crc32(f"{seed} {os.getpid()}".encode())).randint(1, 100)))
