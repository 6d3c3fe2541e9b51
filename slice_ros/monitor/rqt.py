"""The SLO monitor as an rqt plugin; see ``plugin.xml``."""

from __future__ import annotations

from typing import Any

import python_qt_binding  # noqa: F401 - first, so that slice_ros.monitor.qt takes rqt's Qt
from rqt_gui_py.plugin import Plugin

from slice_ros.monitor.feed import Feed
from slice_ros.monitor.widget import SloMonitor


class SloMonitorPlugin(Plugin):
    """rqt spins the node; the widget polls."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.setObjectName("SloMonitor")
        self._widget = SloMonitor(Feed(context.node))
        if context.serial_number() > 1:
            self._widget.setWindowTitle(f"{self._widget.windowTitle()} ({context.serial_number()})")
        context.add_widget(self._widget)

    def shutdown_plugin(self) -> None:
        self._widget.close_feed()

    def save_settings(self, _plugin_settings: Any, instance_settings: Any) -> None:
        instance_settings.set_value("server", self._widget._feed.server)

    def restore_settings(self, _plugin_settings: Any, instance_settings: Any) -> None:
        self._widget.choose(instance_settings.value("server") or "")
