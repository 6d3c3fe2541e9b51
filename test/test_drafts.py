"""Drafts change how many steps an answer takes, and nothing else: whatever is guessed, and whatever happens to the goals meanwhile."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator

import pytest
from engines import exact_engine, serve

from slice_ros.engines.llama import LlamaEngine
from slice_ros.goal import GoalRequest, Sampling
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


@pytest.fixture(scope="module")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    engine = exact_engine(tmp_path_factory.mktemp("models"))
    yield engine
    engine.shutdown()


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
        for goal_id, mine in serve(engine, requests[first : first + 12], rng, cancels=0.004, drafts=True).items():
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
