"""Gemma 3, a trained model with a sliding window: what it says through this engine is what it says through llama-cpp-python's own.

Its weights have a licence of their own, so that they are not installed; docs/models.md has the command.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest
from jsonschema import validate
from smollm2 import serve

from slice_ros import schemas
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.log import log
from slice_ros.goal import FinishReason, GoalRequest
from slice_ros.scheduling.engine import Output
from slice_ros.slo import Slo

GEMMA3 = Path(os.environ.get("GEMMA3", "no such file"))
pytestmark = pytest.mark.skipif(not GEMMA3.exists(), reason="the environment variable GEMMA3 names no file with Gemma 3 270M")

SHELVES = "".join(f"Shelf {i} holds {thing}.\n" for i, thing in enumerate(("cups", "books", "lamps", "tools", "shoes") * 20))
"""Longer than the window, which is 512 tokens."""
PROMPTS = (
    "one, two, three, four,",
    "1, 2, 3, 4, 5, 6,",
    "January, February, March,",
    "The alphabet: A, B, C, D, E,",
    SHELVES + "Shelf 100 holds",
    SHELVES + "Shelf 101 holds",
)
"""In what follows, no other token is nearly as likely as the one taken: there, the order in which a step adds up would decide."""
MOST = 12


@pytest.fixture(scope="module", params=[True, False], ids=["swa_full", "windows alone"])
def gemma3(request: pytest.FixtureRequest) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(LlamaConfig(GEMMA3, n_ctx=8192, n_seq_max=12, n_threads=1, flash_attn=False, swa_full=request.param))
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def own() -> dict[str, str]:
    """What llama-cpp-python writes after each prompt."""
    with log.collect_errors(quiet=True):
        llama = llama_cpp.Llama(str(GEMMA3), n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)
    llama_cpp.llama_log_set(log._callback, None)  # it takes the log
    texts = {}
    for prompt in PROMPTS:
        texts[prompt] = llama.create_completion(prompt, temperature=0.0, max_tokens=MOST)["choices"][0]["text"]
        llama.reset()
    llama.close()
    return texts


def writes(goal_id: str, prompt: str, max_tokens: int = MOST, **fields: object) -> GoalRequest:
    return GoalRequest(goal_id, Slo(), max_tokens, prompt=prompt, **fields)  # type: ignore[arg-type]


def text_of(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs)


def test_greedy_text_is_llama_cpp_pythons_own_alone_and_in_a_batch(gemma3: LlamaEngine, own: dict[str, str]) -> None:
    assert len(set(own.values())) == len(PROMPTS)
    for prompt in PROMPTS:
        gemma3.forget()
        assert text_of(serve(gemma3, [writes("alone", prompt)])["alone"]) == own[prompt]
    gemma3.forget()
    together = serve(gemma3, [writes(prompt, prompt) for prompt in PROMPTS])
    assert {prompt: text_of(outputs) for prompt, outputs in together.items()} == own


def test_a_prompt_with_a_beginning_that_came_before_computes_little_of_it(gemma3: LlamaEngine, own: dict[str, str]) -> None:
    gemma3.forget()
    serve(gemma3, [writes("first", PROMPTS[-2])])
    second, early = writes("second", PROMPTS[-1]), writes("early", SHELVES[: SHELVES.index("Shelf 60")] + "Shelf 99 holds")
    for request, tokens, most in ((second, 797, 8), (early, 480, 128 + 8)):
        assert abs(gemma3.prepare(request) - tokens) < 8
        assert tokens - gemma3.cached(request.goal_id) < most
        gemma3.close(request.goal_id)
    assert text_of(serve(gemma3, [second])["second"]) == own[PROMPTS[-1]]


def test_a_session_goes_on_from_what_it_has_computed(gemma3: LlamaEngine) -> None:
    gemma3.forget()
    (first,) = serve(gemma3, [writes("first", SHELVES + "Shelf 100 holds", session_id="s")]).values()
    second = writes("second", SHELVES + "Shelf 100 holds" + text_of(first) + "\nNow shelf", session_id="s")
    tokens = gemma3.prepare(second)
    assert tokens - gemma3.cached("second") < 16
    gemma3.close("second")
    assert text_of(serve(gemma3, [second])["second"])


def test_answers_follow_a_schema(gemma3: LlamaEngine) -> None:
    form = schemas.navigation(["hall", "lab"])
    (outputs,) = serve(gemma3, [writes("go", "Go to the lab:", 60, json_schema=json.dumps(form))]).values()
    assert outputs[-1].finish is FinishReason.STOP
    validate(json.loads(text_of(outputs)), form)


def test_text_streams_in_whole_characters(gemma3: LlamaEngine) -> None:
    (outputs,) = serve(gemma3, [writes("cjk", "你好", 40, regex="(你好|世界|🤖)+")]).values()
    assert len([output for output in outputs if output.text]) > 3
    assert all("\ufffd" not in output.text for output in outputs)
