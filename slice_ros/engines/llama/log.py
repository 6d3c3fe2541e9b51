"""llama.cpp's log, and what it prints besides."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
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


class _CStream:
    """C's ``stderr``, for a while a stream in memory: file descriptor 2, to which all threads write, stays what it is; no disk is needed.

    The stream is never closed, since another thread may be about to print to it.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._stderr = ctypes.c_void_p.in_dll(self._libc, "stderr")
        self._text, self._size = ctypes.c_void_p(), ctypes.c_size_t()
        open_memstream = self._libc.open_memstream
        open_memstream.restype = ctypes.c_void_p
        self._stream = ctypes.c_void_p(open_memstream(ctypes.byref(self._text), ctypes.byref(self._size)))

    def capture(self, function: Callable[[], Any]) -> tuple[Any, str]:
        self._libc.rewind(self._stream)
        stderr, self._stderr.value = self._stderr.value, self._stream.value
        try:
            result = function()
        finally:
            self._stderr.value = stderr
        self._libc.fflush(self._stream)
        printed = ctypes.string_at(self._text, self._size.value)
        return result, printed.decode("utf-8", "replace")


@cache
def _c_stream() -> _CStream:
    return _CStream()


def call_capturing_stderr(function: Callable[[], Any]) -> tuple[Any, str]:
    """Call a function of a C library, and return its result and what it printed; one at a time."""
    return _c_stream().capture(function)
