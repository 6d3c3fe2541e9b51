"""What models remember, in cells, windows and states: on each kind, batches compute what goals alone do, beginnings are shared, sessions
go on, and goals that gave way come back.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.architectures import SHAPES, DeltaNetShape, ModelShape, RecurrentShape
from slice_ros.engines.llama.shapes import make_model
from slice_ros.goal import GoalRequest, TokenLogprob
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell
from slice_ros.scheduling.engine import KvUse
from slice_ros.scheduling.events import Event, Finished, Progress
from slice_ros.scheduling.policies import make_policy
from slice_ros.scheduling.scheduler import Scheduler
from slice_ros.slo import BestEffort, RealTime, Slo

SYSTEM = ("You drive a robot in a warehouse. Answer with one command. The commands are: go, stop, turn left, turn right, dock. " * 4)[:400]
KINDS = {
    "llama": ("llama-3.2-1b", True), "gemma3": ("gemma-3-270m", True), "gemma3, small": ("gemma-3-270m", False),
    "mamba2": ("mamba2-130m", True), "lfm2": ("lfm2-350m", True), "granite": ("granite-4.0-h-350m", True),
    "falcon-h1": ("falcon-h1-0.5b", True), "qwen3-next": ("qwen3-next-80b-a3b", True),
}  # fmt: skip
"""A public shape, and ``swa_full``."""
STATES = ("mamba2", "lfm2", "granite", "falcon-h1", "qwen3-next")
WINDOW = 48


def small(name: str) -> ModelShape:
    shape = SHAPES[name]
    narrow: dict[str, object] = {"vocab_size": 512, "embedding_length": 64, "block_count": 3, "tied": False}
    if isinstance(shape, RecurrentShape):
        attention = tuple(range(3)) if len(shape.attention) == shape.block_count else (1,)
        narrow |= {"attention": attention if shape.attention else (), "inner": shape.inner and 128, "state": shape.state and 16}
        narrow |= {"state_heads": shape.state_heads and 4}
    if shape.sliding_window:
        narrow |= {"block_count": 6, "sliding_window": WINDOW}
    if isinstance(shape, DeltaNetShape):
        narrow |= {"block_count": 4, "state": 16, "state_key_heads": 2, "state_heads": 4}
        narrow |= {"experts": 8, "used_experts": 2, "expert_length": 32}
    if shape.key_length:
        narrow |= {"key_length": 16, "rope_dimensions": shape.rope_dimensions and 8}
    if shape.head_count:
        narrow |= {"head_count": 4, "head_count_kv": 2, "feed_forward_length": 128}
    return replace(shape, **narrow)  # type: ignore[arg-type]


class Served:
    """An engine of one kind, and another that shares nothing."""

    def __init__(self, folder: Path, kind: str, **fields: int) -> None:
        name, swa_full = KINDS[kind]
        self.kind = kind
        self.is_state = kind in STATES
        self.path = folder / f"{name}.gguf"
        if not self.path.exists():
            make_model(small(name), self.path, "f32")
        self.swa_full = swa_full
        self.engine = self.make(**fields)
        self.alone = self.make(prefix_cache=0, host_cache_mib=0, **fields)

    def make(self, **fields: int) -> LlamaEngine:
        # Whatever the order in which attention adds up, these types keep differences too small to be seen in what is drawn.
        exact = {"type_k": "f32", "type_v": "f32", "flash_attn": False}
        options = exact | {"n_ctx": 2048, "n_batch": 256, "n_seq_max": 16 if self.swa_full else 8, "n_threads": 1} | fields
        return LlamaEngine(LlamaConfig(self.path, swa_full=self.swa_full, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest, folder: Path) -> Iterator[Served]:
    served = Served(folder, request.param)
    yield served
    served.engine.shutdown()
    served.alone.shutdown()


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    yield shared
    for engine in (shared.engine, shared.alone):
        for goal_id in list(engine._goals):
            engine.close(goal_id)
        engine.forget()
        assert engine.kv == KvUse(0, 2048, 0)


def goal(goal_id: str, prompt: str, max_tokens: int = 12, **fields: object) -> GoalRequest:
    return GoalRequest(goal_id, Slo(), max_tokens, prompt=prompt, logprobs=True, **fields)  # type: ignore[arg-type]


Tokens = tuple[TokenLogprob, ...]


def check(got: Tokens, expected: Tokens) -> None:
    """An answer is the expected one, but for rounding errors, which may make another of two tokens the likelier one.

    Gelu looks its values up in a table of half precision: to it, errors of 1e-7 may make a difference of 1e-3.
    """
    for one, other in zip(got, expected, strict=False):
        assert abs(one.logprob - other.logprob) < 0.01
        if one.token != other.token:
            return
    assert len(got) == len(expected)


def start(engine: LlamaEngine, request: GoalRequest) -> tuple[Tokens, int]:
    """Its first token, and how many prompt tokens were computed for it."""
    tokens = engine.prepare(request)
    expected = engine.cached(request.goal_id)
    left = computed = tokens - engine.open(request.goal_id)
    assert computed == tokens - expected
    while True:
        chunk = engine.stride(request.goal_id, min(left, engine.info.max_step_tokens))
        assert 1 <= chunk <= left
        outputs = engine.step((Cell(request.goal_id, chunk),))
        left -= chunk
        if not left:
            return outputs[0].logprobs, computed


def finish(engine: LlamaEngine, goal_id: str, answer: Tokens) -> Tokens:
    while True:
        (output,) = engine.step((Cell(goal_id),))
        answer += output.logprobs
        if output.finish is not None:
            engine.close(goal_id)
            return answer


def run(engine: LlamaEngine, request: GoalRequest) -> tuple[Tokens, int]:
    """Its answer, and how many prompt tokens were computed for it."""
    answer, computed = start(engine, request)
    return finish(engine, request.goal_id, answer), computed


def text_of(answer: Tokens) -> str:
    return "".join(one.token for one in answer)


def test_in_a_batch_each_goal_gets_what_it_gets_alone(served: Served) -> None:
    requests = {name: goal(name, f"{name} " * (5 + 11 * i), 24) for i, name in enumerate(("one", "two", "three", "four"))}
    answers = {name: start(served.engine, request)[0] for name, request in requests.items() if name != "four"}
    left = served.engine.prepare(requests["four"])
    served.engine.open("four")
    answers["four"] = ()
    others, running = ["one", "two", "three"], list(requests)
    while running:
        chunk = min(left, 17)
        column = [*([Cell("four", chunk)] if "four" in running else []), *(Cell(name) for name in others if name in running)]
        left -= chunk
        others = others[1:] + others[:1] if left else others  # they take turns to pause
        for output in served.engine.step(column[: 2 + left % 3] if left else column):
            answers[output.goal_id] += output.logprobs
            if output.finish is not None:
                running.remove(output.goal_id)
    for name, request in requests.items():
        check(answers[name], run(served.alone, request)[0])


def test_a_second_goal_computes_what_it_does_not_share(served: Served) -> None:
    first, second, third = (goal(str(i), SYSTEM + end) for i, end in enumerate(("Where is the dock?", "Open the door", "Stop")))
    for request, expected in ((first, len(first.prompt)), (second, len("Open the door")), (third, len("Stop"))):
        answer, computed = run(served.engine, request)
        check(answer, run(served.alone, request)[0])
        # States are kept at each 128th token, and where prompts part.
        assert computed == expected + (400 - 384 if request is second and served.is_state else 0)


def test_a_burst_of_goals_with_one_beginning_computes_it_once(served: Served) -> None:
    requests = [goal(str(i), SYSTEM + f"{i} is the shelf") for i in range(3)]
    left = {}
    for request in requests:
        left[request.goal_id] = served.engine.prepare(request)
        served.engine.open(request.goal_id)
    answers, total = {}, 0
    while left:
        goal_id = next(iter(left))
        left[goal_id] -= served.engine.reuse(goal_id)
        chunk = served.engine.stride(goal_id, min(left[goal_id], 100))
        outputs = served.engine.step((Cell(goal_id, chunk),))
        total += chunk
        left[goal_id] -= chunk
        if not left[goal_id]:
            answers[goal_id] = outputs[0].logprobs
            del left[goal_id]
    assert total <= 400 + 3 * len("0 is the shelf") + (16 if served.is_state else 0)
    for request in requests:
        check(finish(served.engine, request.goal_id, answers[request.goal_id]), run(served.alone, request)[0])


def test_a_session_goes_on_from_its_history_and_from_its_prompt_where_the_answer_reads_otherwise(served: Served) -> None:
    history = SYSTEM + "user: hello\nrobot: "
    first = goal("1", history, regex="[a-z]{12}", session_id="s")
    answer, _ = run(served.engine, first)
    check(answer, run(served.alone, first)[0])
    text = text_of(answer)
    assert len(text) == 12
    second = goal("2", f"{history}{text}\nuser: go on\nrobot: ", session_id="s")
    answer, computed = run(served.engine, second)
    check(answer, run(served.alone, second)[0])
    assert computed == len(f"{text[-1]}\nuser: go on\nrobot: "), "the last token of an answer is never computed by it"
    other = goal("3", f"{history}{text[:6].upper()}\nuser: and now?")
    answer, computed = run(served.engine, other)
    check(answer, run(served.alone, other)[0])
    assert computed == len(other.prompt) - len(history)


def test_a_goal_that_gave_way_comes_back_from_host_memory(served: Served) -> None:
    request = goal("1", SYSTEM + "Where is the dock?", max_tokens=24)
    answer = start(served.engine, request)[0]
    for _ in range(8):
        answer += served.engine.step((Cell("1"),))[0].logprobs
    tokens = served.engine.evict("1")
    assert served.engine.kv.parked_bytes > 0
    served.engine.forget()
    assert run(served.engine, goal("2", "something else " * 20))[1] == 300
    assert served.engine.open("1") == tokens - 1
    for _ in range(4):
        answer += served.engine.step((Cell("1"),))[0].logprobs
    served.engine.evict("1")  # with more than before
    served.engine.forget()
    assert served.engine.open("1") == tokens + 3
    check(finish(served.engine, "1", answer), run(served.alone, request)[0])
    assert served.engine.kv.parked_bytes == 0


def test_a_goal_whose_cells_nobody_needed_is_where_it_was(served: Served) -> None:
    request = goal("1", SYSTEM + "Where is the dock?", max_tokens=24)
    answer = start(served.engine, request)[0]
    answer += served.engine.step((Cell("1"),))[0].logprobs
    tokens = served.engine.evict("1", -1.0)
    assert served.engine.kv.parked_bytes == 0
    assert served.engine.open("1", 0.0) == tokens - 1
    check(finish(served.engine, "1", answer), run(served.alone, request)[0])


LONG = "".join(f"{i} is where shelf {i} was. " for i in range(50))


@pytest.fixture
def narrow(folder: Path) -> Iterator[Served]:
    """Layers with a window have 512 cells: fewer than a long prompt."""
    served = Served(folder, "gemma3, small", n_seq_max=7, n_batch=128)
    yield served
    served.engine.shutdown()
    served.alone.shutdown()


def test_nobody_goes_on_from_where_a_window_is_gone(narrow: Served) -> None:
    run(narrow.engine, goal("1", LONG))
    early, late = goal("2", LONG[:300] + "and then?"), goal("3", LONG + "and then?")
    for request, expected in ((early, len(early.prompt)), (late, len("and then?"))):
        answer, computed = run(narrow.engine, request)
        check(answer, run(narrow.alone, request)[0])
        assert computed == expected


def test_goals_that_share_a_long_beginning_run_side_by_side_in_small_windows(narrow: Served) -> None:
    requests = [goal(str(i), LONG + f"where is {i}?", 40) for i in range(3)]
    started = {request.goal_id: start(narrow.engine, request) for request in requests}
    assert sum(computed for _, computed in started.values()) == len(LONG) + len("where is 0?") + 2 * len("0?")
    answers = {goal_id: answer for goal_id, (answer, _) in started.items()}
    for _ in range(39):
        for output in narrow.engine.step(tuple(map(Cell, answers))):
            answers[output.goal_id] += output.logprobs
    for request in requests:
        check(answers[request.goal_id], run(narrow.alone, request)[0])


def test_goals_that_crowd_each_other_out_all_get_their_answer(shared: Served) -> None:
    """Prompts that begin alike, real-time goals that take the cells of others, and more goals than sequences."""
    events: list[Event] = []
    engine = shared.make(n_ctx=1024, n_batch=96, n_seq_max=5)
    scheduler = Scheduler(engine, make_policy("slack"), LatencyModel("this", (0.002,), prompt_token_s=1e-4), events.extend)
    requests = [
        replace(
            goal(str(i), SYSTEM[: 150 + 40 * (i % 4)] + f"goal {i}", submitted_s=time.monotonic()),
            slo=RealTime(deadline_s=600.0) if i % 3 == 2 else BestEffort(),
        )
        for i in range(9)
    ]
    for request in requests:
        scheduler.submit(request)
        for _ in range(3):
            scheduler.turn()
    while scheduler.turn():
        pass
    engine.shutdown()
    answers: dict[str, Tokens] = {request.goal_id: () for request in requests}
    for event in events:
        if isinstance(event, Progress):
            answers[event.goal_id] += event.logprobs
    for request in requests:
        check(answers[request.goal_id], run(shared.alone, request)[0])
    assert sum(event.report.cached_tokens for event in events if isinstance(event, Finished)) >= (300 if shared.is_state else 600)


def test_guesses_leave_no_trace_where_they_were_wrong(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, rng = served.engine, random.Random(1)
    engine.forget()
    first, second = (goal(goal_id, SYSTEM[:90], max_tokens=3 * WINDOW) for goal_id in "ab")
    expected = finish(engine, "a", start(engine, first)[0])
    assert engine.info.can_draft == (not served.is_state)
    guess = engine._habits.guess

    def wrong_now_and_then(kind: str, tokens: array[int], most: int) -> array[int]:
        return array("i", [rng.randrange(256) if rng.random() < 0.1 else token for token in guess(kind, tokens, most)])

    monkeypatch.setattr(engine._habits, "guess", wrong_now_and_then)
    answer, _ = start(engine, second)
    drafted = right = steps = 0
    while True:
        most = engine.draft("b", 9)
        (output,) = engine.step((Cell("b", drafted=most),))
        drafted, right, steps = drafted + most, right + output.right, steps + 1
        answer += output.logprobs
        if output.finish is not None:
            break
    check(answer, expected)
    if served.is_state:
        assert not drafted
    else:
        assert 0 < right < drafted
        assert steps < len(expected)
