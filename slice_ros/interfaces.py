"""Message, service and action classes: rosidl's where rclpy is in use, else built from the interface files.

Times and texts are as the files in ``msg/``, ``srv/`` and ``action/`` say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slice_ros.paths import share_dir
from slice_ros.ros import LAYER

if TYPE_CHECKING or LAYER == "rclpy":
    from action_msgs.msg import GoalInfo, GoalStatus, GoalStatusArray
    from action_msgs.srv import CancelGoal
    from builtin_interfaces.msg import Duration, Time
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from lifecycle_msgs.msg import State, Transition, TransitionDescription, TransitionEvent
    from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, Log, ParameterDescriptor, ParameterEvent, SetParametersResult
    from rcl_interfaces.srv import GetParameters, SetParameters
    from std_msgs.msg import Header, String
    from std_srvs.srv import Empty, SetBool, Trigger
    from unique_identifier_msgs.msg import UUID

    try:
        from slice_ros.action import Generate
        from slice_ros.msg import ChatMessage, ClassStatus, GoalEvent, MaskStatus, Sampling, Slo, SloReport, SloStatus
        from slice_ros.srv import CheckSlo
    except ImportError as error:
        raise ImportError(
            f"rclpy is installed, but not this package's interfaces ({error}); build slice_ros with colcon and source the workspace, "
            "or set SLICE_ROS_LAYER=dds to do without rclpy"
        ) from error
else:
    from slice_ros.rclpy_dds import messages as _messages

    _messages.register("slice_ros", share_dir())

    ChatMessage = _messages.message("slice_ros/msg/ChatMessage")
    ClassStatus = _messages.message("slice_ros/msg/ClassStatus")
    GoalEvent = _messages.message("slice_ros/msg/GoalEvent")
    MaskStatus = _messages.message("slice_ros/msg/MaskStatus")
    Sampling = _messages.message("slice_ros/msg/Sampling")
    Slo = _messages.message("slice_ros/msg/Slo")
    SloReport = _messages.message("slice_ros/msg/SloReport")
    SloStatus = _messages.message("slice_ros/msg/SloStatus")
    CheckSlo = _messages.service("slice_ros/srv/CheckSlo")
    Generate = _messages.action("slice_ros/action/Generate")

    GoalInfo = _messages.message("action_msgs/msg/GoalInfo")
    GoalStatus = _messages.message("action_msgs/msg/GoalStatus")
    GoalStatusArray = _messages.message("action_msgs/msg/GoalStatusArray")
    CancelGoal = _messages.service("action_msgs/srv/CancelGoal")
    Duration = _messages.message("builtin_interfaces/msg/Duration")
    Time = _messages.message("builtin_interfaces/msg/Time")
    DiagnosticArray = _messages.message("diagnostic_msgs/msg/DiagnosticArray")
    DiagnosticStatus = _messages.message("diagnostic_msgs/msg/DiagnosticStatus")
    KeyValue = _messages.message("diagnostic_msgs/msg/KeyValue")
    State = _messages.message("lifecycle_msgs/msg/State")
    Transition = _messages.message("lifecycle_msgs/msg/Transition")
    TransitionDescription = _messages.message("lifecycle_msgs/msg/TransitionDescription")
    TransitionEvent = _messages.message("lifecycle_msgs/msg/TransitionEvent")
    ChangeState = _messages.service("lifecycle_msgs/srv/ChangeState")
    GetAvailableStates = _messages.service("lifecycle_msgs/srv/GetAvailableStates")
    GetAvailableTransitions = _messages.service("lifecycle_msgs/srv/GetAvailableTransitions")
    GetState = _messages.service("lifecycle_msgs/srv/GetState")
    FloatingPointRange = _messages.message("rcl_interfaces/msg/FloatingPointRange")
    IntegerRange = _messages.message("rcl_interfaces/msg/IntegerRange")
    Log = _messages.message("rcl_interfaces/msg/Log")
    ParameterDescriptor = _messages.message("rcl_interfaces/msg/ParameterDescriptor")
    ParameterEvent = _messages.message("rcl_interfaces/msg/ParameterEvent")
    SetParametersResult = _messages.message("rcl_interfaces/msg/SetParametersResult")
    GetParameters = _messages.service("rcl_interfaces/srv/GetParameters")
    SetParameters = _messages.service("rcl_interfaces/srv/SetParameters")
    Header = _messages.message("std_msgs/msg/Header")
    String = _messages.message("std_msgs/msg/String")
    Empty = _messages.service("std_srvs/srv/Empty")
    SetBool = _messages.service("std_srvs/srv/SetBool")
    Trigger = _messages.service("std_srvs/srv/Trigger")
    UUID = _messages.message("unique_identifier_msgs/msg/UUID")

__all__ = [
    "UUID",
    "CancelGoal",
    "ChangeState",
    "ChatMessage",
    "CheckSlo",
    "ClassStatus",
    "DiagnosticArray",
    "DiagnosticStatus",
    "Duration",
    "Empty",
    "FloatingPointRange",
    "Generate",
    "GetAvailableStates",
    "GetAvailableTransitions",
    "GetParameters",
    "GetState",
    "GoalEvent",
    "GoalInfo",
    "GoalStatus",
    "GoalStatusArray",
    "Header",
    "IntegerRange",
    "KeyValue",
    "Log",
    "MaskStatus",
    "ParameterDescriptor",
    "ParameterEvent",
    "Sampling",
    "SetBool",
    "SetParameters",
    "SetParametersResult",
    "Slo",
    "SloReport",
    "SloStatus",
    "State",
    "String",
    "Time",
    "Transition",
    "TransitionDescription",
    "TransitionEvent",
    "Trigger",
]
