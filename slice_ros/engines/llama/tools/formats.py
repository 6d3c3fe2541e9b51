"""How families of models write calls of tools."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace

from slice_ros.engines.llama.tools.arguments import JSON, Arguments, GemmaArguments, Literal, PythonArguments, XmlArguments
from slice_ros.engines.llama.tools.tool import NAME, Choice

BLANKS = "/[ \\n]?/"
"""What models put between a trigger and what follows is not always what templates do."""


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
        """Lark of calls of tools, one at least; where none is required, what comes first is the end of some text, with the trigger.

        Raises:
            GoalError: INVALID_GRAMMAR; a tool's arguments cannot be kept in this form.
        """
        opening, begin = literal(self.opening), ""
        if not choice.is_required:
            rest = literal(self.opening.removeprefix(self.trigger).lstrip())
            if self.is_first:
                opening = f"{BLANKS} {opening}"
            elif literal(self.trigger).startswith("<["):
                opening = f"{literal(self.trigger)} {BLANKS} {rest}"
            else:
                opening, begin = f"begin {BLANKS} {rest}", f"begin[lazy]: /(?s:.*)/ {literal(self.trigger)}\n"
        more = f"({literal(self.separator)} call)*" if self.separator and not choice.is_single else ""
        lines = [f"start: {opening} call {more} {literal(self.closing)}\n{begin}"]
        lines.append("call: " + " | ".join(f"call{i}" for i in range(len(choice.tools))) + "\n")
        for i, tool in enumerate(choice.tools):
            lines.append(f"call{i}: {literal(self.head + tool.name + self.middle)} arguments{i} {literal(self.tail)}\n")
            lines.append(self.arguments.rules(f"arguments{i}", tool, literal))
        return "".join(lines)

    def written(self, calls: Iterable[tuple[str, dict[str, object]]]) -> str:
        """Calls, each a name and arguments, as the model writes them."""
        each = (self.head + name + self.middle + self.arguments.written(arguments) + self.tail for name, arguments in calls)
        return self.opening + self.separator.join(each) + self.closing

    @property
    def texts(self) -> str:
        """All that it puts around names and arguments."""
        return self.written([("", {"": ""})]) + self.separator

    @property
    def first(self) -> re.Pattern[str]:
        """Matches from the opening to the first call's arguments."""
        return self._start(self.opening.replace(self.trigger, f"{self.trigger} "))

    @property
    def next(self) -> re.Pattern[str]:
        """Matches from behind a call's arguments to the next one's."""
        return self._start(self.tail + self.separator)

    def _start(self, before: str) -> re.Pattern[str]:
        return re.compile(rf"\s*{_loose(before + self.head)}(?P<name>{NAME.pattern}){_loose(self.middle)}")


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

QWEN_XML = replace(HERMES, name="qwen-xml", head="<function=", middle=">\n", tail="</function>", arguments=XmlArguments())
"""Qwen 3.5 and Qwen 3 Coder."""

LLAMA = Format(
    "llama",
    opening="",
    head='{"name": "',
    middle='", "parameters": ',
    tail="}",
    closing="",
    separator="",
    trigger='{"name"',
    is_first=True,
)
"""Llama 3.1 to 3.3, one call in an answer."""

MISTRAL = Format(
    "mistral",
    opening="[TOOL_CALLS]",
    head="",
    middle="[ARGS]",
    tail="",
    closing="",
    separator="[TOOL_CALLS]",
    trigger="[TOOL_CALLS]",
)
"""Mistral's models since 2025."""

MISTRAL_LIST = replace(HERMES, name="mistral-list", opening="[TOOL_CALLS][", closing="]", separator=", ", trigger="[TOOL_CALLS]")
"""Mistral's models before."""

GRANITE = replace(MISTRAL_LIST, name="granite", opening="<|tool_call|>[", trigger="<|tool_call|>")
"""Granite 3."""

GEMMA = Format(
    "gemma",
    opening="<|tool_call>",
    head="call:",
    middle="{",
    tail="}",
    closing="<tool_call|>",
    separator="<tool_call|><|tool_call>",
    trigger="<|tool_call>",
    arguments=GemmaArguments('<|"|>'),
)
"""Gemma 4."""

FUNCTION_GEMMA = replace(
    GEMMA,
    name="function-gemma",
    opening="<start_function_call>",
    closing="<end_function_call>",
    separator="<end_function_call><start_function_call>",
    trigger="<start_function_call>",
    arguments=GemmaArguments("<escape>"),
)
"""FunctionGemma, made of Gemma 3."""

LFM = Format(
    "lfm2",
    opening="<|tool_call_start|>[",
    head="",
    middle="(",
    tail=")",
    closing="]<|tool_call_end|>",
    separator=", ",
    trigger="<|tool_call_start|>",
    arguments=PythonArguments(),
)
"""LFM 2 and 2.5."""

MARKS = tuple(
    (re.compile(mark), form)
    for mark, form in (
        (r"<\|tool_call>", GEMMA),
        (r"<start_function_call>", FUNCTION_GEMMA),
        (r"\[ARGS\]", MISTRAL),
        (r"\[TOOL_CALLS\]", MISTRAL_LIST),
        (r"<\|tool_call\|>", GRANITE),
        (r"<parameter=", QWEN_XML),
        (r"<arg_key>", None),  # GLM's, which also has <tool_call>
        (r"<tool_call>[\s\S]*arguments", HERMES),
        (r"<\|tool_(?:list|call)_start\|>", LFM),
        (r'"name": function name, "parameters": ', LLAMA),
    )
)
"""The first of these that a template holds tells its family."""


def format_of(template: str, tokens: Container[str]) -> Format | None:
    """How a model writes calls, by its chat template and its control tokens; ``None`` if they do not tell."""
    for mark, form in MARKS:
        if mark.search(template):
            return form
    return LFM if knows_tools(template) and LFM.trigger in tokens else None


def knows_tools(template: str) -> bool:
    """Whether a chat template says which tools there are."""
    return re.search(r"\btools\b", template) is not None
