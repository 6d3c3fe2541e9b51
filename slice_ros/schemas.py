"""JSON schemas of what robots ask a model for. Give one as a goal's ``json_schema``; those in ``BY_NAME`` also by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Schema = dict[str, Any]


def velocity(linear: tuple[float, float] = (-1.5, 1.5), angular: tuple[float, float] = (-1.5, 1.5)) -> Schema:
    """``{"linear": 0.3, "angular": -0.6}``: a velocity command in m/s and rad/s, in tenths; positive turns left (REP 103).

    Args:
        linear: lowest and highest speed, m/s.
        angular: lowest and highest turn, rad/s.
    """
    return _object(linear=_tenths(*linear), angular=_tenths(*angular))


def pose(frames: Sequence[str] = ("map",)) -> Schema:
    """``{"frame": "map", "x": 1.5, "y": -2.0, "yaw": 0.5}``: where to drive, in metres and radians.

    Args:
        frames: the frames it may be given in.
    """
    number = {"type": "number"}
    return _object(frame={"enum": list(frames)}, x=number, y=number, yaw=number)


def navigation(waypoints: Sequence[str] = (), actions: Sequence[str] = ("navigate", "charge"), most: int = 4) -> Schema:
    """``{"action": "navigate", "waypoints": ["hall", "kitchen"]}``: what to drive for, and by which named waypoints.

    Args:
        waypoints: the names there are; empty = any.
        actions: the actions there are.
        most: waypoints in one answer at most.
    """
    name = {"enum": list(waypoints)} if waypoints else {"type": "string"}
    return _object(action={"enum": list(actions)}, waypoints={"type": "array", "items": name, "maxItems": most})


def gripper(widths_mm: Sequence[int] = range(0, 101, 5)) -> Schema:
    """``{"gripper": "open"}``, ``{"gripper": "close"}`` or ``{"gripper": "move", "width_mm": 40}``.

    Args:
        widths_mm: the widths between the fingers it can be told to take, mm.
    """
    return {
        "anyOf": [_object(gripper={"enum": ["open", "close"]}), _object(gripper={"const": "move"}, width_mm={"enum": list(widths_mm)})],
    }


def tool_call(tools: Iterable[Mapping[str, Any]]) -> Schema:
    """``{"name": "pick", "arguments": {"object": "cup"}}``: a call of one of the tools.

    Args:
        tools: descriptions as MCP servers and OpenAI's chat interface give them: ``name``, and the JSON schema of the arguments as
            ``inputSchema`` or ``parameters``; one without takes no arguments.

    Raises:
        ValueError: there is no tool, or one has no name.
    """
    calls = []
    for i, tool in enumerate(tool.get("function", tool) for tool in tools):  # OpenAI's are wrapped
        if not tool.get("name"):
            raise ValueError(f"the tool {dict(tool)} has no name; give it one")
        arguments = tool.get("inputSchema") or tool.get("parameters")
        # With an identifier of its own, its references are to its own definitions.
        described = {"$id": f"tool:{i}", "type": "object", **arguments} if arguments else _object()
        calls.append(_object(name={"const": tool["name"]}, arguments=described))
    if not calls:
        raise ValueError("tools is empty; give at least one")
    return {"anyOf": calls}


def _object(**properties: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _tenths(lowest: float, highest: float) -> Schema:
    """The tenths in a range, listed: bounds alone would let a number have any number of decimals, each a token."""
    return {"enum": [tenths / 10 for tenths in range(round(lowest * 10), round(highest * 10) + 1)]}


BY_NAME: Mapping[str, Schema] = {"velocity": velocity(), "pose": pose(), "navigation": navigation(), "gripper": gripper()}
"""Those that a goal may name in its ``json_schema``."""
