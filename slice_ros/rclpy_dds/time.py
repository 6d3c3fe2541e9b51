"""Points in time."""

from __future__ import annotations

from typing import Any, overload

from slice_ros.rclpy_dds import messages
from slice_ros.rclpy_dds.clock_type import ClockType
from slice_ros.rclpy_dds.duration import S_TO_NS, Duration


class Time:
    """A point in time of one clock, in nanoseconds since that clock's epoch."""

    def __init__(self, *, seconds: float = 0, nanoseconds: int = 0, clock_type: ClockType = ClockType.SYSTEM_TIME) -> None:
        total = int(seconds * S_TO_NS) + int(nanoseconds)
        if not 0 <= total < 1 << 63:
            raise ValueError(f"{total} ns are no point in time; it must be 0 or more and fit into 63 bits")
        self._nanoseconds, self._clock_type = total, clock_type

    @property
    def nanoseconds(self) -> int:
        return self._nanoseconds

    @property
    def clock_type(self) -> ClockType:
        return self._clock_type

    def seconds_nanoseconds(self) -> tuple[int, int]:
        return divmod(self._nanoseconds, S_TO_NS)

    def to_msg(self) -> Any:
        """As ``builtin_interfaces/Time``."""
        sec, nanosec = self.seconds_nanoseconds()
        return messages.message("builtin_interfaces/msg/Time")(sec=sec, nanosec=nanosec)

    @classmethod
    def from_msg(cls, msg: Any, clock_type: ClockType = ClockType.ROS_TIME) -> Time:
        return cls(nanoseconds=msg.sec * S_TO_NS + msg.nanosec, clock_type=clock_type)

    def __repr__(self) -> str:
        return f"Time(nanoseconds={self._nanoseconds}, clock_type={self._clock_type.name})"

    def __add__(self, other: Duration) -> Time:
        if not isinstance(other, Duration):
            return NotImplemented
        return Time(nanoseconds=self._nanoseconds + other.nanoseconds, clock_type=self._clock_type)

    __radd__ = __add__

    @overload
    def __sub__(self, other: Time) -> Duration: ...
    @overload
    def __sub__(self, other: Duration) -> Time: ...
    def __sub__(self, other: Time | Duration) -> Duration | Time:
        if isinstance(other, Time):
            return Duration(nanoseconds=self._nanoseconds - self._comparable(other))
        if isinstance(other, Duration):
            return Time(nanoseconds=self._nanoseconds - other.nanoseconds, clock_type=self._clock_type)
        return NotImplemented

    def __eq__(self, other: object) -> bool:
        return self._nanoseconds == self._comparable(other) if isinstance(other, Time) else NotImplemented

    def __lt__(self, other: Time) -> bool:
        return self._nanoseconds < self._comparable(other) if isinstance(other, Time) else NotImplemented

    def __le__(self, other: Time) -> bool:
        return self._nanoseconds <= self._comparable(other) if isinstance(other, Time) else NotImplemented

    def __gt__(self, other: Time) -> bool:
        return self._nanoseconds > self._comparable(other) if isinstance(other, Time) else NotImplemented

    def __ge__(self, other: Time) -> bool:
        return self._nanoseconds >= self._comparable(other) if isinstance(other, Time) else NotImplemented

    def __hash__(self) -> int:
        return hash((self._nanoseconds, self._clock_type))

    def _comparable(self, other: Time) -> int:
        if other._clock_type != self._clock_type:
            raise TypeError(f"times of different clocks: {self._clock_type.name} and {other._clock_type.name}")
        return other._nanoseconds
