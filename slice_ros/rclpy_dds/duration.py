"""Spans of time."""

from __future__ import annotations

from functools import total_ordering
from typing import Any

from slice_ros.rclpy_dds import messages

S_TO_NS = 1_000_000_000


@total_ordering
class Duration:
    """A span of time, possibly negative, in nanoseconds."""

    def __init__(self, *, seconds: float = 0, nanoseconds: int = 0) -> None:
        total = int(seconds * S_TO_NS) + int(nanoseconds)
        if not -(1 << 63) <= total < 1 << 63:
            raise OverflowError(f"{total} ns do not fit into 64 bits")
        self._nanoseconds = total

    @property
    def nanoseconds(self) -> int:
        return self._nanoseconds

    def to_msg(self) -> Any:
        """As ``builtin_interfaces/Duration``."""
        sec, nanosec = divmod(self._nanoseconds, S_TO_NS)
        return messages.message("builtin_interfaces/msg/Duration")(sec=sec, nanosec=nanosec)

    @classmethod
    def from_msg(cls, msg: Any) -> Duration:
        return cls(nanoseconds=msg.sec * S_TO_NS + msg.nanosec)

    def __repr__(self) -> str:
        return f"Duration(nanoseconds={self._nanoseconds})"

    def __eq__(self, other: object) -> bool:
        return self._nanoseconds == other._nanoseconds if isinstance(other, Duration) else NotImplemented

    def __lt__(self, other: Duration) -> bool:
        return self._nanoseconds < other._nanoseconds if isinstance(other, Duration) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._nanoseconds)


Infinite = Duration(nanoseconds=(1 << 63) - 1)
