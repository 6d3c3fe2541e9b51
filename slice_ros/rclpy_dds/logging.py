"""Loggers: lines on standard error in ROS 2's format, and on ``/rosout`` for a node's logger.

``RCUTILS_CONSOLE_OUTPUT_FORMAT``, ``RCUTILS_LOGGING_USE_STDOUT`` and ``RCUTILS_COLORIZED_OUTPUT`` mean what they mean in ROS 2.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from types import FrameType


class LoggingSeverity(IntEnum):
    UNSET = 0
    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    FATAL = 50


Sink = Callable[[LoggingSeverity, str, str, FrameType, int], None]
"""Gets severity, logger name, message, the caller's frame and the time in nanoseconds since 1970."""

_FORMAT = "[{severity}] [{time}] [{name}]: {message}"
_COLORS = {
    LoggingSeverity.DEBUG: "\x1b[32m", LoggingSeverity.INFO: "\x1b[0m", LoggingSeverity.WARN: "\x1b[33m",
    LoggingSeverity.ERROR: "\x1b[31m", LoggingSeverity.FATAL: "\x1b[31m",
}  # fmt: skip
_lock = threading.Lock()
_levels: dict[str, LoggingSeverity] = {"": LoggingSeverity.INFO}
_sinks: dict[str, Sink] = {}


class RcutilsLogger:
    """Logs under a name; a child is named ``parent.child`` and takes its parent's level where it has none of its own."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._seen: dict[tuple[str, int], float] = {}

    def get_child(self, name: str) -> RcutilsLogger:
        if not name:
            raise ValueError("Child logger name must not be empty.")
        return RcutilsLogger(f"{self.name}.{name}" if self.name else name)

    def set_level(self, level: int) -> None:
        set_logger_level(self.name, LoggingSeverity(level))

    def get_effective_level(self) -> LoggingSeverity:
        return get_logger_effective_level(self.name)

    def is_enabled_for(self, severity: int) -> bool:
        return severity >= self.get_effective_level()

    def log(
        self,
        message: str,
        severity: int,
        *,
        throttle_duration_sec: float | None = None,
        once: bool = False,
        skip_first: bool = False,
        name: str | None = None,
        throttle_time_source_type: object = None,  # noqa: ARG002 - rclpy's signature; always the steady clock here
        frame: FrameType | None = None,
    ) -> bool:
        """Log unless the level or a filter forbids it; says whether it did.

        Args:
            throttle_duration_sec: from this line of code at most one message in so many seconds.
            once: from this line of code only the first message.
            skip_first: from this line of code all but the first message.
        """
        level = LoggingSeverity(severity)
        if not self.is_enabled_for(level):
            return False
        frame = frame or inspect.currentframe().f_back  # type: ignore[union-attr]
        assert frame is not None
        if throttle_duration_sec is not None or once or skip_first:
            line = (frame.f_code.co_filename, frame.f_lineno)
            last, now = self._seen.get(line), time.monotonic()
            if last is None or throttle_duration_sec is None or now - last >= throttle_duration_sec:
                self._seen[line] = now
            elif throttle_duration_sec is not None:
                return False
            if (last is None and skip_first) or (last is not None and once):
                return False
        _emit(level, name or self.name, str(message), frame)
        return True

    def debug(self, message: str, **filters: float) -> bool:
        return self.log(message, LoggingSeverity.DEBUG, frame=_caller(), **filters)  # type: ignore[arg-type]

    def info(self, message: str, **filters: float) -> bool:
        return self.log(message, LoggingSeverity.INFO, frame=_caller(), **filters)  # type: ignore[arg-type]

    def warning(self, message: str, **filters: float) -> bool:
        return self.log(message, LoggingSeverity.WARN, frame=_caller(), **filters)  # type: ignore[arg-type]

    warn = warning

    def error(self, message: str, **filters: float) -> bool:
        return self.log(message, LoggingSeverity.ERROR, frame=_caller(), **filters)  # type: ignore[arg-type]

    def fatal(self, message: str, **filters: float) -> bool:
        return self.log(message, LoggingSeverity.FATAL, frame=_caller(), **filters)  # type: ignore[arg-type]


def get_logger(name: str) -> RcutilsLogger:
    if not name:
        raise ValueError("Logger name must not be empty.")
    return RcutilsLogger(name)


def severity_of(text: str) -> LoggingSeverity:
    """A level by its name, in any case.

    Raises:
        ValueError: there is no such level.
    """
    try:
        return LoggingSeverity[text.upper()]
    except KeyError:
        known = ", ".join(level.name for level in LoggingSeverity)
        raise ValueError(f"{text!r} is no log level; it must be one of {known}") from None


def set_logger_level(name: str, level: int) -> None:
    with _lock:
        _levels[name] = LoggingSeverity(level)


def get_logger_level(name: str) -> LoggingSeverity:
    return _levels.get(name, LoggingSeverity.UNSET)


def get_logger_effective_level(name: str) -> LoggingSeverity:
    """The level of the nearest ancestor that has one."""
    while name:
        level = _levels.get(name, LoggingSeverity.UNSET)
        if level is not LoggingSeverity.UNSET:
            return level
        name = name.rpartition(".")[0]
    return _levels[""] or LoggingSeverity.INFO


def add_sink(name: str, sink: Sink) -> None:
    """Hand what is logged under ``name`` or below to ``sink`` too."""
    with _lock:
        _sinks[name] = sink


def remove_sink(name: str) -> None:
    with _lock:
        _sinks.pop(name, None)


def _caller() -> FrameType | None:
    """The frame that called a logger's method."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame is not None else None
    return frame


def _emit(level: LoggingSeverity, name: str, message: str, frame: FrameType) -> None:
    now_ns = time.time_ns()
    values = {
        "severity": level.name,
        "time": f"{now_ns // 1_000_000_000}.{now_ns % 1_000_000_000:09d}",
        "time_as_nanoseconds": str(now_ns),
        "name": name,
        "message": message,
        "function_name": frame.f_code.co_name,
        "file_name": frame.f_code.co_filename,
        "line_number": str(frame.f_lineno),
    }
    template = os.environ.get("RCUTILS_CONSOLE_OUTPUT_FORMAT") or _FORMAT
    line = re.sub(r"\{(\w+)\}", lambda match: values.get(match.group(1), match.group(0)), template)
    stream = sys.stdout if os.environ.get("RCUTILS_LOGGING_USE_STDOUT") == "1" else sys.stderr
    colored = os.environ.get("RCUTILS_COLORIZED_OUTPUT")
    if colored == "1" or (colored != "0" and stream is not None and stream.isatty()):
        line = f"{_COLORS[level]}{line}\x1b[0m"
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except (AttributeError, OSError, ValueError):
        pass  # no one listens there any more; a logger has nowhere to say so
    ancestor = name
    while ancestor:
        sink = _sinks.get(ancestor)
        if sink is not None:
            sink(level, name, message, frame, now_ns)
            return
        ancestor = ancestor.rpartition(".")[0]
