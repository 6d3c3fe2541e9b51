"""Drafts change how many steps an answer takes, and nothing else: whatever is guessed, and whatever happens to the goals meanwhile."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.shapes import START_SHAPE, make_model
from slice_ros.goal import FinishReason, GoalRequest, Sampling, TokenLogprob
from slice_ros.mask import Cell
from slice_ros.slo import Slo

FORMS: tuple[dict[str, str], ...] = (
    {},
    {},
    {"json_schema": "velocity"},
    {"json_schema": "navigation"},
    {"json_schema": "gripper"},
    {"regex": "(left|right), (left|right)!"},
    {"regex": "[ab]{3}—[ab]{3}"},
    {"grammar": 'root ::= "[" item ("," item)* "]"\nitem ::= "go to the dock" | "go to the door"'},
)


@dataclass
class Got:
    """All that a goal got."""

    text: str = ""
    tokens: int = 0
    steps: int = 0
    right: int = 0
    saved: int = 0
    finish: FinishReason | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    computed: array[int] = field(default_factory=lambda: array("i"))


@pytest.fixture(scope="module")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    path = tmp_path_factory.mktemp("models") / "small.gguf"
    make_model(replace(START_SHAPE, embedding_length=64, block_count=2, feed_forward_length=64), path, "f32")
    # Flash attention on CPUs rounds to 16 bits, so that what shares a step would change a draw in a thousand.
    engine = LlamaEngine(LlamaConfig(path, n_ctx=8192, flash_attn=False, type_k="f32", type_v="f32", n_threads=1))
    yield engine
    engine.shutdown()


@pytest.fixture
def engine(shared_engine: LlamaEngine) -> Iterator[LlamaEngine]:
    yield shared_engine
    for goal_id in list(shared_engine._goals):
        shared_engine.close(goal_id)
    assert shared_engine.kv.used == 0


class Oracle:
    """Guesses what will follow, and is wrong now and then.

    Args:
        answers: of goals, by their prompts.
    """

    def __init__(self, answers: dict[bytes, array[int]], rng: random.Random, *, wrong: float) -> None:
        self._answers = answers
        self._rng = rng
        self._wrong = wrong

    def learn(self, kind: str, tokens: array[int], prompt_tokens: int) -> None: ...

    def guess(self, kind: str, tokens: array[int], most: int) -> array[int]:
        for prompt, answer in self._answers.items():
            if tokens.tobytes().startswith(prompt):
                so_far = len(tokens) - len(prompt) // tokens.itemsize
                guess = answer[so_far : so_far + most]
                for i in range(len(guess)):
                    if self._rng.random() < self._wrong:
                        guess[i] = self._rng.randrange(200)
                return guess
        return array("i")


def serve(engine: LlamaEngine, requests: list[GoalRequest], rng: random.Random, *, calm: bool = False) -> dict[str, Got]:
    """Serve goals together in random order, with prompts, forced tokens and drafts in pieces, evictions and cancels; or one by one."""
    got = {request.goal_id: Got() for request in requests}
    for batch in ([request] for request in requests) if calm else (requests,):
        left = {request.goal_id: engine.prepare(request) + engine.lead(request.goal_id) for request in batch}
        opened: set[str] = set()
        while left:
            column = []
            for goal_id in rng.sample(sorted(left), 1 if calm else rng.randrange(1, len(left) + 1)):
                if not calm and rng.random() < 0.004:
                    engine.close(goal_id)  # canceled
                    del left[goal_id]
                    continue
                if not calm and goal_id in opened and rng.random() < 0.1:
                    engine.evict(goal_id)
                    opened.discard(goal_id)
                if goal_id not in opened:
                    whole = engine._goals[goal_id].tokens
                    left[goal_id] = len(whole) - engine.open(goal_id)
                    opened.add(goal_id)
                elif rng.random() < 0.2:
                    left[goal_id] -= engine.reuse(goal_id)
                count = left[goal_id] if calm else min(left[goal_id], rng.choice((1, 2, 3, 5, 40)))
                drafted = 0
                if not calm and count == left[goal_id] and (drafted := engine.draft(goal_id, rng.choice((0, 1, 3, 9)))):
                    drafted = rng.randrange(drafted + 1)  # as much of it as there is room for
                column.append(Cell(goal_id, 0 if left[goal_id] == 1 else count, drafted=drafted))
            if not column:
                continue
            for cell in column:
                left[cell.goal_id] -= cell.prompt_tokens or 1
            drafted_of = {cell.goal_id: cell.drafted for cell in column}
            for output in engine.step(tuple(column)):
                mine = got[output.goal_id]
                assert output.error is None
                assert mine.finish is None
                assert 0 <= output.right <= drafted_of[output.goal_id]
                assert 0 <= output.saved <= output.right
                mine.text += output.text
                mine.tokens += output.tokens
                mine.steps += 1
                mine.right += output.right
                mine.saved += output.saved
                mine.finish = output.finish
                mine.logprobs += output.logprobs
                left[output.goal_id] = output.pending
                assert engine.cached(output.goal_id) == len(engine._goals[output.goal_id].tokens) - output.pending
                if output.finish is not None:
                    goal = engine._goals[output.goal_id]
                    mine.computed = goal.tokens[: goal.told]
                    engine.close(output.goal_id)
                    del left[output.goal_id]
            assert engine.kv.used <= sum(len(goal.tokens) for goal in engine._goals.values()), "rejected tokens hold no cells"
    return got


def a_request(number: int, rng: random.Random) -> GoalRequest:
    sampling = rng.choice((Sampling(), Sampling(1.0, seed=number + 1), Sampling(0.8, top_k=20, repeat_penalty=1.3, seed=number + 1)))
    prompt = f"{number} " + "Where to? " * rng.randrange(1, 4)
    stop = rng.choice(((), (), ("to",), ('ar":', "},"), ("f, ", "gh")))
    limit, logprobs = rng.choice((1, 2, 7, 12, 40, 150)), rng.random() < 0.4
    form = rng.choice(FORMS)
    return GoalRequest(str(number), Slo(), limit, prompt=prompt, sampling=sampling, stop=stop, logprobs=logprobs, **form)  # type: ignore[arg-type]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("wrong", [0.0, 0.2, 0.9])
def test_answers_with_drafts_are_those_without(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config, wrong: float
) -> None:
    rng = random.Random(f"{wrong}")
    requests = [a_request(number, rng) for number in range(pytestconfig.getoption("--structured-goals"))]
    expected = serve(engine, requests, random.Random(0), calm=True)
    answers = {}
    for request in requests:
        prompt = engine._vocabulary.tokenize(request.prompt)
        answers[prompt.tobytes()] = expected[request.goal_id].computed[len(prompt) :]
    monkeypatch.setattr(engine, "_habits", Oracle(answers, rng, wrong=wrong))
    steps = right = canceled = 0
    for first in range(0, len(requests), 12):
        for goal_id, mine in serve(engine, requests[first : first + 12], rng).items():
            other = expected[goal_id]
            if mine.finish is None:
                assert other.text.startswith(mine.text)
                canceled += 1
                continue
            assert (mine.text, mine.tokens, mine.finish) == (other.text, other.tokens, other.finish), requests[int(goal_id)]
            assert [rated.token for rated in mine.logprobs] == [rated.token for rated in other.logprobs]
            expected_logprobs = pytest.approx([rated.logprob for rated in other.logprobs], abs=1e-4)
            assert [rated.logprob for rated in mine.logprobs] == expected_logprobs
            assert mine.computed == other.computed
            steps += mine.steps
            right += mine.right
    alone = sum(other.steps for other in expected.values())
    assert steps < {0.0: 0.55, 0.2: 0.8, 0.9: 1.0}[wrong] * alone
    assert right > 0
    assert canceled < len(requests) / 4
