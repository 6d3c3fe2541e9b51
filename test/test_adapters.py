"""LoRA adapters: goals with different ones run at the same time, and each gets the text it would get alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from builders import CONTROL, PAPER, QA, Bench, a_goal, a_task

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.shapes import START_SHAPE, make_adapter, make_start_model
from slice_ros.goal import ErrorCode, GoalError, GoalRequest
from slice_ros.mask import Cell, MaskMatrix
from slice_ros.parameters.table import check_all
from slice_ros.scheduling.engine import EngineError
from slice_ros.scheduling.events import Progress
from slice_ros.scheduling.policies import POLICIES, make_policy
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.scheduler import Scheduler
from slice_ros.slo import BestEffort

SHAPE = replace(START_SHAPE, block_count=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("adapters")
    files = {name: directory / f"{name}.gguf" for name in ("model", "polite", "terse", "wide")}
    make_start_model(files["model"], shape=SHAPE)
    make_adapter(files["polite"], seed=1)
    make_adapter(files["terse"], seed=2)
    make_adapter(files["wide"], seed=3, width=64)
    return files


@pytest.fixture(scope="module")
def shared_engine(files: dict[str, Path]) -> Iterator[LlamaEngine]:
    adapters = tuple((name, str(files[name])) for name in ("polite", "terse"))
    # With F32 KV cells, what shares a step with a sequence changes its logits by a rounding error only.
    engine = LlamaEngine(LlamaConfig(files["model"], n_ctx=4096, n_threads=1, type_k="f32", type_v="f32", adapters=adapters))
    yield engine
    engine.shutdown()


@pytest.fixture
def engine(shared_engine: LlamaEngine) -> Iterator[LlamaEngine]:
    yield shared_engine
    for goal_id in list(shared_engine._goals):
        shared_engine.close(goal_id)
    shared_engine.forget()


def goals() -> list[GoalRequest]:
    names = ("", "polite", "terse")
    return [
        GoalRequest(f"{name}{i}", CONTROL if i == 0 else BestEffort(), 12 + i, prompt=f"Where is the dock? {i}", adapter=name)
        for i in range(2)
        for name in names
    ]


def serve(engine: LlamaEngine, policy: str, requests: list[GoalRequest]) -> dict[str, str]:
    """What a scheduler makes of goals that come together."""
    texts = {request.goal_id: "" for request in requests}
    events: list[object] = []
    scheduler = Scheduler(engine, make_policy(policy), PAPER, events.extend)
    for request in requests:
        scheduler.submit(request)
    while scheduler.turn():
        pass
    for event in events:
        if isinstance(event, Progress):
            texts[event.goal_id] += event.text
    engine.forget()
    return texts


@pytest.mark.parametrize("policy", POLICIES)
def test_goals_with_different_adapters_at_once_get_the_texts_each_would_get_alone(engine: LlamaEngine, policy: str) -> None:
    alone: dict[str, str] = {}
    for request in goals():
        alone |= serve(engine, "orca", [request])
    assert len(set(alone.values())) == len(alone)  # the adapters make a difference
    assert serve(engine, policy, goals()) == alone


def test_a_step_with_two_adapters_is_refused(engine: LlamaEngine) -> None:
    for request in goals()[:2]:
        engine.prepare(request)
        engine.open(request.goal_id)
    with pytest.raises(ValueError, match="different adapters"):
        engine.step((Cell("0", 5), Cell("polite0", 5)))


def test_prefixes_are_shared_under_the_same_adapter_only(engine: LlamaEngine) -> None:
    prompt = "The robot is in the hall."

    def begin(goal_id: str, adapter: str) -> int:
        tokens = engine.prepare(GoalRequest(goal_id, QA, 4, prompt=prompt, adapter=adapter))
        held = engine.open(goal_id)
        engine.step((Cell(goal_id, tokens - held),))
        return held

    assert begin("first", "polite") == 0
    assert begin("other", "terse") == 0
    assert begin("none", "") == 0
    assert begin("second", "polite") == len(prompt) - 1
    engine.close("other")
    assert begin("third", "terse") == len(prompt) - 1


def test_an_unknown_adapter_is_refused_with_those_there_are(engine: LlamaEngine) -> None:
    with pytest.raises(GoalError, match="adapter is 'rude'; this server has: polite, terse") as raised:
        engine.prepare(a_goal("g", adapter="rude"))
    assert raised.value.code is ErrorCode.INVALID_GOAL


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("missing", "cannot be read"), ("model", "general.type"), ("wide", "incorrect shape")],
)
def test_a_file_that_is_no_adapter_of_this_model_is_told(files: dict[str, Path], name: str, sentence: str) -> None:
    path = files.get(name, files["model"].with_name("missing.gguf"))
    with pytest.raises(EngineError, match=sentence) as raised:
        LlamaEngine(LlamaConfig(files["model"], n_ctx=256, n_threads=1, adapters=(("it", str(path)),)))
    assert path.name in str(raised.value)


def test_the_parameter_names_adapters_and_their_files() -> None:
    config = LlamaConfig.from_parameters(check_all({"model.adapters": "polite=/a/polite.gguf, terse=/b.gguf"}))
    assert config.adapters == (("polite", "/a/polite.gguf"), ("terse", "/b.gguf"))
    for wrong in ("polite", "=a.gguf", "a=1.gguf,a=2.gguf"):
        with pytest.raises(EngineError, match="adapters is"):
            LlamaConfig.from_parameters(check_all({"model.adapters": wrong}))


def test_a_column_of_several_adapters_becomes_one_for_each_in_order_of_urgency() -> None:
    matrix = MaskMatrix(((Cell("a"), Cell("b", 3), Cell("c")), (Cell("b"),)))
    assert matrix.split({"a": "x", "b": "", "c": "x"}).columns == ((Cell("a"), Cell("c")), (Cell("b", 3),), (Cell("b"),))


def test_slack_plans_steps_of_one_adapter_each_and_leaves_none_out() -> None:
    tasks = [a_task(name, BestEffort(), order=i) for i, name in enumerate("abcd", 1)]
    for task in tasks:
        task.prompt_left = 0
        task.adapter = "x" if task.goal_id in "ad" else "y"
    matrix = make_policy("slack").plan(tasks, 0.0, PAPER, Limits(4))
    adapters = [{tasks["abcd".index(cell.goal_id)].adapter for cell in column} for column in matrix]
    assert all(len(names) == 1 for names in adapters)
    assert {name for names in adapters for name in names} == {"x", "y"}


def test_real_time_goals_keep_their_slo_beside_best_effort_ones_of_other_adapters() -> None:
    bench = Bench("slack")
    bench.submit(*(a_goal(f"be{i}", BestEffort(), max_tokens=100, adapter="be") for i in range(8)))
    bench.turn(5)
    bench.submit(*(a_goal(f"rt{i}", CONTROL, max_tokens=20, adapter=f"rt{i}") for i in range(2)))
    bench.drain()
    assert [bench.end(f"rt{i}").report.attained for i in range(2)] == [True, True]
    assert all(end.error_code is ErrorCode.NONE for end in bench.ends)
