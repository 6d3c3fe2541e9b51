"""The part of rclpy's API that this package uses, over Eclipse Cyclone DDS, for machines without ROS 2.

Modules and names are rclpy's, so that code runs on either; the wire is rmw_cyclonedds_cpp's, so that nodes of both find each other.
What differs from rclpy is told in docs/ros_layer.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slice_ros.rclpy_dds import utilities
from slice_ros.rclpy_dds.context import Context
from slice_ros.rclpy_dds.network import describe_network
from slice_ros.rclpy_dds.signals import SignalHandlerOptions, install_signal_handlers, uninstall_signal_handlers
from slice_ros.rclpy_dds.task import Future
from slice_ros.rclpy_dds.utilities import get_default_context, ok, try_shutdown

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.executors import Executor
    from slice_ros.rclpy_dds.node import Node

__all__ = [
    "Context",
    "SignalHandlerOptions",
    "create_node",
    "describe_network",
    "get_default_context",
    "get_global_executor",
    "init",
    "ok",
    "shutdown",
    "spin",
    "spin_once",
    "spin_until_future_complete",
    "try_shutdown",
]

_executor: Executor | None = None


def init(
    *,
    args: Sequence[str] | None = None,
    context: Context | None = None,
    domain_id: int | None = None,
    signal_handler_options: SignalHandlerOptions | None = None,
) -> None:
    """Initialize a context, see ``Context.init``; the default one where none is given, which SIGINT and SIGTERM then shut down."""
    is_default = context is None or context is get_default_context()
    (context or get_default_context()).init(args, domain_id=domain_id)
    install_signal_handlers(signal_handler_options or (SignalHandlerOptions.ALL if is_default else SignalHandlerOptions.NO))


def shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """Shut a context down, and handle signals as before where it is the default one.

    Raises:
        RuntimeError: it is not initialized, or shut down already.
    """
    utilities.shutdown(context=context)
    if uninstall_handlers or (uninstall_handlers is None and (context is None or context is get_default_context())):
        uninstall_signal_handlers()


def create_node(node_name: str, **options: Any) -> Node:
    """A node; the options are those of ``Node``."""
    from slice_ros.rclpy_dds.node import Node

    return Node(node_name, **options)


def get_global_executor() -> Executor:
    """The executor of the functions below; one per life of the default context."""
    global _executor  # noqa: PLW0603
    from slice_ros.rclpy_dds.executors import SingleThreadedExecutor

    if _executor is None or _executor._is_shutdown:
        _executor = SingleThreadedExecutor()
        get_default_context().on_shutdown(_forget_executor)
    return _executor


def _forget_executor() -> None:
    global _executor
    executor, _executor = _executor, None
    if executor is not None:
        executor.wake()


def spin(node: Node, executor: Executor | None = None) -> None:
    """Run a node's callbacks until its context is shut down.

    Raises:
        ExternalShutdownException: it was shut down from elsewhere, for example by a signal.
    """
    executor = executor or get_global_executor()
    executor.add_node(node)
    try:
        executor.spin()
    finally:
        executor.remove_node(node)


def spin_once(node: Node, *, executor: Executor | None = None, timeout_sec: float | None = None) -> None:
    """Run one callback, after waiting at most ``timeout_sec`` for it."""
    executor = executor or get_global_executor()
    added = executor.add_node(node)
    try:
        executor.spin_once(timeout_sec)
    finally:
        if added:
            executor.remove_node(node)


def spin_until_future_complete(node: Node, future: Future, executor: Executor | None = None, timeout_sec: float | None = None) -> None:
    """Run a node's callbacks until ``future`` is complete, at most ``timeout_sec``."""
    executor = executor or get_global_executor()
    added = executor.add_node(node)
    try:
        executor.spin_until_future_complete(future, timeout_sec)
    finally:
        if added:
            executor.remove_node(node)
