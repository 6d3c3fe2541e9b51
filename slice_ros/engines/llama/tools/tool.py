"""The tools of a goal, and which of them its answer may call, or must."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from slice_ros.goal import ErrorCode, GoalError

NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
COMBINING = {"$ref", "allOf", "anyOf", "oneOf", "patternProperties", "unevaluatedProperties", "additionalProperties"}
"""What a schema may say about properties elsewhere than in ``properties``."""
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
"""Parameters of a tool that says nothing of any."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool.

    Args:
        name: by which it is called.
        description: what it is for.
        parameters: JSON schema of its arguments, an object's.
    """

    name: str
    description: str
    parameters: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """The schema that arguments keep: of an object that lists properties they have no others, unless it says so."""
        is_closed = "properties" in self.parameters and not COMBINING & self.parameters.keys()
        return {"type": "object", **self.parameters, **({"additionalProperties": False} if is_closed else {})}

    @property
    def described(self) -> dict[str, Any]:
        """As templates take it, which is as OpenAI's chat interface has it."""
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": self.parameters}}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which tools an answer may call.

    Args:
        tools: these.
        is_required: it must call one and may say nothing else.
        is_single: it may not call more than one.
    """

    tools: tuple[Tool, ...]
    is_required: bool = False
    is_single: bool = False


def parse(text: str) -> tuple[Tool, ...]:
    """The tools of a goal: OpenAI's, each with its ``function``, or an MCP server's, each with an ``inputSchema``.

    Raises:
        GoalError: INVALID_GOAL, with the place.
    """
    if not text:
        return ()
    try:
        listed = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _refusal(f"tools is no JSON ({error}); give a list of tools") from error
    if not isinstance(listed, list):
        raise _refusal(f"tools is {text[:40]!r}; it must be a JSON list of tools")
    tools = tuple(_tool(f"tools[{i}]", given) for i, given in enumerate(listed))
    names = [tool.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise _refusal(f"tools has two that are called {twice!r}; give each a name of its own")
    return tools


def choose(tools: tuple[Tool, ...], choice: str) -> Choice:
    """What ``tool_choice`` makes of the tools.

    Raises:
        GoalError: INVALID_GOAL; it names none of them.
    """
    if choice in ("", "auto", "none"):
        return Choice(tools)
    chosen = tools if choice == "required" else tuple(tool for tool in tools if tool.name == choice)
    if not chosen:
        names = ", ".join(tool.name for tool in tools) or "none"
        raise _refusal(f"tool_choice is {choice[:40]!r}; it must be auto, none, required, or the name of a tool, which are: {names}")
    return Choice(chosen, is_required=True, is_single=choice != "required")


def _tool(place: str, given: Any) -> Tool:
    described = given.get("function", given) if isinstance(given, dict) else None
    if not isinstance(described, dict):
        raise _refusal(f"{place} is {json.dumps(given)[:40]}; it must be an object with a name")
    name, description = described.get("name"), described.get("description") or ""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _refusal(f"{place} has {json.dumps(name)[:40]} for a name; it must be 1 to 128 letters, digits and any of _ . : / -")
    if name in ("auto", "none", "required"):
        raise _refusal(f"{place} is called {name!r}, which tool_choice has a meaning of its own for; give it another name")
    parameters = described.get("parameters") or described.get("inputSchema") or NOTHING
    if not isinstance(description, str) or not isinstance(parameters, dict):
        raise _refusal(f"{place} ({name}) must have a string for a description, and a JSON schema for parameters")
    if parameters.get("type", "object") != "object":
        raise _refusal(f"{place} ({name}) has parameters of type {json.dumps(parameters['type'])[:40]}; arguments are an object")
    return Tool(name, description, parameters)


def _refusal(what: str) -> GoalError:
    return GoalError(ErrorCode.INVALID_GOAL, what)
