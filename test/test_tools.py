"""Tools: what a goal says of them, calls that keep their schemas whatever the model would say, and what a conversation tells of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from jsonschema import validate
from smollm2 import SMOLLM2, needs_smollm2, serve

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.tools.tool import choose, parse
from slice_ros.goal import ChatMessage, ErrorCode, FinishReason, GoalError, GoalRequest, Sampling, ToolCall, joined
from slice_ros.slo import Slo

WEATHER = {
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "unit": {"enum": ["C", "F"]},
            "days": {"type": "integer", "maximum": 9},
        },
        "required": ["city"],
    },
}
DRIVE = {"type": "function", "function": {"name": "drive", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}}}
STOP = {"name": "stop", "inputSchema": {}}
TOOLS = json.dumps([WEATHER, DRIVE, STOP])
QUESTION = ChatMessage("user", "What is the weather in Paris?")


@pytest.fixture(scope="module")
def smollm2() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(LlamaConfig(SMOLLM2, n_ctx=4096, n_threads=1, prefix_cache=0))
    yield engine
    engine.shutdown()


def asks(goal_id: str = "goal", messages: tuple[ChatMessage, ...] = (QUESTION,), **fields: object) -> GoalRequest:
    return GoalRequest(goal_id, Slo(), int(fields.pop("max_tokens", 80)), messages=messages, **{"tools": TOOLS, **fields})  # type: ignore[arg-type]


def keeps(call: ToolCall) -> None:
    tool = next(tool for tool in parse(TOOLS) if tool.name == call.name)
    validate(json.loads(call.arguments), tool.arguments)


@pytest.mark.parametrize(
    ("tools", "sentence"),
    [
        ("{", "tools is no JSON"),
        ("{}", "must be a JSON list"),
        ("[1]", "tools[0] is 1; it must be an object with a name"),
        ('[{"name": "a b"}]', 'tools[0] has "a b" for a name'),
        ('[{"name": "stop"}, {"name": "stop"}]', "two that are called 'stop'"),
        ('[{"name": "none"}]', "tool_choice has a meaning of its own"),
        ('[{"name": "a", "parameters": {"type": "array"}}]', 'parameters of type "array"'),
        ('[{"name": "a", "description": 1}]', "string for a description"),
    ],
)
def test_tools_that_are_none_are_refused_with_their_place(tools: str, sentence: str) -> None:
    with pytest.raises(GoalError) as caught:
        parse(tools)
    assert caught.value.code is ErrorCode.INVALID_GOAL
    assert sentence in caught.value.message


def test_a_choice_is_all_tools_or_the_one_that_it_names() -> None:
    tools = parse(TOOLS)
    assert [tool.name for tool in tools] == ["weather", "drive", "stop"]
    assert not choose(tools, "auto").is_required
    assert choose(tools, "required").tools == tools
    assert choose(tools, "drive").tools == tools[1:2]
    assert choose(tools, "drive").is_single
    with pytest.raises(GoalError, match="which are: weather, drive, stop"):
        choose(tools, "fly")


@needs_smollm2
def test_where_a_call_is_required_the_answer_is_calls_that_keep_the_schemas(smollm2: LlamaEngine) -> None:
    sampled = [asks(str(i), tool_choice="required", sampling=Sampling(1.5, seed=i)) for i in range(1, 6)]
    for goal_id, outputs in serve(smollm2, [asks("0", tool_choice="required"), *sampled], random.Random(1)).items():
        calls = joined(piece for output in outputs for piece in output.calls)
        assert calls
        assert "".join(output.text for output in outputs) == ""
        for call in calls if outputs[-1].finish is FinishReason.TOOL_CALLS else calls[:-1]:  # the last one was cut
            keeps(call)
        if goal_id == "0":
            assert outputs[-1].finish is FinishReason.TOOL_CALLS
            assert (calls[0].name, json.loads(calls[0].arguments)["city"]) == ("weather", "Paris")


@needs_smollm2
def test_the_tool_that_is_named_is_called_once_and_what_is_certain_takes_no_step(smollm2: LlamaEngine) -> None:
    (outputs,) = serve(smollm2, [asks(tool_choice="stop")]).values()
    assert [(call.name, call.arguments) for call in joined(piece for output in outputs for piece in output.calls)] == [("stop", "{}")]
    assert len(outputs) == 1
    assert outputs[0].tokens > 10


@needs_smollm2
def test_a_call_comes_in_pieces_as_it_is_written(smollm2: LlamaEngine) -> None:
    (outputs,) = serve(smollm2, [asks(tool_choice="weather")]).values()
    pieces = [piece for output in outputs for piece in output.calls]
    assert (pieces[0].name, pieces[0].arguments, len(pieces[0].id)) == ("weather", "", 9)
    assert len(pieces) > 2
    assert not any(piece.id or piece.name for piece in pieces[1:])


@needs_smollm2
def test_an_answer_may_do_without_calls_and_none_forbids_them(smollm2: LlamaEngine) -> None:
    plain, told, none = (
        serve(smollm2, [request])["goal"] for request in (asks(tools=""), asks(tool_choice="auto"), asks(tool_choice="none"))
    )
    assert [output.text for output in none] == [output.text for output in plain]
    assert "".join(output.text for output in told)
    assert not any(output.calls for output in (*told, *none))


@needs_smollm2
def test_the_model_is_told_of_the_tools_of_calls_and_of_their_results(smollm2: LlamaEngine) -> None:
    call = ToolCall("abcdefghi", "weather", '{"city": "Paris"}')
    conversation = (QUESTION, ChatMessage("assistant", "", (call,)), ChatMessage("tool", "21 degrees", tool_call_id=call.id))
    smollm2.prepare(asks(messages=conversation))
    text = b"".join(smollm2._vocabulary.piece(token) for token in smollm2._goals["goal"].tokens).decode()
    smollm2.close("goal")
    assert '{"name": "weather", "description": "The weather in a city.", "parameters"' in text
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>' in text
    assert "<tool_response>\n21 degrees\n</tool_response>" in text


@needs_smollm2
def test_arguments_that_are_no_object_and_schemas_that_cannot_be_kept_are_refused_by_name(smollm2: LlamaEngine) -> None:
    broken = ChatMessage("assistant", "", (ToolCall("a", "stop", "[1]"),))
    with pytest.raises(GoalError, match=r"messages\[0\].tool_calls\[0\].arguments is '\[1\]'; it must be a JSON object"):
        smollm2.prepare(asks(messages=(broken,)))
    tools = json.dumps([STOP, {"name": "odd", "parameters": {"properties": {"a": {"not": {"type": "string"}}}}}])
    with pytest.raises(GoalError, match="the parameters of tool 'odd' cannot be kept") as caught:
        smollm2.prepare(asks(tools=tools))
    assert caught.value.code is ErrorCode.INVALID_GRAMMAR
