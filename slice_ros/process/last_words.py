"""What a process says on its stderr: passed on, and its last line kept, which often is the only one to say why it ended."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import IO

LONGEST = 300
"""Characters of a line that are kept."""


class LastWords:
    """Reads a process's stderr on a thread of its own, until everybody who holds it is gone."""

    def __init__(self, stderr: IO[bytes]) -> None:
        self._line = b""
        self._reader = threading.Thread(target=self._read, args=(stderr,), name="engine stderr", daemon=True)
        self._reader.start()

    def wait(self, timeout_s: float) -> str:
        """The last line that is not empty, once the process has ended; a child of its own may keep its stderr open longer than that."""
        self._reader.join(timeout_s)
        return self._line.decode("utf-8", "replace")[:LONGEST]

    def _read(self, stderr: IO[bytes]) -> None:
        with stderr:
            for line in stderr:
                self._line = line.strip() or self._line
                with contextlib.suppress(OSError):  # ours may be closed
                    os.write(2, line)
