"""Models that reason: how long they may, and what of their output is the answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import rclpy
from builders import PAPER, Bench
from serving import READY_S, Peer, serving

from slice_ros.client import Answer, Delta
from slice_ros.engines.llama import LlamaConfig, LlamaEngine, engine, shapes
from slice_ros.engines.llama.reasoning import Block, Marks, marks_of
from slice_ros.engines.llama.shapes import START_SHAPE, make_model
from slice_ros.engines.simulated import Lengths
from slice_ros.goal import ChatMessage, ErrorCode, FinishReason, GoalError, GoalRequest
from slice_ros.mask import Cell
from slice_ros.scheduling.engine import Output
from slice_ros.slo import OnMiss, RealTime, Slo

THINK = Marks("<think>", "</think>")
CLOSING = "\n</think>\n\n"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
"""As Qwen 3's: without reasoning there is an empty block."""


def made(folder: Path, template: str) -> LlamaEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "CHAT_TEMPLATE", template)
        make_model(replace(START_SHAPE, embedding_length=64, block_count=1, feed_forward_length=64), folder / "model.gguf", "f32")
    return LlamaEngine(LlamaConfig(folder / "model.gguf", n_ctx=1024, n_threads=1))


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    thinker = made(tmp_path_factory.mktemp("thinker"), TEMPLATE)
    yield thinker
    thinker.shutdown()


def asks(goal_id: str = "goal", **fields: object) -> GoalRequest:
    given = {"messages": (ChatMessage("user", "Where to?"),), "max_tokens": 60, **fields}
    return GoalRequest(goal_id, Slo(deadline_s=60.0), **given)  # type: ignore[arg-type]


def says(monkeypatch: pytest.MonkeyPatch, made: LlamaEngine, text: str) -> None:
    """The model's coming tokens, as far as the text goes; then what it likes."""
    script = list(made._vocabulary.tokenize(text, add_special=False))
    most_likely = engine.most_likely
    monkeypatch.setattr(engine, "most_likely", lambda logits: [script.pop(0)] if script and len(logits) else most_likely(logits))


def serve(made: LlamaEngine, request: GoalRequest, conclude_after: int = 0) -> list[Output]:
    left = made.prepare(request) - made.open(request.goal_id)
    outputs: list[Output] = []
    while not outputs or outputs[-1].finish is None:
        if conclude_after and len(outputs) == conclude_after:
            made.conclude(request.goal_id)
        (output,) = made.step((Cell(request.goal_id, left if left > 1 else 0),))
        outputs.append(output)
        left = output.pending
    made.close(request.goal_id)
    return outputs


def parts(outputs: list[Output]) -> tuple[str, str]:
    return "".join(output.reasoning for output in outputs), "".join(output.text for output in outputs)


def prompt_of(made: LlamaEngine, request: GoalRequest) -> str:
    tokens = made.prepare(request)
    text = made._vocabulary.spelt(made._goals[request.goal_id].tokens[:tokens])
    made.close(request.goal_id)
    return text


# ---- the block


@pytest.mark.parametrize(
    ("pieces", "is_begun", "expected"),
    [
        ("<think>|\n|left? |no.|\n|</think>|\n\n|go| right", False, ("\nleft? no.\n", "go right")),
        ("<|thi|nk>|left?|<|/think|>|\n \n|go| right", False, ("left?", "go right")),
        ("left? no.|</think>|go right", True, ("left? no.", "go right")),
        ("go right| <think>", False, ("", "go right <think>")),
        ("  |<thin", False, ("", "  <thin")),
        ("\n|<think>|never ends| </thin", False, ("never ends </thin", "")),
        ("", True, ("", "")),
    ],
)
def test_an_output_is_parted_into_reasoning_and_answer(pieces: str, is_begun: bool, expected: tuple[str, str]) -> None:
    block, thought, answer = Block(THINK, is_begun=is_begun), "", b""
    for piece in pieces.split("|"):
        more, new = block.push(piece.encode())
        thought, answer = thought + more, answer + new
    more, new = block.flush()
    assert (thought + more, (answer + new).decode()) == expected


