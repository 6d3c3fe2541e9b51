"""How families of models write calls of tools."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from slice_ros.engines.llama.tools.arguments import JSON, Arguments
from slice_ros.engines.llama.tools.tool import Choice

Literal = Callable[[str], str]
"""A text as Lark, control tokens and all."""


@dataclass(frozen=True, slots=True)
class Format:
    """How calls are written: opening, call, separator, call, ..., closing; a call is head, name, middle, arguments, tail.

    Args:
        name: the family's.
        opening: what comes before the first call.
        head, middle, tail: what comes before a call's name, between it and the arguments, and after these.
        closing: what comes after the last call.
        separator: what comes between calls; empty is one call only.
        trigger: what of the opening and the first head tells that calls begin.
        is_first: whether they begin where the answer does or nowhere, as what begins them may be in any text.
        arguments: how arguments are written.
    """

    name: str
    opening: str
    head: str
    middle: str
    tail: str
    closing: str
    separator: str
    trigger: str
    is_first: bool = False
    arguments: Arguments = JSON

    def grammar(self, choice: Choice, literal: Literal) -> str:
        """Lark of calls of tools, one at least; where none is required, what comes first is the end of some text, with the trigger."""
        opening = literal(self.opening)
        prefix = ""
        if not choice.is_required:
            rest = literal(self.opening.removeprefix(self.trigger).lstrip())
            if literal(self.trigger).startswith("<["):
                opening = f"{literal(self.trigger)} {BLANKS} {rest}"
            elif self.is_first:
                opening = f"{BLANKS} {opening}"
            else:
                opening, prefix = f"begin {BLANKS} {rest}", f"begin[lazy]: /(?s:.*)/ {literal(self.trigger)}\n"
        more = f"({literal(self.separator)} call)*" if self.separator and not choice.is_single else ""
        lines = [f"start: {opening} call {more} {literal(self.closing)}\n{prefix}"]
        lines.append("call: " + " | ".join(f"call{i}" for i in range(len(choice.tools))) + "\n")
        for i, tool in enumerate(choice.tools):
            lines.append(f"call{i}: {literal(self.head + tool.name + self.middle)} arguments{i} {literal(self.tail)}\n")
            lines.append(self.arguments.rules(f"arguments{i}", tool))
        return "".join(lines)

    @property
    def texts(self) -> str:
        """All that it puts around names and arguments."""
        return self.opening + self.head + self.middle + self.tail + self.separator + self.closing

    @property
    def first(self) -> re.Pattern[str]:
        """Matches from the opening to the first call's arguments."""
        return self._start(self.opening)

    @property
    def next(self) -> re.Pattern[str]:
        """Matches from behind a call's arguments to the next one's."""
        return self._start(self.tail + self.separator)

    def _start(self, before: str) -> re.Pattern[str]:
        return re.compile(rf"\s*{_loose(before + self.head)}(?P<name>[^\s\"(){{}}\[\]]+){_loose(self.middle)}")


BLANKS = "/[ \\n]?/"
"""What models put between a trigger and what follows is not always what templates do."""


def _loose(text: str) -> str:
    """A regular expression of a text, whatever white space is in it."""
    return r"\s*".join(re.escape(part) for part in re.split(r"\s+", text))


HERMES = Format(
    "hermes",
    opening="<tool_call>\n",
    head='{"name": "',
    middle='", "arguments": ',
    tail="}",
    closing="\n</tool_call>",
    separator="\n</tool_call>\n<tool_call>\n",
    trigger="<tool_call>",
)
"""Hermes, Qwen 2.5 and 3, SmolLM 3, Granite 4; also for models whose template knows no tools."""


def form_of(template: str) -> Format:
    """How a model writes calls, by its chat template; one that does not say is told to do it as Hermes does."""
    return next((form for mark, form in BY_MARK.items() if mark in template), HERMES)


BY_MARK: dict[str, Format] = {}
"""The first text that a template holds tells of its format."""
