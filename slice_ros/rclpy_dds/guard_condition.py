"""A callback that is set off by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slice_ros.rclpy_dds.callback_groups import CallbackGroup
from slice_ros.rclpy_dds.dds import Guard, Participant
from slice_ros.rclpy_dds.waitable import Waitable


class GuardCondition(Waitable):
    """Calls back in the executor after ``trigger()``, which any thread may call."""

    def __init__(self, callback: Callable[[], Any] | None, callback_group: CallbackGroup, participant: Participant) -> None:
        self.callback = callback
        self.callback_group = callback_group
        self._guard = self.condition = Guard(participant)

    def trigger(self) -> None:
        self._guard.trigger()

    def take(self) -> Callable[[], Any] | None:
        return self.callback if self._guard.take() else None

    def destroy(self) -> None:
        self._guard.close()
