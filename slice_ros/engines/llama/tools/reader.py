"""Parts an answer as it grows: text for people, and calls of tools."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable

from slice_ros.engines.llama.text import overlap
from slice_ros.engines.llama.tools.arguments import Reader
from slice_ros.engines.llama.tools.formats import Format
from slice_ros.engines.llama.tools.tool import Tool
from slice_ros.goal import ToolCall

ID_LENGTH = 9
"""Characters of a call's id; Mistral's templates insist on as many."""


class CallReader:
    """Reads one answer. What may yet begin a call is held back until it is certain.

    Args:
        form: how the model writes calls.
        tools: those that it may call.
    """

    def __init__(self, form: Format, tools: Iterable[Tool]) -> None:
        self._form = form
        self._tools = {tool.name: tool for tool in tools}
        self._held = ""
        self._has_said = False
        self._is_calling = False
        self._start = form.first
        self._arguments: Reader | None = None
        self.has_calls = False

    def push(self, text: str, *, is_calling: bool, is_end: bool) -> tuple[str, tuple[ToolCall, ...]]:
        """Add a piece of the answer.

        Args:
            is_calling: whether calls have begun by the end of it.
            is_end: whether nothing follows.

        Returns:
            The text that is no call, and what is new of the calls.
        """
        self._held += text
        said = ""
        if not self._is_calling:
            at = self._held.find(self._form.trigger) if is_calling else -1
            if at < 0:
                certain = len(self._held) if is_end else self._certain()
                said, self._held = self._held[:certain], self._held[certain:]
                self._has_said |= bool(said.strip())
                return said, ()
            said, self._held = self._held[:at], self._held[at:]
            self._is_calling = True
        return said, self._calls()

    def _certain(self) -> int:
        """How many characters of what is held back are text, whatever follows."""
        if not self._form.is_first:
            return len(self._held) - overlap(self._held, self._form.trigger)
        may_begin = not self._has_said and self._form.trigger.startswith(self._held.lstrip())
        return 0 if may_begin else len(self._held)

    def _calls(self) -> tuple[ToolCall, ...]:
        pieces: list[ToolCall] = []
        while True:
            if self._arguments is None:
                found = self._start.match(self._held)
                if found is None:
                    return tuple(pieces)
                pieces.append(ToolCall(_new_id(), found["name"], ""))
                self._held = self._held[found.end() :]
                self._start, self._arguments, self.has_calls = (
                    self._form.next,
                    self._form.arguments.reader(self._tools[found["name"]]),
                    True,
                )
            piece, used, is_over = self._arguments.push(self._held)
            if piece:
                pieces.append(ToolCall("", "", piece))
            self._held = self._held[used:]
            if not is_over:
                return tuple(pieces)
            self._arguments = None


def _new_id() -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(ID_LENGTH))