def test_a_template_tells_whether_its_model_reasons() -> None:
    assert marks_of(TEMPLATE) == THINK
    assert marks_of("{% if x %}[THINK]{% endif %}[/THINK]") == Marks("[THINK]", "[/THINK]")
    assert marks_of("{{ messages }}") is None


# ---- goals


def test_off_reaches_the_template_and_on_begins_the_block(thinker: LlamaEngine) -> None:
    assert prompt_of(thinker, asks(reasoning="off")).endswith("assistant\n<think>\n\n</think>\n\n")
    for how in ("on", "20", "deadline"):
        assert prompt_of(thinker, asks(reasoning=how)).endswith("assistant\n<think>\n")
    assert prompt_of(thinker, asks()).endswith("assistant\n")


def test_a_template_that_knows_no_off_gets_an_empty_block(tmp_path: Path) -> None:
    thinker = made(tmp_path, TEMPLATE.partition("{% if enable")[0] + "{# </think> #}")
    assert prompt_of(thinker, asks(reasoning="off")).endswith("assistant\n<think>\n\n</think>\n\n")
    thinker.shutdown()


def test_a_model_that_does_not_reason_says_so(tmp_path: Path) -> None:
    plain = made(tmp_path, shapes.CHAT_TEMPLATE)
    with pytest.raises(GoalError, match="reasoning is 'on', but this model's chat template has no block for it") as caught:
        plain.prepare(asks(reasoning="on"))
    assert caught.value.code is ErrorCode.INVALID_GOAL
    assert serve(plain, asks(reasoning="off", max_tokens=4))[-1].finish is FinishReason.LENGTH
    plain.shutdown()


@pytest.mark.parametrize(
    ("how", "words"),
    [("much", "must be off, on, deadline, a number"), ("0", "must be off"), ("-3", "must be off"), ("deadline", "the goal has none")],
)
def test_what_reasoning_cannot_be_is_refused(how: str, words: str) -> None:
    with pytest.raises(GoalError, match=words):
        GoalRequest("goal", Slo(), 4, prompt="x", reasoning=how)


def test_a_model_may_begin_and_end_its_block_by_itself(thinker: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, thinker, "<think>\nleft?</think>\n\nright")
    outputs = serve(thinker, asks(stop=("left", "ht")))
    assert parts(outputs) == ("\nleft?", "rig")
    assert [output.is_reasoning for output in outputs].index(True) == len("<think>") - 1
    assert not outputs[-1].is_reasoning


def test_a_budget_ends_the_block_and_the_answer_follows(thinker: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, thinker, "one two three four five")
    outputs = serve(thinker, asks(reasoning="11"))
    assert parts(outputs)[0] == "one two thr\n"
    assert parts(outputs)[1]
    (end,) = (output for output in outputs if output.tokens > 1)
    assert end.tokens == len(CLOSING)
    assert sum(output.tokens for output in outputs) == 60


@pytest.mark.parametrize("form", [{"regex": "go [a-z]{3}"}, {"logprobs": True}, {"regex": "go [a-z]{3}", "logprobs": True}, {}])
def test_a_concluded_block_is_followed_by_an_answer_of_the_form_asked_for(
    thinker: LlamaEngine, monkeypatch: pytest.MonkeyPatch, form: dict[str, object]
) -> None:
    says(monkeypatch, thinker, "x" * 7)
    outputs = serve(thinker, asks(reasoning="on", **form), conclude_after=7)
    thought, answer = parts(outputs)
    assert thought == "x" * 7 + "\n"
    if "regex" in form:
        assert answer.startswith("go ")
        assert len(answer) == 6
    if "logprobs" in form:
        told = [one.token for output in outputs for one in output.logprobs]
        assert len(told) == sum(output.tokens for output in outputs)
        assert "".join(told[7 : 7 + len(CLOSING)]) == CLOSING


