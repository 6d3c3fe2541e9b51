"""Actions: goals with feedback, a result, and the possibility to cancel."""

from __future__ import annotations

from slice_ros.rclpy_dds.action.client import ActionClient
from slice_ros.rclpy_dds.action.server import ActionServer, CancelResponse, GoalResponse

__all__ = ["ActionClient", "ActionServer", "CancelResponse", "GoalResponse"]
