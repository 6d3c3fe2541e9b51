"""Conversations: whose template renders them, what ends their answers, and how long these may be."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from smollm2 import serve

from slice_ros.engines.llama import LlamaConfig, LlamaEngine, engine, shapes, templates
from slice_ros.goal import ChatMessage, ErrorCode, FinishReason, GoalError, GoalRequest
from slice_ros.scheduling.engine import EngineError
from slice_ros.slo import Slo

SMALL = replace(shapes.START_SHAPE, embedding_length=64, block_count=1, feed_forward_length=64)
HELLO = (ChatMessage("system", "Be brief."), ChatMessage("user", "Hello"))


def a_model(path: Path, template: str, *tokens: str) -> Path:
    """A model with random weights, the template, and control tokens of its own."""
    special = ("<|endoftext|>", *tokens, "<|end|>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SPECIAL_TOKENS", special)
        patch.setattr(shapes, "CHAT_TEMPLATE", template)
        if not template:
            patch.setattr(shapes.gguf.GGUFWriter, "add_chat_template", lambda *_: None)
        shapes.make_model(replace(SMALL, vocab_size=256 + len(special)), path, "f32")
    return path


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a chat template, and without the tokens of ChatML."""
    return a_model(tmp_path_factory.mktemp("models") / "bare.gguf", "", "<|note|>")


@pytest.fixture(scope="module")
def guessing(bare: Path) -> Iterator[LlamaEngine]:
    made = LlamaEngine(LlamaConfig(bare, n_ctx=1024, n_threads=1, prefix_cache=0))
    yield made
    made.shutdown()


def says(made: LlamaEngine, text: str, monkeypatch: pytest.MonkeyPatch, **fields: object) -> tuple[str, FinishReason | None, int]:
    """What becomes of an answer in which the model says this first: its text, how it ended, its tokens."""
    script = list(made._vocabulary.tokenize(text, add_special=False))
    most_likely = engine.most_likely
    with monkeypatch.context() as patch:
        patch.setattr(engine, "most_likely", lambda logits: [script.pop(0)] if script and len(logits) else most_likely(logits))
        given = {"messages": HELLO, "max_tokens": 60, **fields}
        (outputs,) = serve(made, [GoalRequest("goal", Slo(), **given)]).values()  # type: ignore[arg-type]
    return "".join(output.text for output in outputs), outputs[-1].finish, sum(output.tokens for output in outputs)


def rendered(made: LlamaEngine, messages: tuple[ChatMessage, ...] = HELLO) -> str:
    tokens = made._chat.tokenize(messages)
    return b"".join(made._vocabulary.piece(token) or made._vocabulary.text(token).encode() for token in tokens).decode()


def test_without_a_template_chatml_is_guessed_said_once_and_ends_answers(
    bare: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING):
        made = LlamaEngine(LlamaConfig(bare, n_ctx=1024, n_threads=1, prefix_cache=0))
        answers = [says(made, "Hi there<|im_end|>\n<|im_start|>user", monkeypatch) for _ in range(2)]
    assert [record.message for record in caplog.records if "chat template" in record.message] == [
        (
            "the model has no chat template; messages are rendered as ChatML, which it may not know: "
            "name another with the parameter model.chat_template, or send prompt instead"
        )
    ]
    assert rendered(made) == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert {answer[:2] for answer in answers} == {("Hi there", FinishReason.STOP)}
    assert made.info.chat_template == ""
    made.shutdown()


def test_a_bare_prompt_has_no_end_but_its_own(guessing: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    text, _, _ = says(guessing, "Hi there<|im_end|>", monkeypatch, messages=(), prompt="Hello")
    assert text.startswith("Hi there<|im_end|>")


def test_a_template_may_be_named_by_its_family_or_its_file(bare: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}")
    for named, text in (("llama3", "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"), (str(file), "[user] Hello\n")):
        made = LlamaEngine(LlamaConfig(bare, n_ctx=1024, n_threads=1, chat_template=named))
        assert text in rendered(made)
        assert made.info.chat_template == named
        made.shutdown()
    assert not [record for record in caplog.records if "chat template" in record.message]
    with pytest.raises(EngineError, match=r"chat_template is 'lama3', which cannot be read \(No such file.*family of chatml, gemma"):
        LlamaEngine(LlamaConfig(bare, chat_template="lama3"))


@pytest.mark.parametrize("family", templates.FAMILIES)
def test_every_familys_template_renders_a_conversation(bare: Path, family: str) -> None:
    made = LlamaEngine(LlamaConfig(bare, n_ctx=256, n_threads=1, chat_template=family))
    text = rendered(made, (*HELLO, ChatMessage("assistant", "Hi."), ChatMessage("user", "Who?")))
    made.shutdown()
    order = [text.index(part) for part in ("Be brief.", "Hello", "Hi.", "Who?")]
    assert order == sorted(order)


def test_a_stop_string_that_is_a_control_token_stops(guessing: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompted = {"messages": (), "prompt": "Hello"}
    text, finish, tokens = says(guessing, "One<|note|>two", monkeypatch, stop=("<|note|>",), **prompted)
    assert (text, finish, tokens) == ("One", FinishReason.STOP, 4)
    text, _, _ = says(guessing, "One<|note|>two", monkeypatch, **prompted)
    assert text.startswith("Onetwo")


def test_a_control_token_has_a_name_in_logprobs_and_parts_of_characters_their_bytes(
    guessing: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = list(guessing._vocabulary.tokenize("é<|note|>", add_special=False))
    monkeypatch.setattr(engine, "most_likely", lambda logits: [script.pop(0)] if len(logits) else [])
    (outputs,) = serve(guessing, [GoalRequest("goal", Slo(), 3, prompt="Hello", logprobs=True)]).values()
    rated = [rated for output in outputs for rated in output.logprobs]
    assert [each.data for each in rated] == [b"\xc3", b"\xa9", b""]
    assert rated[2].token == "<|note|>"
    assert b"".join(each.data for each in rated).decode() == "é"


def test_a_goal_that_names_no_max_tokens_gets_what_fits(guessing: LlamaEngine) -> None:
    prompt = "x" * 900
    goal = GoalRequest("goal", Slo(), 256, prompt=prompt)
    with pytest.raises(GoalError) as caught:
        guessing.prepare(goal)
    assert caught.value.code is ErrorCode.CONTEXT_EXCEEDED
    (outputs,) = serve(guessing, [replace(goal, is_default=True)]).values()
    assert sum(output.tokens for output in outputs) == 124
    assert outputs[-1].finish is FinishReason.LENGTH
    assert replace(goal, is_default=True).fitted(100, 1024).max_tokens == 256
    with pytest.raises(GoalError, match="at most 1024 fit"):
        guessing.prepare(replace(goal, prompt="x" * 1024, is_default=True))
