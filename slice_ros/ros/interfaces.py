"""This package's message, service and action classes, as rosidl generated them from the files in ``msg/``, ``srv/`` and ``action/``."""

from __future__ import annotations

try:
    from slice_ros.action import Generate
    from slice_ros.msg import (
        ChatMessage,
        ClassStatus,
        GoalEvent,
        LoadStatus,
        MaskStatus,
        MemberStatus,
        Sampling,
        Slo,
        SloReport,
        SloStatus,
        TokenLogprob,
        ToolCall,
    )
    from slice_ros.srv import CheckSlo
except ImportError as error:
    raise ImportError(
        f"this package's interfaces are not there for the ROS 2 in use ({error}): "
        "build slice_ros with colcon and source the workspace, or run `make install` in a checkout"
    ) from error

__all__ = [
    "ChatMessage",
    "CheckSlo",
    "ClassStatus",
    "Generate",
    "GoalEvent",
    "LoadStatus",
    "MaskStatus",
    "MemberStatus",
    "Sampling",
    "Slo",
    "SloReport",
    "SloStatus",
    "TokenLogprob",
    "ToolCall",
]
