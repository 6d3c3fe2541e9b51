"""rclpy's action server, without a coroutine for each goal: an executor would ask every one of them, in each turn, whether it can go on."""

from __future__ import annotations

from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionServer


class GoalServer(ActionServer):
    """Goals run from ``handle.execute()`` until somebody calls :meth:`end`."""

    def notify_execute(self, goal_handle: Any, execute_callback: Any) -> None:
        """rclpy's hook for what a goal does when it begins: nothing."""

    def end(self, handle: Any, outcome: str, result: Any) -> None:
        """Bring a goal to its end.

        Args:
            outcome: ``succeed``, ``abort`` or ``canceled``.
        """
        if not handle.is_active:
            return
        begin(handle)
        getattr(handle, outcome)()
        super().notify_execute(handle, lambda _: result)


def begin(handle: Any) -> None:
    """Show a goal that has waited as executing."""
    if handle.status == GoalStatus.STATUS_ACCEPTED:
        handle.execute()
