"""Agents as people write them, through the gateway: of OpenAI's client and of LangChain, and tools on a model that knows them."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("uvicorn", reason="slice_ros[gateway] is not installed")
openai = pytest.importorskip("openai")
pytest.importorskip("langchain_openai")

from by_path import module_at  # noqa: E402
from serving import READY_S, Peer, door, serving  # noqa: E402
from test_gateway import says, until_open  # noqa: E402

from slice_ros.goal import ToolCall  # noqa: E402
from slice_ros.testing import MockServer, Script  # noqa: E402


def example(name: str):
    return module_at(f"examples/{name}.py")


def robot(goal) -> Script | str:
    """What a clever model would answer: look, drive, tell."""
    if goal.json_schema:
        return '{"place": "lab", "slowly": true}'
    results = [message.content for message in goal.messages if message.role == "tool"]
    if not goal.tools:
        return "I am on my way"
    if goal.tool_choice not in ("", "auto", "required"):
        return Script(tool_calls=(ToolCall("abcdefghi", goal.tool_choice, '{"place": "dock", "slowly": false}'),))
    if not results:
        return Script("let me see", tool_calls=(ToolCall("123456789", "where_is", '{"thing": "cup"}'),))
    if len(results) == 1:
        return Script(tool_calls=(ToolCall("abcdefghi", "drive_to", json.dumps({"place": results[0]})),))
    return f"done: {results[-1]}"


@pytest.fixture(scope="module")
def scripted(ros):
    with MockServer(robot, name="agents_server") as server, door("agents_server") as (url, _):
        until_open(url)
        yield url, server


def test_an_agent_of_openais_client_gets_its_tools_called_and_its_task_done(scripted):
    url, server = scripted
    server.goals.clear()
    module = example("agent_openai")
    with openai.OpenAI(base_url=url, api_key="none") as client:
        assert module.run(client, "bring me the cup") == "done: the robot is at the kitchen"
    assert [goal.label for goal in server.goals] == ["agent"] * 3
    assert [tool["function"]["name"] for tool in json.loads(server.goals[-1].tools)] == ["where_is", "drive_to"]
    told = server.goals[-1].messages
    assert [(m.role, m.content, [c.name for c in m.tool_calls], m.tool_call_id) for m in told[2:]] == [
        ("assistant", "let me see", ["where_is"], ""),
        ("tool", "kitchen", [], "123456789"),
        ("assistant", "", ["drive_to"], ""),
        ("tool", "the robot is at the kitchen", [], "abcdefghi"),
    ]


def test_an_agent_of_langchain_gets_its_tools_called_and_its_task_done(scripted):
    assert example("agent_langchain").act(scripted[0], "bring me the cup") == "done: the robot is at the kitchen"


@pytest.mark.parametrize(("method", "place"), [("json_schema", "lab"), ("function_calling", "dock")])
def test_langchains_structured_output_is_an_object_within_its_deadline(scripted, method, place):
    url, server = scripted
    assert example("agent_langchain").plan(url, "where next?", method).place == place
    assert (server.goals[-1].slo.service_class, server.goals[-1].slo.deadline.sec) == (1, 1)


def test_langchain_streams(scripted):
    url, server = scripted
    assert "".join(example("agent_langchain").tell(url, "where are you?")) == "I am on my way"
    assert (server.goals[-1].slo.preset, server.goals[-1].silent) == ("voice", False)


def test_calls_come_streamed(scripted):
    with openai.OpenAI(base_url=scripted[0], api_key="none") as client:
        tools = example("agent_openai").TOOLS
        with client.chat.completions.stream(model="default", messages=says("bring me the cup"), tools=tools) as stream:
            answer = stream.get_final_completion().choices[0]
    (call,) = answer.message.tool_calls
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", "let me see")
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("123456789", "where_is", {"thing": "cup"})


# ---- a model that was taught to call tools


@pytest.fixture(scope="module")
def smollm2(ros):
    model = pytest.importorskip("smollm2", reason="slice_ros[smollm2] is not installed").SMOLLM2
    # The profile is what plans go by, so that no step is measured; a step takes much longer.
    quickly = ("--device-profile", "rtx4060ti-chatglm2-6b-int4", "-p", "engine.hang_timeout_s:=100.0")
    with serving("smollm_server", "--model", str(model), "--n-ctx", "2048", *quickly), door("smollm_server") as (url, _):
        peer = Peer("smollm_server")
        peer.client.wait_for_server(2 * READY_S)
        until_open(url, 2 * READY_S)
        yield url
        peer.close()


@pytest.mark.parametrize("is_streamed", [False, True])
def test_smollm2_calls_a_tool_where_it_must(smollm2, is_streamed):
    asked = {
        "model": "default",
        "messages": says("drive to the lab"),
        "tools": example("agent_openai").TOOLS,
        "tool_choice": "required",
        "max_tokens": 80,
    }
    with openai.OpenAI(base_url=smollm2, api_key="none", max_retries=0) as client:
        if is_streamed:
            with client.chat.completions.stream(**asked) as stream:
                answer = stream.get_final_completion().choices[0]
        else:
            answer = client.chat.completions.create(**asked).choices[0]
    assert answer.finish_reason == "tool_calls"
    call = answer.message.tool_calls[0].function
    assert {"where_is": {"thing"}, "drive_to": {"place"}}[call.name] == set(json.loads(call.arguments))


# ---- the examples of OpenAI's reference

ASSISTANT = {"role": "developer", "content": "You are a helpful assistant."}
PICTURE = [{"type": "text", "text": "What is here?"}, {"type": "image_url", "image_url": {"url": "https://example.org/x.jpg"}}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
            "required": ["location"],
        },
    },
}
REFERENCE = {
    "chat: default": ({"messages": [ASSISTANT, *says("Hello!")]}, ""),
    "chat: streaming": ({"messages": [ASSISTANT, *says("Hello!")], "stream": True}, ""),
    "chat: functions": ({"messages": says("What is the weather?"), "tools": [WEATHER], "tool_choice": "auto"}, ""),
    "chat: logprobs": ({"messages": says("Hello!"), "logprobs": True}, ""),
    "chat: logprobs with alternatives": ({"messages": says("Hello!"), "logprobs": True, "top_logprobs": 2}, "top_logprobs"),
    "chat: image input": ({"messages": [{"role": "user", "content": PICTURE}], "max_tokens": 300}, "messages.0.content"),
    "completion: no streaming": ({"prompt": "Say this is a test", "max_tokens": 7, "temperature": 0}, ""),
    "completion: streaming": ({"prompt": "Say this is a test", "max_tokens": 7, "temperature": 0, "stream": True}, ""),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_the_examples_of_openais_reference_are_answered_or_refused_by_name(scripted, name):
    asked, param = REFERENCE[name]
    with openai.OpenAI(base_url=scripted[0], api_key="none", max_retries=0) as client:
        create = client.chat.completions.create if "messages" in asked else client.completions.create
        if param:
            with pytest.raises(openai.BadRequestError) as caught:
                create(model="default", **asked)
            assert caught.value.param == param
        else:
            answer = create(model="default", **asked)
            assert [piece.object for piece in (answer if asked.get("stream") else [answer])]


def test_what_openai_has_beside_is_not_there_by_name(scripted):
    with openai.OpenAI(base_url=scripted[0], api_key="none", max_retries=0) as client:
        for ask in (
            lambda: client.responses.create(model="default", input="hi"),
            lambda: client.embeddings.create(model="default", input="hi"),
            client.files.list,
        ):
            with pytest.raises(openai.NotFoundError, match="there are: /v1/chat/completions"):
                ask()
