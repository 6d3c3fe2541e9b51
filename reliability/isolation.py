"""Keeps a run to itself: DDS on the loopback interface and on a domain of its own. To be called before ``rclpy.init``."""

from __future__ import annotations

import os
import random
import zlib

from slice_ros.ros.distributions import confine_to_loopback


def isolate(seed: int) -> None:
    """Set the environment of this process and of all it starts; a domain that the caller's environment names is kept."""
    for variable in ("CYCLONEDDS_URI", "FASTDDS_DEFAULT_PROFILES_FILE", "ROS_LOCALHOST_ONLY", "ROS_NAMESPACE"):
        os.environ.pop(variable, None)
    confine_to_loopback()
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.Random(zlib.crc32(f"{seed} {os.getpid()}".encode())).randint(1, 100)))
