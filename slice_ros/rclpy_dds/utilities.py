"""The default context."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slice_ros.rclpy_dds import arguments

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.context import Context

_lock = threading.Lock()
_default: Context | None = None


def get_default_context(*, shutting_down: bool = False) -> Context:
    """The context that is used where none is given.

    Raises:
        RuntimeError: ``shutting_down`` and there is none.
    """
    global _default  # noqa: PLW0603
    from slice_ros.rclpy_dds.context import Context

    with _lock:
        if _default is None:
            if shutting_down:
                raise RuntimeError("Cannot shutdown, the default context does not exist")
            _default = Context()
        return _default


def ok(*, context: Context | None = None) -> bool:
    """Is the context initialized and not shut down?"""
    return (context or get_default_context()).ok()


def shutdown(*, context: Context | None = None) -> None:
    """Shut a context down."""
    (context or get_default_context(shutting_down=True)).shutdown()


def try_shutdown(*, context: Context | None = None) -> None:
    """Shut a context down unless it is already."""
    (context or get_default_context()).try_shutdown()


def remove_ros_args(args: Sequence[str] | None = None) -> list[str]:
    """A command line (the process's own where none is given) without its ``--ros-args``."""
    return arguments.remove_ros_args(sys.argv if args is None else args)
