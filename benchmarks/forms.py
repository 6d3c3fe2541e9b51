"""Structured answers that robots ask for: questions, and the schemas of their answers."""

from __future__ import annotations

import random
from collections.abc import Callable

from slice_ros import schemas
from slice_ros.demo.language import LANDMARKS, OBJECTS, ROOMS, control, navigation

MOST_TOKENS = 200
TOOLS = (
    ("move_to", {"place": {"enum": ["kitchen", "hall", "lab", "dock"]}, "speed": {"enum": ["slow", "normal", "fast"]}}),
    ("pick_up", {"object": {"enum": ["cup", "box", "bottle"]}, "hand": {"enum": ["left", "right"]}}),
    ("say", {"text": {"type": "string", "maxLength": 30}}),
    ("take_picture", {"camera": {"enum": ["front", "back"]}, "flash": {"type": "boolean"}}),
    ("wait", {"seconds": {"enum": [1, 2, 5, 10, 30, 60]}}),
)


def forms(repeats: int, seed: int = 1) -> dict[str, tuple[list[str], schemas.Schema]]:
    """Prompts and a schema for each kind of answer."""
    tools = [
        {"name": name, "parameters": {"type": "object", "properties": of, "required": list(of), "additionalProperties": False}}
        for name, of in TOOLS
    ]
    rng = random.Random(seed)
    ask: dict[str, Callable[[], str]] = {
        "velocity": lambda: control(rng).prompt,
        "pose": lambda: f"Where is the {rng.choice(LANDMARKS)}?",
        "navigation": lambda: navigation(rng).prompt,
        "gripper": lambda: f"Take the {rng.choice(OBJECTS)}.",
        "call of one of five tools": lambda: (
            f"Bring me the {rng.choice(OBJECTS)} from the {rng.choice(ROOMS)}. Which tool do you call first?"
        ),
    }
    of = {**schemas.BY_NAME, "call of one of five tools": schemas.tool_call(tools)}
    return {name: ([ask[name]() for _ in range(repeats)], schema) for name, schema in of.items()}
