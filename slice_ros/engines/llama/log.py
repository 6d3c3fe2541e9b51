"""llama.cpp's log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

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
