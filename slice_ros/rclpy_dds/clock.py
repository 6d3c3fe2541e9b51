"""Clocks."""

from __future__ import annotations

import time as _time

from slice_ros.rclpy_dds.clock_type import ClockType
from slice_ros.rclpy_dds.time import Time

__all__ = ["Clock", "ClockType", "ROSClock"]


class Clock:
    """Reads the time; a steady clock never goes back."""

    def __init__(self, *, clock_type: ClockType = ClockType.SYSTEM_TIME) -> None:
        self._clock_type = clock_type

    @property
    def clock_type(self) -> ClockType:
        return self._clock_type

    def now(self) -> Time:
        read = _time.monotonic_ns if self._clock_type == ClockType.STEADY_TIME else _time.time_ns
        return Time(nanoseconds=read(), clock_type=self._clock_type)


class ROSClock(Clock):
    """The clock of a node."""

    def __init__(self) -> None:
        super().__init__(clock_type=ClockType.ROS_TIME)
