"""Schemas of what robots ask for: what they accept, by name or made for a robot, and that the demo's language speaks them."""

from __future__ import annotations

import json
import random

import pytest
from jsonschema import Draft202012Validator

from slice_ros import schemas
from slice_ros.client import Answer
from slice_ros.demo.language import control, navigation
from slice_ros.scheduling.task import SloReport


def accepts(schema: schemas.Schema, answer: object) -> bool:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema).is_valid(answer)


@pytest.mark.parametrize(
    ("name", "answer", "wrong"),
    [
        ("velocity", {"linear": 0.3, "angular": -1.5}, {"linear": 1.6, "angular": 0.0}),
        ("pose", {"frame": "map", "x": 1.25, "y": -3, "yaw": 0.5}, {"frame": "odom", "x": 0, "y": 0, "yaw": 0}),
        ("navigation", {"action": "navigate", "waypoints": ["hall"]}, {"action": "fly", "waypoints": []}),
        ("gripper", {"gripper": "open"}, {"gripper": "open", "width_mm": 5}),
        ("gripper", {"gripper": "move", "width_mm": 40}, {"gripper": "move"}),
    ],
)
def test_a_schema_by_name_accepts_its_answers_and_no_others(name, answer, wrong):
    assert accepts(schemas.BY_NAME[name], answer)
    assert not accepts(schemas.BY_NAME[name], wrong)


def test_a_schema_can_be_made_for_a_robot():
    slow = schemas.velocity(linear=(0.0, 0.5))
    assert accepts(slow, {"linear": 0.5, "angular": 0.1})
    assert not accepts(slow, {"linear": -0.1, "angular": 0.1})
    assert not accepts(schemas.navigation(["dock"]), {"action": "navigate", "waypoints": ["moon"]})


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "pick", "inputSchema": {"type": "object", "properties": {"object": {"type": "string"}}, "required": ["object"]}},
        {"type": "function", "function": {"name": "pick", "parameters": {"properties": {"object": {}}, "required": ["object"]}}},
    ],
    ids=["MCP", "OpenAI"],
)
def test_a_tool_call_takes_a_tool_that_there_is_with_its_arguments(tool):
    schema = schemas.tool_call([tool, {"name": "stop"}])
    assert accepts(schema, {"name": "pick", "arguments": {"object": "cup"}})
    assert accepts(schema, {"name": "stop", "arguments": {}})
    assert not accepts(schema, {"name": "pick", "arguments": {}})
    assert not accepts(schema, {"name": "fly", "arguments": {}})
    assert not accepts(schema, {"name": "stop", "arguments": {"now": 1}})


@pytest.mark.parametrize(("tools", "sentence"), [([], "empty"), ([{"parameters": {}}], "no name")])
def test_tools_that_cannot_be_called_are_refused(tools, sentence):
    with pytest.raises(ValueError, match=sentence):
        schemas.tool_call(tools)


@pytest.mark.parametrize(("task", "name"), [(control, "velocity"), (navigation, "navigation")])
def test_the_demos_right_answers_follow_the_schemas(task, name):
    rng = random.Random(1)
    for _ in range(200):
        assert accepts(schemas.BY_NAME[name], json.loads(task(rng).answer))


def test_an_answer_as_json_or_why_it_is_none():
    assert Answer('{"linear": 0.5}', "stop", SloReport()).json() == {"linear": 0.5}
    with pytest.raises(ValueError, match="raise max_tokens"):
        Answer('{"linear": 0.', "length", SloReport()).json()
    with pytest.raises(ValueError, match="give the goal a json_schema"):
        Answer("turn left", "stop", SloReport()).json()
