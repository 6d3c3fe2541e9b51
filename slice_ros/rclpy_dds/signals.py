"""SIGINT and SIGTERM end what spins.

A wait inside Cyclone's C library does not return on a signal, and Python runs signal handlers only between its own instructions. So Python
writes the signal's number to a pipe, and a thread that reads the pipe shuts the contexts down, which ends the waits.
"""

from __future__ import annotations

import os
import signal
import threading
from enum import Enum
from types import FrameType
from typing import Any

from slice_ros.rclpy_dds import context


class SignalHandlerOptions(Enum):
    """Which signals shut the contexts down."""

    NO = 0
    SIGINT = 1
    SIGTERM = 2
    ALL = 3


class _Watcher:
    """The handlers that are installed, and the pipe between them and the thread."""

    def __init__(self) -> None:
        self.options = SignalHandlerOptions.NO
        self._previous: dict[signal.Signals, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._previous_fd = -1

    def install(self, options: SignalHandlerOptions) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers in the main thread only
        self.uninstall()
        if options is SignalHandlerOptions.NO:
            return
        self.options = options
        if self._pipe is None:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, end == self._pipe[0])
            threading.Thread(target=self._watch, args=(self._pipe[0],), name="ros_signals", daemon=True).start()
        self._previous_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            if options in (SignalHandlerOptions.ALL, SignalHandlerOptions[number.name]):
                self._previous[number] = signal.signal(number, self._handle)

    def uninstall(self) -> None:
        if threading.current_thread() is not threading.main_thread() or self.options is SignalHandlerOptions.NO:
            return
        self.options = SignalHandlerOptions.NO
        for number, previous in self._previous.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)
        self._previous.clear()
        signal.set_wakeup_fd(self._previous_fd)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread: whoever handled the signal before gets it too, so that SIGINT raises KeyboardInterrupt."""
        previous = self._previous.get(signal.Signals(number))
        if callable(previous):
            previous(number, frame)

    def _watch(self, pipe: int) -> None:
        while numbers := os.read(pipe, 64):
            if any(number in self._previous for number in numbers):
                context.shutdown_all()


_watcher = _Watcher()


def install_signal_handlers(options: SignalHandlerOptions = SignalHandlerOptions.ALL) -> None:
    """Shut all contexts down on these signals. In the main thread only; elsewhere nothing happens."""
    _watcher.install(options)


def uninstall_signal_handlers() -> None:
    """Handle signals as before."""
    _watcher.uninstall()


def get_current_signal_handlers_options() -> SignalHandlerOptions:
    return _watcher.options
