"""Each family's way to write calls: kept by grammar whatever the weights, read in pieces, rendered again by the family's template.

The templates are small ones of the same form as the families' own; the weights are random.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import validate
from smollm2 import serve

from slice_ros.engines.llama import LlamaConfig, LlamaEngine, engine, shapes
from slice_ros.engines.llama.tools.formats import (
    FUNCTION_GEMMA,
    GEMMA,
    GRANITE,
    HERMES,
    LFM,
    LLAMA,
    MISTRAL,
    MISTRAL_LIST,
    QWEN_XML,
    Format,
)
from slice_ros.engines.llama.tools.reader import CallReader
from slice_ros.engines.llama.tools.tool import parse
from slice_ros.goal import ChatMessage, ErrorCode, FinishReason, GoalError, GoalRequest, Sampling, ToolCall, joined
from slice_ros.slo import Slo

TEMPLATES = Path(engine.__file__).parent / "templates"
FORMATS = {
    "qwen": (HERMES, ("<tool_call>", "</tool_call>")),
    "llama3": (LLAMA, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "mistral": (MISTRAL, ("[TOOL_CALLS]", "[ARGS]", "[INST]", "[/INST]")),
    "gemma": (GEMMA, ("<|tool_call>", "<tool_call|>", '<|"|>', "<|turn>", "<turn|>", "<|tool_response>")),
    "granite": (GRANITE, ("<|tool_call|>", "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")),
    "lfm2": (LFM, ("<|tool_call_start|>", "<|tool_call_end|>", "<|im_start|>")),
}
"""Of a template's family the format, and tokens that its models have."""
OTHERS = {"function-gemma": FUNCTION_GEMMA, "mistral-list": MISTRAL_LIST, "qwen-xml": QWEN_XML}

ARM = {
    "name": "move_arm",
    "description": "Moves the arm.",
    "parameters": {
        "type": "object",
        "properties": {
            "pose": {"type": "string", "enum": ["home", "up"]},
            "note": {"type": "string", "maxLength": 6},
            "fast": {"type": "boolean"},
            "joint": {"type": "integer", "minimum": 1, "maximum": 6},
            "target": {
                "type": "object",
                "properties": {"frame": {"enum": ["map", "arm"]}, "up": {"type": "boolean"}},
                "required": ["frame"],
            },
            "path": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 1, "maxItems": 3},
        },
        "required": ["pose", "joint", "path"],
    },
}
TOOLS = [
    ARM,
    {"name": "stop"},
    {"name": "say", "parameters": {"properties": {"text": {"type": "string", "maxLength": 9}}, "required": ["text"]}},
]
CALLS = (
    ToolCall(
        "abcdefghi", "move_arm", '{"fast": true, "joint": 2, "note": "}\\"),", "path": [1, 2], "pose": "up", "target": {"frame": "map"}}'
    ),
    ToolCall("bcdefghij", "stop", "{}"),
    ToolCall("cdefghijk", "say", '{"text": "Grüße, 你好"}'),
)


@pytest.fixture(scope="module", params=[*FORMATS, *OTHERS])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LlamaEngine, Format]]:
    """An engine with a small model of a family, and how it writes calls."""
    name = request.param
    if name in FORMATS:
        form, tokens = FORMATS[name]
        template = (TEMPLATES / f"{name}.jinja").read_text()
    else:  # without tokens of their own, so that marks are texts
        form, tokens = OTHERS[name], ()
        template = f"{{# {form.written([('f', {'a': 'b'})])}, by its form #}}{shapes.CHAT_TEMPLATE}"
    path = tmp_path_factory.mktemp("models") / f"{name}.gguf"
    with pytest.MonkeyPatch.context() as patch:
        special = ("<|endoftext|>", *tokens, "<|im_end|>")
        patch.setattr(shapes, "SPECIAL_TOKENS", special)
        patch.setattr(shapes, "CHAT_TEMPLATE", template)
        small = replace(shapes.START_SHAPE, embedding_length=64, block_count=1, feed_forward_length=64, vocab_size=256 + len(special))
        shapes.make_model(small, path, "f32")
    made = LlamaEngine(LlamaConfig(path, n_ctx=32768, n_threads=1, prefix_cache=0))
    yield made, form
    made.shutdown()


def asks(goal_id: str = "goal", *messages: ChatMessage, **fields: object) -> GoalRequest:
    given = {"tools": json.dumps(TOOLS), "max_tokens": 400, **fields}
    return GoalRequest(goal_id, Slo(), messages=messages or (ChatMessage("user", "Move!"),), **given)  # type: ignore[arg-type]


def keep_their_schemas(calls: tuple[ToolCall, ...]) -> None:
    schemas = {tool.name: tool.arguments for tool in parse(json.dumps(TOOLS))}
    for call in calls:
        validate(json.loads(call.arguments), schemas[call.name])


def test_a_template_tells_its_family(family: tuple[LlamaEngine, Format]) -> None:
    made, form = family
    assert made._chat.form is form


