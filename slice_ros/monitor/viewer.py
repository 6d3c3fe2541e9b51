"""A node that keeps the latest status of a server, for views in the terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor

from slice_ros.monitor.silence import Silence
from slice_ros.ros.interfaces import SloStatus


class StatusViewer:
    """Context manager over a node that listens to ``<server>/slo_status``."""

    def __init__(self, server: str = "/slice_server") -> None:
        self._server = server
        self.status: Any = None
        self._silence = Silence()

    @property
    def silent_s(self) -> float:
        """For how long the server has said nothing, where it should have."""
        return self._silence.seconds(time.monotonic())

    def __enter__(self) -> StatusViewer:
        rclpy.init(args=[])
        self._node = rclpy.create_node("slice_monitor")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._node.create_subscription(SloStatus, f"{self._server}/slo_status", self._take, 10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._node.destroy_node()
        rclpy.try_shutdown()

    def spin(self, seconds: float) -> None:
        """Listen for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left)

    def _take(self, status: Any) -> None:
        self.status = status
        self._silence.heard(time.monotonic())
