"""ROS 2 as this package uses it: ``rclpy`` where it is installed, else ``slice_ros.rclpy_dds``.

``SLICE_ROS_LAYER=rclpy`` or ``SLICE_ROS_LAYER=dds`` forces one of them. What differs between ROS 2 distributions (Humble to Lyrical) is
evened out here and nowhere else.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import TYPE_CHECKING

_VARIABLE = "SLICE_ROS_LAYER"


def _layer() -> str:
    wanted = os.environ.get(_VARIABLE, "").strip().lower()
    if wanted not in ("", "rclpy", "dds"):
        raise ImportError(f"{_VARIABLE} is {wanted!r}; it must be 'rclpy' or 'dds', or not set to use rclpy where it is installed")
    if wanted:
        return "rclpy" if wanted == "rclpy" else "rclpy_dds"
    return "rclpy" if importlib.util.find_spec("rclpy") is not None else "rclpy_dds"


LAYER = _layer()
"""``"rclpy"`` or ``"rclpy_dds"``."""

if TYPE_CHECKING or LAYER == "rclpy_dds":
    from slice_ros import rclpy_dds as rclpy
    from slice_ros.rclpy_dds import qos
    from slice_ros.rclpy_dds.action import ActionClient, ActionServer, CancelResponse, GoalResponse
    from slice_ros.rclpy_dds.action.client import ClientGoalHandle
    from slice_ros.rclpy_dds.action.server import ServerGoalHandle
    from slice_ros.rclpy_dds.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
    from slice_ros.rclpy_dds.clock import Clock, ClockType
    from slice_ros.rclpy_dds.context import Context
    from slice_ros.rclpy_dds.duration import Duration
    from slice_ros.rclpy_dds.exceptions import NotInitializedException, ParameterException, ParameterNotDeclaredException, RCLError
    from slice_ros.rclpy_dds.executors import Executor, ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
    from slice_ros.rclpy_dds.logging import LoggingSeverity, get_logger
    from slice_ros.rclpy_dds.network import describe_network, leave_soon
    from slice_ros.rclpy_dds.node import Node
    from slice_ros.rclpy_dds.parameter import Parameter
    from slice_ros.rclpy_dds.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
    from slice_ros.rclpy_dds.signals import SignalHandlerOptions
    from slice_ros.rclpy_dds.task import Future
    from slice_ros.rclpy_dds.time import Time
    from slice_ros.rclpy_dds.utilities import remove_ros_args
else:
    try:
        import rclpy
        from rclpy import qos
    except ImportError as error:
        raise ImportError(f"rclpy cannot be imported ({error}); source a ROS 2 installation, or unset {_VARIABLE}") from error
    from rclpy._rclpy_pybind11 import RCLError
    from rclpy.action import ActionClient, ActionServer, CancelResponse, GoalResponse
    from rclpy.action.client import ClientGoalHandle
    from rclpy.action.server import ServerGoalHandle
    from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
    from rclpy.clock import Clock, ClockType
    from rclpy.context import Context
    from rclpy.duration import Duration
    from rclpy.exceptions import NotInitializedException, ParameterException, ParameterNotDeclaredException
    from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
    from rclpy.logging import LoggingSeverity, get_logger
    from rclpy.node import Node
    from rclpy.parameter import Parameter
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
    from rclpy.signals import SignalHandlerOptions
    from rclpy.task import Future
    from rclpy.time import Time
    from rclpy.utilities import get_rmw_implementation_identifier, remove_ros_args

    def describe_network() -> str:
        """In words, on which network this process listens and is found."""
        where = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "SUBNET"
        if os.environ.get("ROS_LOCALHOST_ONLY") == "1":
            where = "LOCALHOST"
        return f"ROS domain {os.environ.get('ROS_DOMAIN_ID') or 0}, discovery range {where}, {get_rmw_implementation_identifier()}"

    def leave_soon() -> None:
        """As slice_ros.rclpy_dds.network.leave_soon; what CYCLONEDDS_URI says, which rmw_cyclonedds_cpp reads, comes after it and wins."""
        from slice_ros.rclpy_dds.network import LINGER

        given = os.environ.get("CYCLONEDDS_URI")
        os.environ["CYCLONEDDS_URI"] = f"<CycloneDDS><Domain>{LINGER}</Domain></CycloneDDS>" + (f",{given}" if given else "")


def refusal(error: RCLError) -> str:
    """An error of ROS in one sentence, without the places in its source; with SROS2, where to look."""
    sentence = f"ROS refuses it: {re.sub(r',? at [^ ,]+:[0-9]+', '', str(error)).strip()}"
    if os.environ.get("ROS_SECURITY_ENABLE", "").strip().lower() == "true":
        sentence += "; see whether the enclave (ROS_SECURITY_ENCLAVE_OVERRIDE, --enclave) is there and may do this: SECURITY.md"
    return sentence


def confine_to_loopback() -> None:
    """Keep this process, and those it starts, from being found beyond this machine; to be called before ``rclpy.init``."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.pop("ROS_STATIC_PEERS", None)
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"  # Humble does not know the discovery range yet


__all__ = [
    "LAYER",
    "ActionClient",
    "ActionServer",
    "CallbackGroup",
    "CancelResponse",
    "ClientGoalHandle",
    "Clock",
    "ClockType",
    "Context",
    "DurabilityPolicy",
    "Duration",
    "Executor",
    "ExternalShutdownException",
    "Future",
    "GoalResponse",
    "HistoryPolicy",
    "LoggingSeverity",
    "MultiThreadedExecutor",
    "MutuallyExclusiveCallbackGroup",
    "Node",
    "NotInitializedException",
    "Parameter",
    "ParameterException",
    "ParameterNotDeclaredException",
    "QoSProfile",
    "RCLError",
    "ReentrantCallbackGroup",
    "ReliabilityPolicy",
    "ServerGoalHandle",
    "SignalHandlerOptions",
    "SingleThreadedExecutor",
    "Time",
    "confine_to_loopback",
    "describe_network",
    "get_logger",
    "leave_soon",
    "qos",
    "rclpy",
    "refusal",
    "remove_ros_args",
]