def test_required_calls_keep_their_schemas_whatever_the_weights(family: tuple[LlamaEngine, Format]) -> None:
    made, _ = family
    requests = [asks(str(i), tool_choice=("required", "move_arm", "say")[i % 3], sampling=Sampling(1.0, seed=i + 1)) for i in range(6)]
    ended = 0
    for outputs in serve(made, requests, random.Random(1)).values():
        calls = joined(piece for output in outputs for piece in output.calls)
        assert "".join(output.text for output in outputs) == ""
        if outputs[-1].finish is FinishReason.TOOL_CALLS:
            assert calls
            keep_their_schemas(calls)
            ended += 1
    assert ended > 2


def test_a_call_that_the_model_begins_by_itself_is_kept_from_there_on(
    family: tuple[LlamaEngine, Format], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, form = family
    said = "" if form.is_first else "Let me see: <{["
    script = list(made._vocabulary.tokenize(said + form.trigger, add_special=False))
    most_likely = engine.most_likely
    monkeypatch.setattr(engine, "most_likely", lambda logits: [script.pop(0)] if script and len(logits) else most_likely(logits))
    (outputs,) = serve(made, [asks(sampling=Sampling(repeat_penalty=0.0))]).values()
    calls = joined(piece for output in outputs for piece in output.calls)
    assert "".join(output.text for output in outputs) == said
    assert calls
    keep_their_schemas(calls if outputs[-1].finish is FinishReason.TOOL_CALLS else calls[:-1])


def test_calls_are_read_as_they_were_written_in_whatever_pieces(family: tuple[LlamaEngine, Format]) -> None:
    _, form = family
    calls = CALLS if form.separator else CALLS[:1]
    text = form.written((call.name, json.loads(call.arguments)) for call in calls)
    rng = random.Random(3)
    for _ in range(20):
        reader, pieces, said, left = CallReader(form, parse(json.dumps(TOOLS))), [], "", ("" if form.is_first else "Well. ") + text
        while left:
            piece, left = left[: (cut := rng.randrange(1, 9))], left[cut:]
            more, new = reader.push(piece, is_calling=form.trigger in (text + piece)[: len(text)] or not said, is_end=not left)
            said += more
            pieces += new
        got = joined(pieces)
        assert [(call.name, json.loads(call.arguments)) for call in got] == [(call.name, json.loads(call.arguments)) for call in calls]
        assert said == ("" if form.is_first else "Well. ")


def test_a_conversation_with_calls_is_rendered_as_the_model_writes_them(family: tuple[LlamaEngine, Format]) -> None:
    made, form = family
    calls = CALLS if form.separator else CALLS[:1]
    results = [ChatMessage("tool", f"done {i}", tool_call_id=call.id) for i, call in enumerate(calls)]
    made.prepare(
        asks("goal", ChatMessage("system", "Be brief."), ChatMessage("user", "Move!"), ChatMessage("assistant", "", calls), *results)
    )
    names = made._vocabulary
    text = b"".join(names.piece(token) or names.text(token).encode() for token in made._goals["goal"].tokens).decode()
    made.close("goal")
    for call in calls:
        written = form.head + call.name + form.middle + form.arguments.written(json.loads(call.arguments)) + form.tail
        assert re.sub(r"\s", "", written) in re.sub(r"\s", "", text)
    assert form.trigger in text
    assert all(part in text for part in ("Be brief.", "move_arm", "Moves the arm.", "done 0"))


def test_what_a_message_or_a_tool_spells_out_is_no_mark(family: tuple[LlamaEngine, Format]) -> None:
    made, form = family
    marks = [name for name in made._chat.call_marks.values() if name.decode() in form.trigger]
    for attack in (
        ChatMessage("user", form.texts),
        ChatMessage("assistant", "", (ToolCall("abcdefghi", "say", json.dumps({"text": form.texts})),)),
    ):
        plain = (
            ChatMessage("user", "")
            if attack.role == "user"
            else ChatMessage("assistant", "", (ToolCall("abcdefghi", "say", '{"text": ""}'),))
        )
        counts = []
        for message in (attack, plain):
            made.prepare(asks("goal", ChatMessage("user", "a"), message))
            counts.append([list(made._goals["goal"].tokens).count(token) for token in made._chat.call_marks])
            made.close("goal")
        assert counts[0] == counts[1], marks


@pytest.mark.parametrize("form", [GEMMA, LFM, QWEN_XML], ids=lambda form: form.name)
def test_what_a_form_cannot_keep_is_refused_by_name(form: Format) -> None:
    for parameters, what in (
        ({"properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]}, "anyOf beside properties"),
        ({"properties": {}, "required": ["a"]}, "the required 'a', which properties does not list"),
        *([({"properties": {"a": {"type": "string", "pattern": "a+"}}}, "a text with a pattern")] if form is not LFM else ()),
    ):
        (tool,) = parse(json.dumps([{"name": "odd", "parameters": parameters}]))
        with pytest.raises(GoalError, match=f"tool 'odd' hold {re.escape(what)}") as caught:
            form.arguments.rules("rule", tool, json.dumps)
        assert caught.value.code is ErrorCode.INVALID_GRAMMAR
