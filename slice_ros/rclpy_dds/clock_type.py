"""Kinds of clocks."""

from __future__ import annotations

from enum import IntEnum


class ClockType(IntEnum):
    """ROS time follows the system's wall clock here; simulated time is not supported."""

    UNINITIALIZED = 0
    ROS_TIME = 1
    SYSTEM_TIME = 2
    STEADY_TIME = 3
