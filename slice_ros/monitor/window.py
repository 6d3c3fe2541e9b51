"""``slice-ros monitor``: the SLO monitor in a window of its own, without rqt."""

from __future__ import annotations

import signal
import sys

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from slice_ros.monitor.feed import Feed
from slice_ros.monitor.qt import QtCore, QtWidgets
from slice_ros.monitor.widget import SloMonitor

SPIN_MS = 20
MOST_CALLBACKS = 50
"""So many callbacks are run before the window is painted again."""


def show(server: str) -> int:
    """Open the window; returns when it is closed or a signal comes.

    Returns:
        Exit status.
    """
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(sys.argv[:1])
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("slice_monitor")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    monitor = SloMonitor(Feed(node), server)
    monitor.resize(1280, 760)

    def spin() -> None:
        for _ in range(MOST_CALLBACKS):
            executor.spin_once(timeout_sec=0.0)

    timer = QtCore.QTimer()
    timer.timeout.connect(spin)
    timer.start(SPIN_MS)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: application.quit())
    monitor.show()
    try:
        status = application.exec() if hasattr(application, "exec") else application.exec_()
    finally:
        timer.stop()
        monitor.close_feed()
        node.destroy_node()
        rclpy.try_shutdown()
    return int(status)
