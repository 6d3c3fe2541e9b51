"""llama.cpp's log, and what it prints besides."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import llama_cpp

_logger = logging.getLogger(__name__)


class Log:
    """Where llama.cpp's log goes: its warnings and errors to Python's, or errors to whoever collects them to explain a failure."""

    _LEVELS: ClassVar = {3: logging.WARNING, 4: logging.ERROR}  # the others are noise
    _CONTINUED = 5

    def __init__(self) -> None:
        self._level: int | None = None
        self._collectors: dict[int, tuple[list[str], bool]] = {}
        self._callback = llama_cpp.llama_log_callback(self._write)  # must live as long as llama.cpp may call it
        llama_cpp.llama_log_set(self._callback, None)

    @contextmanager
    def collect_errors(self, *, quiet: bool = False) -> Iterator[list[str]]:
        """Errors of this thread go to the list and not into the log; with ``quiet``, its warnings go nowhere."""
        thread = threading.get_ident()
        errors: list[str] = []
        self._collectors[thread] = errors, quiet
        try:
            yield errors
        finally:
            del self._collectors[thread]

    def _write(self, level: int, text: bytes, _user_data: object) -> None:
        if level != self._CONTINUED:
            self._level = self._LEVELS.get(level)
        line = text.decode("utf-8", "replace").strip()
        if self._level is None or not line:
            return
        errors, quiet = self._collectors.get(threading.get_ident(), (None, False))
        if errors is not None and self._level == logging.ERROR:
            errors.append(line)
        elif not quiet:
            _logger.log(self._level, "llama.cpp: %s", line)


log = Log()


def reason(errors: Sequence[str]) -> str:
    """What the collected errors say, each once."""
    return "; ".join(dict.fromkeys(errors)) or "no reason given"


def call_capturing_stderr(function: Callable[[], Any]) -> tuple[Any, str]:
    """Call a function of a C library, and return its result and what it printed."""
    try:
        saved = os.dup(2)
    except OSError:  # closed: nobody reads it
        return function(), ""
    file = os.memfd_create("stderr")  # in memory: a disk may be full
    try:
        os.dup2(file, 2)
        try:
            result = function()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        # Another thread may just be writing to it: to seek would have it write over what is there.
        return result, os.pread(file, os.fstat(file).st_size, 0).decode("utf-8", "replace")
    finally:
        os.close(file)
