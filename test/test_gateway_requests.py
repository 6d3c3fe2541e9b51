"""What the gateway decides without a server: bodies, SLO tags, names of models, errors, keys."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest

pytest.importorskip("uvicorn", reason="slice_ros[gateway] is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slice_ros.client import Answer, Delta
from slice_ros.gateway import answers, requests, tags
from slice_ros.gateway.catalog import Offer
from slice_ros.gateway.errors import STATUS, ApiError, of_goal
from slice_ros.gateway.guard import Keys, is_loopback
from slice_ros.goal import ChatMessage, ErrorCode, TokenLogprob, ToolCall
from slice_ros.scheduling.task import SloReport
from slice_ros.slo import OnMiss, ServiceClass

CHAT = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "default", "prompt": "hi"}


def chat(**fields):
    return requests.chat(json.dumps(CHAT | fields).encode())


def refused(read, body) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.status == 400
    return caught.value


def test_a_conversation_may_come_in_parts_and_its_developer_speaks_for_the_system():
    parts = [{"type": "text", "text": "go"}, {"type": "text", "text": "on"}]
    question = chat(messages=[{"role": "developer", "content": "be short"}, {"role": "user", "content": parts}])
    assert question.prompt == (ChatMessage("system", "be short"), ChatMessage("user", "go\non"))


def test_a_message_that_a_client_repeats_as_it_came_is_taken():
    dumped = {
        "role": "assistant",
        "content": "yes",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    assert chat(messages=[*CHAT["messages"], dumped, *CHAT["messages"]]).prompt[1] == ChatMessage("assistant", "yes")


TOOL = {"type": "function", "function": {"name": "pick", "description": "Pick it.", "parameters": {"type": "object"}, "strict": True}}


def test_calls_of_tools_and_their_results_are_the_conversations():
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "pick", "arguments": '{"a": 1}'}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    question = chat(messages=[*CHAT["messages"], said, {"role": "tool", "tool_call_id": "abcdefghi", "content": "done"}], tools=[TOOL])
    assert question.prompt[1:] == (
        ChatMessage("assistant", "", (ToolCall("abcdefghi", "pick", '{"a": 1}'),)),
        ChatMessage("tool", "done", (), "abcdefghi"),
    )
    plain = {"type": "function", "function": {"name": "pick", "description": "Pick it.", "parameters": {"type": "object"}}}
    assert (question.goal["tools"], question.goal["tool_choice"]) == ([plain], "auto")


def test_a_tools_choice_is_a_word_or_a_name():
    assert [chat(tools=[TOOL], tool_choice=word).goal["tool_choice"] for word in ("auto", "none", "required")] == [
        "auto",
        "none",
        "required",
    ]
    named = {"type": "function", "function": {"name": "pick"}}
    assert chat(tools=[TOOL], tool_choice=named, parallel_tool_calls=False).goal["tool_choice"] == "pick"
    assert (chat(tool_choice="none").goal["tools"], chat(tools=[]).goal["tool_choice"]) == ("", "")
    assert refused(requests.chat, CHAT | {"tools": [TOOL], "parallel_tool_calls": False}).param == "parallel_tool_calls"


def test_sampling_lengths_and_forms_become_the_goals_own():
    schema = {"type": "object", "properties": {"x": {"type": "number"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    goal = chat(max_completion_tokens=9, max_tokens=5, temperature=0.5, top_p=0.9, top_k=7, seed=3, stop="x", response_format=form).goal
    assert (goal["max_tokens"], goal["stop"], json.loads(goal["json_schema"])) == (9, ["x"], schema)
    assert (goal["sampling"].temperature, goal["sampling"].top_p, goal["sampling"].top_k, goal["sampling"].seed) == (0.5, 0.9, 7, 3)
    assert chat(response_format={"type": "json_object"}).goal["json_schema"] == '{"type":"object"}'
    assert chat(response_format={"type": "text"}).goal["json_schema"] == ""
    assert chat().goal["max_tokens"] == 0, "the server's own default"


@pytest.mark.parametrize("seed", [0, -1, 2**32 - 1, 2**32, 2**63 - 1, -(2**63)])
def test_every_seed_is_one_that_draws_the_same_again(seed):
    assert 0 < chat(seed=seed).goal["sampling"].seed < 2**32


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"temprature": 1}, "temprature"),
        ({"reasoning": "a lot"}, "reasoning"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"slo": {"ttft": 3}}, "slo.ttft"),
        ({"slo": {"ttft_ms": -3}}, "slo.ttft_ms"),
        ({"stop": ["a", 3]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages.0.content"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
def test_what_is_not_served_is_refused_by_name(fields, param):
    error = refused(requests.chat, CHAT | fields)
    assert error.param.startswith(param)
    assert param.rpartition(".")[2] in error.message
    assert error.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 3}', b"\xff", b"[" * 100_000, b'{"model":"\\ud800"}', b"null"])
def test_what_is_no_request_is_refused(body):
    assert refused(requests.chat, body).message
    assert refused(requests.completion, body).message


def test_a_completion_takes_one_text():
    assert requests.completion(json.dumps(COMPLETION | {"prompt": ["hi"], "logprobs": 0}).encode()).prompt == "hi"
    for fields in ({"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"best_of": 2}, {"echo": True}, {"suffix": "x"}, {"logprobs": 2}):
        assert refused(requests.completion, COMPLETION | fields).param.startswith(*fields)


WORDS = st.sampled_from(["type", "role", "content", "text", "schema", "slo"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*requests.ChatRequest.model_fields, "x"]), VALUES, max_size=6))
def test_any_json_is_a_question_or_an_error_of_the_request(fields):
    with suppress(ApiError):
        requests.chat(json.dumps(CHAT | fields).encode())


# ---- SLO tags


def test_the_first_place_that_says_something_wins_field_by_field():
    headers = tags.of_headers([("x-slo-ttft-ms", "200"), ("x-slo-class", "real-time"), ("x-other", "1")])
    body = tags.Tags.model_validate({"ttft_ms": 500, "deadline_ms": 1500, "on_miss": "continue", "preset": "voice"})
    wanted = tags.merged(headers, body, tags.of_priority(-1), tags.Tags(preset="control"))
    slo = tags.slo_of(wanted)
    assert (slo.ttft_s, slo.tpot_s, slo.deadline_s) == (0.2, None, 1.5)
    assert (slo.service_class, slo.on_miss, slo.utility, wanted.preset) == (ServiceClass.REAL_TIME, OnMiss.CONTINUE, 2.0, "voice")


def test_a_lower_priority_weighs_more():
    weights = [tags.slo_of(tags.of_priority(priority)).weight for priority in (-(10**9), -2, -1, 0, 1, 10**9)]
    assert weights == sorted(weights, reverse=True)
    assert weights[2:5] == [2.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-slo-ttft", "3"), *(("x-slo-ttft-ms", value) for value in ("soon", "nan", "0")), ("x-slo-class", "urgent"), ("x-slo-preset", "")],
)
def test_a_header_that_means_nothing_is_an_error_not_a_lost_slo(name, value):
    with pytest.raises(ApiError) as caught:
        tags.of_headers([(name, value)])
    assert (caught.value.status, caught.value.param) == (400, name)


def test_an_slo_that_contradicts_itself_says_why():
    with pytest.raises(ApiError, match="no bound"):
        tags.slo_of(tags.of_headers([("x-slo-class", "real_time")]))


# ---- models


def test_a_models_name_may_bear_a_preset():
    offer = Offer("robot-q8_0", ("control", "my:voice"), ("polite",))
    assert offer.find("default") == offer.find("robot-q8_0") == ("", "")
    assert offer.find("default:control") == offer.find("robot-q8_0:control") == ("", "control")
    assert offer.find("polite:control") == ("polite", "control")
    assert [name for name in ("", ":", "gpt-4o", "default:", ":control", "default:contrl") if offer.find(name)] == []
    assert all(offer.find(name) is not None for name in offer.models)


# ---- answers


REPORT = SloReport(True, True, True, True, 0.0123456, 0.05, 0.2, prompt_tokens=5, output_tokens=3, cached_tokens=2)


def events(stream: bytes) -> list:
    lines = [line for line in stream.decode().split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.mark.parametrize("is_chat", [True, False])
def test_a_stream_is_the_whole_answer(is_chat):
    writer = answers.Writer("ab", "m", is_chat, True)
    answer = Answer("grüß dich", "stop", REPORT, (TokenLogprob("grüß", -0.5, "grüß".encode()), TokenLogprob("<|end|>", -math.inf)))
    told = events(writer.begin() + writer.piece(Delta("grüß")) + writer.piece(Delta(" dich")) + writer.end(answer))
    whole = writer.whole(answer)
    said = [choice["delta"].get("content", "") if is_chat else choice["text"] for event in told for choice in event["choices"]]
    assert "".join(said) == (whole["choices"][0]["message"]["content"] if is_chat else whole["choices"][0]["text"]) == answer.text
    assert told[-1]["usage"] == whole["usage"]
    assert told[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "stop"
    assert told[-2]["choices"][0]["logprobs"] == whole["choices"][0]["logprobs"]
    assert {event["id"] for event in told} == {whole["id"]}
    json.dumps(whole, allow_nan=False)


def test_calls_of_a_stream_are_those_of_the_whole_answer():
    calls = (ToolCall("a", "pick", '{"n": 1}'), ToolCall("b", "stop", "{}"))
    pieces = (ToolCall("a", "pick", ""), ToolCall("", "", '{"n'), ToolCall("", "", '": 1}'), calls[1])
    writer = answers.Writer("ab", "m", True)
    answer = Answer("", "tool_calls", REPORT, tool_calls=calls)
    stream = writer.begin() + writer.piece(Delta("", pieces[:2])) + writer.piece(Delta("", pieces[2:])) + writer.end(answer)
    told = [piece for event in events(stream) for piece in event["choices"][0]["delta"].get("tool_calls", ())]
    assert [piece["index"] for piece in told] == [0, 0, 0, 1]
    message = writer.whole(answer)["choices"][0]["message"]
    assert message["content"] is None
    assert [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]] == list(calls)
    assert "".join(piece["function"]["arguments"] for piece in told[:3]) == calls[0].arguments


def test_reasoning_comes_apart_in_a_stream_as_in_the_whole_answer():
    writer = answers.Writer("ab", "m", True)
    answer = Answer("4", "stop", REPORT, reasoning="two and two")
    stream = writer.piece(Delta("", (), "two and")) + writer.piece(Delta("", (), " two")) + writer.piece(Delta("4")) + writer.end(answer)
    deltas = [event["choices"][0]["delta"] for event in events(stream) if event["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "two and two"
    assert "".join(delta.get("content", "") for delta in deltas) == "4"
    message = writer.whole(answer)["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("4", "two and two")


@pytest.mark.parametrize(
    ("fields", "means"),
    [
        ({}, ""),
        ({"reasoning_effort": "none"}, "off"),
        ({"reasoning_effort": "high"}, "on"),
        ({"reasoning": "deadline"}, "deadline"),
        ({"reasoning": 64, "reasoning_effort": "low"}, "64"),
    ],
)
def test_an_effort_is_reasoning_on_or_off_and_a_budget_is_a_budget(fields, means):
    assert chat(**fields).goal["reasoning"] == means


def test_times_that_are_not_known_are_null_and_no_header():
    assert answers.slo(SloReport())["tpot_ms"] is None
    assert answers.headers(REPORT) == {
        "x-slo-attained": "true", "x-slo-ttft-ms": "12.346", "x-slo-tpot-ms": "50.0", "x-slo-e2e-ms": "200.0",
    }  # fmt: skip


# ---- errors


def test_every_end_of_a_goal_has_a_status():
    assert set(STATUS) == set(ErrorCode) - {ErrorCode.NONE}


def test_only_what_may_do_better_later_says_when():
    again = {code: of_goal(code, "why", 0.25).headers.get("retry-after-ms") for code in STATUS}
    assert {code for code, after in again.items() if after} == {
        ErrorCode.INFEASIBLE, ErrorCode.OVERLOADED, ErrorCode.ENGINE_DIED, ErrorCode.SHUTTING_DOWN,
    }  # fmt: skip
    assert again[ErrorCode.INFEASIBLE] == "250"
    assert of_goal(ErrorCode.INFEASIBLE, "never").headers == {"x-should-retry": "false"}


# ---- keys


def test_keys_are_those_of_the_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# robot\nsecret-one\n\n  secret-two  \n")
    keys = Keys.of_file(file)
    assert keys
    assert [keys.open(key) for key in ("secret-one", "secret-two", "", "secret", "# robot", "schlüssel")] == [True, True, *[False] * 4]
    file.write_text("\n# none\n")
    with pytest.raises(ValueError, match="holds no key"):
        Keys.of_file(file)
    with pytest.raises(ValueError, match="cannot be read"):
        Keys.of_file(tmp_path / "none")


def test_only_loopback_addresses_need_no_key():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "robot")] == [
        True
    ] * 4 + [False] * 4
