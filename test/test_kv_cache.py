"""What goals have in common is computed once, and what is kept for goals to come costs those in hand nothing."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.cells import Cells
from slice_ros.engines.llama.keeping import LEAST
from slice_ros.engines.llama.prefixes import Prefixes
from slice_ros.engines.llama.shapes import START_SHAPE, make_start_model
from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell
from slice_ros.scheduling.engine import KvUse
from slice_ros.scheduling.events import Finished
from slice_ros.scheduling.policies import make_policy
from slice_ros.scheduling.scheduler import Scheduler
from slice_ros.slo import Slo

SYSTEM = "You drive a robot in a warehouse. Answer with one command. The commands are: go, stop, turn left, turn right, dock. " * 4


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.gguf"
    make_start_model(path, shape=replace(START_SHAPE, block_count=2))
    return path


def an_engine(path: Path, **fields: int) -> LlamaEngine:
    # With F32 weights and F32 KV cells, whoever computed a cell, it differs by a rounding error only.
    return LlamaEngine(LlamaConfig(path, type_k="f32", type_v="f32", n_threads=1, **fields))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shared_engine(model_path: Path) -> Iterator[LlamaEngine]:
    engine = an_engine(model_path, n_ctx=4096)
    yield engine
    engine.shutdown()


@pytest.fixture
def engine(shared_engine: LlamaEngine) -> Iterator[LlamaEngine]:
    yield shared_engine
    for goal_id in list(shared_engine._goals):
        shared_engine.close(goal_id)
    assert shared_engine.kv.used == 0
    shared_engine.forget()
    assert shared_engine.kv == KvUse(0, 4096, 0)


@pytest.fixture(scope="module")
def alone(model_path: Path) -> Iterator[LlamaEngine]:
    """Computes every prompt itself."""
    engine = an_engine(model_path, n_ctx=4096, prefix_cache=0)
    yield engine
    engine.shutdown()


def goal(goal_id: str = "goal", prompt: str = SYSTEM, max_tokens: int = 16, **fields: object) -> GoalRequest:
    return GoalRequest(goal_id, Slo(), max_tokens, prompt=prompt, **fields)  # type: ignore[arg-type]


def start(engine: LlamaEngine, request: GoalRequest) -> tuple[str, int]:
    """Its first piece of text, and how many prompt tokens were computed for it."""
    tokens = engine.prepare(request)
    expected = engine.cached(request.goal_id)
    cached = engine.open(request.goal_id)
    assert cached == expected
    (output,) = engine.step((Cell(request.goal_id, tokens - cached),))
    return output.text, tokens - cached


def run(engine: LlamaEngine, request: GoalRequest) -> tuple[str, int]:
    """Its text, and how many prompt tokens were computed for it."""
    text, computed = start(engine, request)
    finish = None
    while finish is None:
        (output,) = engine.step((Cell(request.goal_id),))
        text, finish = text + output.text, output.finish
    engine.close(request.goal_id)
    return text, computed


# ---- prefixes


def test_a_second_goal_computes_only_what_it_does_not_share_with_one_that_ended(engine: LlamaEngine, alone: LlamaEngine) -> None:
    first, second = goal("1", SYSTEM + "Where is the dock?"), goal("2", SYSTEM + "Open the door")
    assert run(engine, first) == run(alone, first)
    text, computed = run(engine, second)
    assert computed == len("Open the door")
    assert text == run(alone, second)[0]


def test_a_goal_shares_cells_with_one_that_runs_and_they_count_once(engine: LlamaEngine, alone: LlamaEngine) -> None:
    first, second = goal("1", SYSTEM + "left"), goal("2", SYSTEM + "right")
    texts = {"1": start(engine, first)[0], "2": start(engine, second)[0]}
    assert engine.kv == KvUse(len(SYSTEM + "left" + "right"), 4096, 0)
    for _ in range(15):
        for output in engine.step((Cell("1"), Cell("2"))):
            texts[output.goal_id] += output.text
    assert texts == {request.goal_id: run(alone, request)[0] for request in (first, second)}


def test_a_goal_that_shares_outlives_the_one_that_computed(engine: LlamaEngine, alone: LlamaEngine) -> None:
    start(engine, goal("1", SYSTEM + "left"))
    text = start(engine, goal("2", SYSTEM + "right"))[0]
    engine.close("1")
    engine.forget()
    assert engine.kv == KvUse(len(SYSTEM + "right"), 4096, 0)
    for _ in range(15):
        text += engine.step((Cell("2"),))[0].text
    assert text == run(alone, goal("2", SYSTEM + "right"))[0]


def test_the_last_token_of_a_prompt_is_always_computed(engine: LlamaEngine) -> None:
    text, _ = run(engine, goal("1"))
    assert run(engine, goal("2")) == (text, 1)


def test_an_open_goal_takes_over_what_another_computes_meanwhile(engine: LlamaEngine, alone: LlamaEngine) -> None:
    first, second = goal("1", SYSTEM + "left"), goal("2", SYSTEM + "right")
    for request in (first, second):
        engine.prepare(request)
        engine.open(request.goal_id)
    engine.step((Cell("1", 200), Cell("2", 20)))
    assert engine.reuse("1") == 0
    assert engine.reuse("2") == 180
    assert engine.kv.used == 200
    engine.step((Cell("1", len(SYSTEM) + 4 - 200),))
    assert engine.reuse("2") == len(SYSTEM) - 200
    text = engine.step((Cell("2", 5),))[0].text
    for _ in range(15):
        text += engine.step((Cell("2"),))[0].text
    assert text == run(alone, second)[0]


def test_a_session_goes_on_from_its_history_also_when_other_goals_came_between(model_path: Path) -> None:
    engine = an_engine(model_path, n_ctx=4096, prefix_cache=600)
    history = SYSTEM + "user: hello\nrobot: "
    text, _ = run(engine, goal("1", history, session_id="s"))
    for i in range(8):
        run(engine, goal(f"other {i}", f"{i}" * 200))
    assert engine.kv.cached <= 600
    history += text + "\nuser: go on\nrobot: "
    _, computed = run(engine, goal("2", history, session_id="s"))
    assert computed <= len("?\nuser: go on\nrobot: ")  # the last token of an answer is never computed by it
    assert run(engine, goal("3", "7" * 199 + "x"))[1] > 100, "the others gave way"
    engine.shutdown()


def test_what_is_kept_stays_within_its_bound_and_the_least_recently_used_goes_first(model_path: Path) -> None:
    engine = an_engine(model_path, n_ctx=4096, prefix_cache=500)
    for name in "abc":
        run(engine, goal(name, name * 150, max_tokens=2))
    run(engine, goal("a again", "a" * 149 + "!", max_tokens=2))
    run(engine, goal("d", "d" * 150, max_tokens=2))
    assert engine.kv.cached <= 500
    for name, computed in (("a", 1), ("c", 1), ("d", 1)):
        assert run(engine, goal(f"{name} at last", name * 149 + "?", max_tokens=2))[1] == computed
    assert run(engine, goal("b at last", "b" * 149 + "?", max_tokens=2))[1] > 1
    engine.shutdown()


def test_little_is_kept_of_what_nobody_has_begun_with_again_and_what_is_shared_stays(model_path: Path) -> None:
    engine = an_engine(model_path, n_ctx=8192)  # a small model on a CPU: each cell that is kept makes each step longer
    run(engine, goal("first"))
    run(engine, goal("second"))
    for number in range(30):
        run(engine, goal(f"other {number}", prompt=chr(200 + number) * 100))
    assert LEAST <= engine.kv.cached <= len(SYSTEM) + LEAST
    run(engine, goal("of a session", prompt="y" * 500, session_id="chat"))
    assert engine.kv.cached >= LEAST + 500
    assert run(engine, goal("third"))[1] == 1
    engine.shutdown()


def test_a_long_beginning_is_kept_from_its_first_token_on_and_then_all_of_it(model_path: Path) -> None:
    engine = an_engine(model_path, n_ctx=8192, n_batch=1024)
    beginning = SYSTEM + "w" * 300
    computed = [run(engine, goal(f"{number}", prompt=f"{beginning}, {number}"))[1] for number in range(4)]
    assert computed[0] > LEAST + 200
    assert computed[1] <= computed[0] - LEAST + 16
    assert computed[2] == computed[3] == 1
    engine.shutdown()


def test_what_a_burst_shares_is_kept_and_what_each_has_alone_is_not(model_path: Path) -> None:
    engine = an_engine(model_path, n_ctx=8192)
    for number in range(6):
        start(engine, goal(f"{number}", prompt=f"{SYSTEM}{number}"))
    for number in range(6):
        engine.close(f"{number}")
    for number in range(20):
        run(engine, goal(f"other {number}", prompt=chr(200 + number) * 100))
    assert run(engine, goal("another", prompt=f"{SYSTEM}x"))[1] == 1
    for number in range(30):  # with a beginning in common
        run(engine, goal(f"like others {number}", prompt=SYSTEM[:33] + chr(200 + number) * 200))
    assert engine.kv.cached <= len(SYSTEM) + LEAST + 16
    engine.shutdown()


def test_what_a_goal_that_waits_was_told_is_cached_stays(model_path: Path) -> None:
    engine = an_engine(model_path, n_ctx=8192)
    run(engine, goal("first"))
    engine.prepare(goal("waits", prompt=f"{SYSTEM}!"))
    assert engine.cached("waits") == len(SYSTEM)
    for number in range(20):
        run(engine, goal(f"other {number}", prompt=chr(200 + number) * 100))
    assert engine.cached("waits") == len(SYSTEM)
    engine.shutdown()


def test_kept_cells_and_sequences_are_free_for_goals(model_path: Path, alone: LlamaEngine) -> None:
    engine = an_engine(model_path, n_ctx=256, n_seq_max=2, prefix_cache=256)
    for name in "abcdef":
        run(engine, goal(name, name * 60, max_tokens=4))
    assert engine.kv.used == 0
    assert engine.kv.cached > 100
    big, small = goal("big", "x" * 180, max_tokens=16), goal("small", "y" * 40, max_tokens=16)
    texts = {request.goal_id: start(engine, request)[0] for request in (big, small)}
    for _ in range(15):
        for output in engine.step((Cell("big"), Cell("small"))):
            texts[output.goal_id] += output.text
    assert texts == {request.goal_id: run(alone, request)[0] for request in (big, small)}
    engine.shutdown()


def test_without_a_prefix_cache_nothing_is_kept(alone: LlamaEngine) -> None:
    run(alone, goal("1"))
    assert alone.kv.cached == 0
    assert run(alone, goal("2"))[1] == len(SYSTEM)


def test_goals_that_begin_alike_get_the_text_each_would_get_alone(model_path: Path, alone: LlamaEngine) -> None:
    """Chunked prompts, pauses, evictions and cancels in random order, in a cache too small to keep much."""
    rng = random.Random(3)
    engine = an_engine(model_path, n_ctx=1024, n_seq_max=8, prefix_cache=512)
    prompts = [SYSTEM[: rng.randrange(20, 200)] + rng.choice(("", "left", "leave", "right")) for _ in range(40)]
    requests = {str(i): goal(str(i), prompt, max_tokens=rng.randrange(2, 20)) for i, prompt in enumerate(prompts)}
    expected = {goal_id: run(alone, request)[0] for goal_id, request in requests.items()}
    texts = dict.fromkeys(requests, "")
    waiting, left = list(requests), {}
    shared = canceled = 0
    while waiting or left:
        while waiting and len(left) < 4:
            goal_id = waiting.pop()
            left[goal_id] = engine.prepare(requests[goal_id]) - engine.cached(goal_id)
            shared += engine.cached(goal_id)
            engine.open(goal_id)
        if rng.random() < 0.1:
            goal_id = rng.choice(sorted(left))
            left[goal_id] = engine.evict(goal_id) - engine.open(goal_id)
        if rng.random() < 0.05:
            goal_id = rng.choice(sorted(left))
            engine.close(goal_id)
            del left[goal_id], expected[goal_id], texts[goal_id]
            canceled += 1
            continue
        column = []
        for goal_id in rng.sample(sorted(left), rng.randrange(1, len(left) + 1)):
            left[goal_id] -= engine.reuse(goal_id)
            column.append(Cell(goal_id, min(left[goal_id], rng.randrange(1, 64)) if left[goal_id] > 1 else 0))
            left[goal_id] -= column[-1].prompt_tokens or 1
        for output in engine.step(column):
            texts[output.goal_id] += output.text
            left[output.goal_id] += 1
            if output.finish is not None:
                engine.close(output.goal_id)
                del left[output.goal_id]
        assert engine.kv.used + engine.kv.cached <= 1024
    assert shared > 1000
    assert canceled
    assert texts == expected
    engine.forget()
    assert engine.kv == KvUse(0, 1024, 0)
    engine.prepare(goal("whole", "x" * 1023, max_tokens=1))
    engine.open("whole")
    assert engine.step((Cell("whole", 512),)) == []
    assert engine.step((Cell("whole", 511),)), "llama.cpp has as many cells free as are counted"
    engine.shutdown()


# ---- the scheduler


def test_the_scheduler_predicts_and_reports_what_is_cached(engine: LlamaEngine) -> None:
    latency = LatencyModel("slow prompts", (0.001,), prompt_token_s=1.0)
    events: list[object] = []
    scheduler = Scheduler(engine, make_policy("slack"), latency, events.extend)

    def serve(*requests: GoalRequest) -> list[Finished]:
        events.clear()
        for request in requests:
            scheduler.submit(request)
        while scheduler.turn():
            pass
        return [event for event in events if isinstance(event, Finished)]

    (first,) = serve(goal("1", SYSTEM + "left", max_tokens=2))
    assert (first.report.prompt_tokens, first.report.cached_tokens) == (len(SYSTEM) + 4, 0)
    assert first.report.predicted_ttft_s > len(SYSTEM)
    (second,) = serve(goal("2", SYSTEM + "right", max_tokens=2))
    assert second.report.cached_tokens == len(SYSTEM)
    assert second.report.predicted_ttft_s < 10
    engine.forget()
    burst = serve(*(goal(f"burst {i}", SYSTEM + f"{i}", max_tokens=2) for i in range(6)))
    assert sum(end.report.cached_tokens for end in burst) > 4.5 * len(SYSTEM), "one of them computes for all"


# ---- cells and prefixes


def test_cells_are_counted_as_if_each_had_a_name() -> None:
    rng = random.Random(1)
    cells, names = Cells(), iter(range(10**9))
    model: dict[int, list[int]] = {}
    for _ in range(3000):
        sequence = rng.randrange(6)
        held = model.setdefault(sequence, [])
        match rng.randrange(3):
            case 0:
                count = rng.randrange(1, 5)
                cells.grow(sequence, count)
                held += [next(names) for _ in range(count)]
            case 1:
                count = rng.randrange(len(held) + 1)
                cells.cut(sequence, count)
                del held[len(held) - count :]
            case _:
                source = rng.randrange(6)
                if model.get(source) and not held and source != sequence:
                    count = rng.randrange(len(model[source]) + 1)
                    cells.share(source, sequence, count)
                    held += model[source][:count]
        assert cells.used == len(set().union(*model.values()))
        assert cells.length(sequence) == len(held)
        others = set().union(*(held for other, held in model.items() if other != sequence))
        assert cells.alone(sequence) == len(set(held) - others)
        some = set(rng.sample(sorted(model), rng.randrange(len(model) + 1)))
        assert cells.held(some) == len(set().union(*(model[one] for one in some)))


def test_the_longest_common_beginning_is_found() -> None:
    rng = random.Random(2)
    rows: dict[int, array[int]] = {}
    prefixes = Prefixes()

    def common(a: array[int], b: array[int]) -> int:
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

    for _ in range(2000):
        row = array("i", [rng.choice((0, 1, 255, 256, 100_000)) for _ in range(rng.randrange(6))])
        sequence, count = prefixes.longest(row)
        assert count == max((common(row, other) for other in rows.values()), default=0)
        assert count == 0 or common(row, rows[sequence]) == count
        sequence = rng.randrange(8)
        match rng.randrange(3):
            case 0:
                prefixes.drop(sequence)
                rows.pop(sequence, None)
            case 1:
                length = rng.randrange(6)
                prefixes.cut(sequence, length)
                if sequence in rows:
                    rows[sequence] = rows[sequence][:length]
            case _:
                prefixes.put(sequence, row)
                rows[sequence] = row