def test_an_end_inside_the_block_ends_the_block_alone(thinker: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, thinker, "hm<|im_end|>right<|im_end|>")
    outputs = serve(thinker, asks(reasoning="on"))
    assert parts(outputs) == ("hm\n", "right")
    assert outputs[-1].finish is FinishReason.STOP


# ---- the deadline, in simulated time


def served(how: str, deadline_s: float, *, known: int = 6, others: int = 0) -> tuple[bool, int]:
    """Whether a goal that would reason for 400 tokens and answer with 20 keeps its deadline, and how many tokens it has.

    Args:
        known: how many of its kind have ended before, with answers as long.
        others: goals that decode beside it.
    """
    lengths = {f"known {i}": Lengths(1, 60, reasoning=40) for i in range(known)} | {"goal": Lengths(1, 420, reasoning=400)}
    bench = Bench("slack", PAPER, lengths=lengths)
    for goal_id in lengths:
        slo = RealTime(deadline_s=60.0 if goal_id.startswith("known") else deadline_s, on_miss=OnMiss.CONTINUE)
        bench.submit(GoalRequest(goal_id, slo, 600, prompt="x", label="plan", reasoning=how, submitted_s=bench.clock.now()))
        if goal_id == "goal":
            bench.submit(*(GoalRequest(f"other {i}", Slo(), 400, prompt="x", submitted_s=bench.clock.now()) for i in range(others)))
        bench.drain()
    report = bench.end("goal").report
    return report.attained, report.output_tokens


@pytest.mark.parametrize("others", [0, 5])
@pytest.mark.parametrize("deadline_s", [1.5, 3.0, 5.0])
def test_reasoning_ends_while_there_is_time_for_an_answer_and_not_much_sooner(deadline_s: float, others: int) -> None:
    assert not served("on", deadline_s, others=others)[0]
    attained, tokens = served("deadline", deadline_s, others=others)
    assert attained
    step_s = PAPER.step_s(1 + others)
    assert tokens > 0.8 * deadline_s / step_s


def test_reasoning_that_has_time_is_left_alone() -> None:
    assert served("deadline", 20.0) == served("on", 20.0) == (True, 420)


def test_of_a_kind_that_nothing_is_known_of_a_quarter_of_the_tokens_is_kept_for_the_answer() -> None:
    attained, tokens = served("deadline", 5.0, known=0)
    assert attained
    assert 5.0 / PAPER.step_s(1) - 170 < tokens


def test_the_answer_has_its_part_of_max_tokens_too() -> None:
    lengths = {f"known {i}": Lengths(1, 60, reasoning=40) for i in range(6)} | {"goal": Lengths(1, 420, reasoning=400)}
    bench = Bench("slack", PAPER, lengths=lengths)
    for goal_id in lengths:
        bench.submit(GoalRequest(goal_id, Slo(deadline_s=60.0), 100, prompt="x", label="plan", reasoning="deadline"))
        bench.drain()
    assert bench.end("goal").reason is FinishReason.STOP
    assert 95 <= bench.end("goal").report.output_tokens <= 100


def test_reasoning_comes_apart_in_the_stream_and_in_the_result(tmp_path: Path) -> None:
    made(tmp_path, TEMPLATE).shutdown()
    rclpy.init(args=[])
    try:
        with serving("thinker", "--model", str(tmp_path / "model.gguf"), "-p", "context.n_ctx:=512", "-p", "cpu.n_threads:=1"):
            peer = Peer("thinker")
            peer.client.wait_for_server(READY_S)

            async def asked() -> tuple[list[Delta], Answer]:
                generation = peer.client.stream([ChatMessage("user", "Where to?")], reasoning=10, max_tokens=40)
                return [delta async for delta in generation.deltas()], await generation.result()

            deltas, answer = peer.run(asked())
            assert answer.reasoning.endswith("\n")
            assert "".join(delta.reasoning for delta in deltas) == answer.reasoning
            assert "".join(delta.text for delta in deltas) == answer.text
            assert answer.report.output_tokens == 40
            assert peer.fails("x", reasoning="much").code is ErrorCode.INVALID_GOAL
            peer.close()
    finally:
        rclpy.try_shutdown()
