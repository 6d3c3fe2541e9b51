"""Timers, and the rate that sleeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slice_ros.rclpy_dds.callback_groups import CallbackGroup
from slice_ros.rclpy_dds.waitable import Waitable

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.clock import Clock
    from slice_ros.rclpy_dds.node import Node


class Timer(Waitable):
    """Calls back again and again; when it is late it does not catch up, but keeps its phase.

    Args:
        timer_period_ns: nanoseconds between calls.
    """

    def __init__(
        self,
        callback: Callable[[], Any] | None,
        callback_group: CallbackGroup,
        timer_period_ns: int,
        clock: Clock,
        node: Node,
        autostart: bool = True,
    ) -> None:
        self.callback = callback
        self.callback_group = callback_group
        self.clock = clock
        self._node = node
        self._canceled = not autostart
        self.timer_period_ns = timer_period_ns
        self._last_ns = time.monotonic_ns()
        self._next_ns = self._last_ns + timer_period_ns

    @property
    def timer_period_ns(self) -> int:
        return self._period_ns

    @timer_period_ns.setter
    def timer_period_ns(self, value: int) -> None:
        if value < 0:
            raise ValueError(f"the period is {value} ns; it must be 0 or more")
        self._period_ns = int(value)

    def is_ready(self) -> bool:
        return not self._canceled and time.monotonic_ns() >= self._next_ns

    def is_canceled(self) -> bool:
        return self._canceled

    def cancel(self) -> None:
        """No more calls until ``reset``."""
        self._canceled = True

    def reset(self) -> None:
        """The next call is a full period from now."""
        self._canceled = False
        self._next_ns = time.monotonic_ns() + self._period_ns
        self._node._wake_executor()

    def time_since_last_call(self) -> int:
        return time.monotonic_ns() - self._last_ns

    def time_until_next_call(self) -> int | None:
        """Nanoseconds, negative when late; ``None`` when canceled."""
        return None if self._canceled else self._next_ns - time.monotonic_ns()

    def time_until_next_call_or(self, otherwise: int) -> int:
        until = self.time_until_next_call()
        return otherwise if until is None else until

    def take(self) -> Callable[[], Any] | None:
        if not self.is_ready():
            return None
        now = self._last_ns = time.monotonic_ns()
        self._next_ns += self._period_ns
        if self._next_ns < now:
            periods = (now - self._next_ns) // self._period_ns + 1 if self._period_ns else 0
            self._next_ns = self._next_ns + periods * self._period_ns if self._period_ns else now
        return self.callback

    def destroy(self) -> None:
        self._node.destroy_timer(self)


class Rate:
    """Sleeps to a rhythm, in a thread other than the executor's."""

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self._tick = threading.Condition()
        self._count = 0
        timer.callback = self._ticked

    def _ticked(self) -> None:
        with self._tick:
            self._count += 1
            self._tick.notify_all()

    def sleep(self) -> None:
        """Until the next tick."""
        with self._tick:
            count = self._count
            self._tick.wait_for(lambda: self._count != count or self._timer.is_canceled())

    def destroy(self) -> None:
        self._timer.cancel()
        with self._tick:
            self._tick.notify_all()
        self._timer.destroy()
