"""Tokens that a schema or grammar forces come without a step of their own, and are all that they would be had they been drawn.

The vocabulary has a token for each byte, so that a text is cut into tokens in one way only: with forced tokens and without, answers are
alike.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from engines import Got, exact_engine, serve

from slice_ros import schemas
from slice_ros.engines.llama import LlamaEngine
from slice_ros.engines.llama.grammar import Grammar
from slice_ros.goal import FinishReason, GoalRequest, Sampling
from slice_ros.mask import Cell
from slice_ros.slo import Slo

COUNT = {"properties": {"n": {"type": ["null", "integer"], "maximum": 99}}, "required": ["n"], "additionalProperties": False}
FORMS: tuple[dict[str, str], ...] = (
    {"json_schema": "velocity"},
    {"json_schema": "navigation"},
    {"json_schema": "gripper"},
    {"json_schema": json.dumps(schemas.tool_call([{"name": "stop"}, {"name": "start", "parameters": COUNT}]))},
    {"regex": "abcdefgh"},
    {"regex": "(left|right), (left|right)!"},
    {"regex": "[ab]{3}—[ab]{3}"},
    {"grammar": 'root ::= "[" item ("," item)* "]"\nitem ::= "go to the dock" | "go to the door"'},
)


@pytest.fixture(scope="module")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    engine = exact_engine(tmp_path_factory.mktemp("models"))
    yield engine
    engine.shutdown()


def drawn_one_by_one(engine: LlamaEngine, requests: list[GoalRequest], monkeypatch: pytest.MonkeyPatch) -> dict[str, Got]:
    with monkeypatch.context() as patch:
        patch.setattr(Grammar, "forced", lambda _: ())
        return serve(engine, requests, random.Random(0), calm=True)


def a_request(number: int, rng: random.Random) -> GoalRequest:
    sampling = rng.choice((Sampling(), Sampling(1.0, seed=number + 1), Sampling(0.8, top_k=20, repeat_penalty=1.3, seed=number + 1)))
    prompt = "Where to? " * rng.randrange(1, 4) + str(number)
    stop = rng.choice(((), (), ("to",), ('ar":', "},"), ("f, ", "gh")))
    limit, logprobs = rng.choice((1, 2, 7, 12, 40, 150)), rng.random() < 0.5
    form = rng.choice(FORMS)
    return GoalRequest(str(number), Slo(), limit, prompt=prompt, sampling=sampling, stop=stop, logprobs=logprobs, **form)  # type: ignore[arg-type]


@pytest.mark.timeout(600)
def test_answers_with_forced_tokens_are_those_without(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    rng = random.Random(1)
    requests = [a_request(number, rng) for number in range(2 * pytestconfig.getoption("--structured-goals"))]
    expected = drawn_one_by_one(engine, requests, monkeypatch)
    steps = 0
    for first in range(0, len(requests), 12):
        for goal_id, mine in serve(engine, requests[first : first + 12], rng).items():
            other = expected[goal_id]
            assert (mine.text, mine.tokens, mine.finish) == (other.text, other.tokens, other.finish), requests[int(goal_id)]
            assert [rated.token for rated in mine.logprobs] == [rated.token for rated in other.logprobs]
            assert [rated.logprob for rated in mine.logprobs] == pytest.approx([rated.logprob for rated in other.logprobs], abs=1e-4)
            assert len(mine.logprobs) == (mine.tokens if requests[int(goal_id)].logprobs else 0)
            steps += mine.steps
    assert steps < 0.75 * sum(other.steps for other in expected.values())


def a_goal(**fields: object) -> GoalRequest:
    return GoalRequest("goal", Slo(), 100, prompt="Where to?", **fields)  # type: ignore[arg-type]


def test_what_is_certain_takes_no_step_but_the_prompts(engine: LlamaEngine) -> None:
    (got,) = serve(engine, [a_goal(regex="abcdefgh")], random.Random(1), calm=True).values()
    assert (got.text, got.tokens, got.steps, got.finish) == ("abcdefgh", 9, 1, FinishReason.STOP)


def test_a_choice_takes_one_step_and_its_end_none(engine: LlamaEngine) -> None:
    (got,) = serve(engine, [a_goal(regex="I turn (left now|right now)")], random.Random(1), calm=True).values()
    assert got.text in ("I turn left now", "I turn right now")
    assert (got.tokens, got.steps) == (len(got.text) + 1, 1)
    assert got.finish is FinishReason.STOP


def test_log_probabilities_of_forced_tokens_come_a_step_later(engine: LlamaEngine) -> None:
    request = a_goal(regex="(l|r)end", logprobs=True)
    tokens = engine.prepare(request) + engine.lead("goal") - engine.open("goal")
    (first,) = engine.step((Cell("goal", tokens if tokens > 1 else 0),))
    assert (first.text[1:], first.tokens, first.pending, first.finish, len(first.logprobs)) == ("end", 4, 4, None, 1)
    (last,) = engine.step((Cell("goal", 4),))
    assert (last.text, last.tokens, last.finish) == ("", 1, FinishReason.STOP)
    assert [(rated.token, rated.data) for rated in last.logprobs[:3]] == [("e", b"e"), ("n", b"n"), ("d", b"d")]
    assert last.logprobs[3].token in ("<|endoftext|>", "<|im_end|>")
    assert last.logprobs[3].data == b""
    engine.close("goal")


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_max_tokens_cuts_forced_tokens_exactly(engine: LlamaEngine, max_tokens: int) -> None:
    request = replace(a_goal(regex="ab(c|d)efghij"), max_tokens=max_tokens)
    (got,) = serve(engine, [request], random.Random(1), calm=True).values()
    assert got.tokens == min(max_tokens, 10)
    assert got.finish is (FinishReason.LENGTH if max_tokens < 10 else FinishReason.STOP)
    assert len(got.text) == min(max_tokens, 9)


def test_a_stop_string_in_forced_tokens_ends_the_text_before_it(engine: LlamaEngine) -> None:
    for regex in ("abcdefgh", "[ab]bcdefgh"):
        (got,) = serve(engine, [a_goal(regex=regex, stop=("de",))], random.Random(1), calm=True).values()
        assert (got.text[1:], got.tokens, got.finish) == ("bc", 5, FinishReason.STOP)
