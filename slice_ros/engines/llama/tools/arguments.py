"""How models write the arguments of a call: grammars that keep a tool's schema, and readers that make JSON of them."""

from __future__ import annotations

import json
from typing import Protocol

from slice_ros.engines.llama.tools.tool import Tool

SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False, "coerce_one_of": False}
"""JSON with the blanks that templates put into it, and so those that models learnt; what cannot be kept is refused."""


class Reader(Protocol):
    """Reads one call's arguments as they come."""

    def push(self, text: str) -> tuple[str, int, bool]:
        """Returns: the JSON that became certain; how many characters of the text belong to the arguments; whether these have ended."""


class Arguments(Protocol):
    """One way to write arguments."""

    def rules(self, name: str, tool: Tool) -> str:
        """Lark whose rule of that name is the tool's arguments."""

    def reader(self) -> Reader: ...


class JsonArguments:
    """A JSON object."""

    def rules(self, name: str, tool: Tool) -> str:
        return f"{name}: %json {json.dumps({**tool.arguments, 'x-guidance': SPACED})}\n"

    def reader(self) -> Reader:
        return _JsonReader()


class _JsonReader:
    def __init__(self) -> None:
        self._depth = 0
        self._is_string = self._is_escaped = False

    def push(self, text: str) -> tuple[str, int, bool]:
        for at, character in enumerate(text):
            if self._is_string:
                self._is_string = self._is_escaped or character != '"'
                self._is_escaped = not self._is_escaped and character == "\\"
            elif character == '"':
                self._is_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    return text[: at + 1], at + 1, True
        return text, len(text), False


JSON: Arguments = JsonArguments()
