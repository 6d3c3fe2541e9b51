"""What an executor waits for and runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slice_ros.rclpy_dds.callback_groups import CallbackGroup

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.dds import Condition


class Waitable:
    """An entity of a node: its condition says when there is something to do, ``take`` says what."""

    condition: Condition | None = None
    """``None`` for timers, which wait for a time."""
    callback_group: CallbackGroup

    def take(self) -> Callable[[], Any] | None:
        """Fetch what made the condition trigger; the answer handles it and may return a coroutine. ``None``: nothing to do after all."""
        raise NotImplementedError
