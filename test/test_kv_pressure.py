"""When KV cells run out, goals give way and come back; what they say does not change, and each ends once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from builders import CONTROL, QA, RealTime, a_task

from slice_ros.bench.simulate import attainment, simulate
from slice_ros.bench.workload import GoalClass, Uniform, Workload
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.host_cache import PIECE, REMEMBERED_S
from slice_ros.engines.llama.shapes import START_SHAPE, make_start_model
from slice_ros.goal import ErrorCode, GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, Column, MaskMatrix
from slice_ros.scheduling import residency
from slice_ros.scheduling.clock import MonotonicClock
from slice_ros.scheduling.engine import EngineInfo, KvUse, Output
from slice_ros.scheduling.events import Finished, Progress
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies import POLICIES, Policy, make_policy
from slice_ros.scheduling.policies.base import next_cell
from slice_ros.scheduling.residency import (
    LONGEST_COPY_S,
    Room,
    claim,
    copy_time,
    first_to_go,
    held_back,
    is_worth_copying,
    unclaimed,
    victims,
)
from slice_ros.scheduling.scheduler import Scheduler
from slice_ros.slo import BestEffort, Slo

PROMPT = "The robot drives from the dock to the third shelf and back again, then it waits for the door to open. "
ROUNDING = 0.03
"""How far logits, whose standard deviation is 27, may differ when other chunks were computed: three times what was seen."""
LATENCY = LatencyModel("test", (0.002,), prompt_token_s=0.0001)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.gguf"
    make_start_model(path, shape=replace(START_SHAPE, block_count=2))
    return path


def an_engine(path: Path, **fields: int) -> LlamaEngine:
    # With F32 weights and F32 KV cells, what shares a step with a sequence changes its logits by a rounding error only.
    return LlamaEngine(LlamaConfig(path, type_k="f32", type_v="f32", n_batch=2048, n_threads=1, **fields))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(model_path: Path) -> Iterator[LlamaEngine]:
    engine = an_engine(model_path, n_ctx=2048, prefix_cache=0, host_cache_mib=0)
    yield engine
    engine.shutdown()


def goal(goal_id: str, prompt: str = PROMPT, max_tokens: int = 12, slo: Slo = QA) -> GoalRequest:
    return GoalRequest(goal_id, slo, max_tokens, prompt=prompt, submitted_s=time.monotonic())


def text_of(engine: LlamaEngine, request: GoalRequest) -> str:
    tokens = engine.prepare(request)
    engine.open(request.goal_id)
    outputs = engine.step((Cell(request.goal_id, tokens),))
    while outputs[-1].finish is None:
        outputs += engine.step((Cell(request.goal_id),))
    engine.close(request.goal_id)
    return "".join(output.text for output in outputs)


def assert_said(alone: LlamaEngine, request: GoalRequest, text: str) -> None:
    """The text is what the goal says alone, or its beginning, but for a choice between two tokens that rounding makes equal."""
    outputs, chunk = [], alone.prepare(request)
    alone.open(request.goal_id)
    for letter in text:
        outputs = alone.step((Cell(request.goal_id, chunk),))
        if outputs[0].text != letter:
            logits = alone._logits(1)[0]
            assert logits.max() - logits[ord(letter)] < ROUNDING
            break
        chunk = 0
    alone.close(request.goal_id)


class Serving:
    """A scheduler on an engine, and what became of its goals."""

    def __init__(self, engine: LlamaEngine, policy: Policy) -> None:
        self.events: list[object] = []
        self.scheduler = Scheduler(engine, policy, LATENCY, self.events.extend, clock=MonotonicClock())

    def drain(self, most: int = 5000) -> None:
        for _ in range(most):
            if not self.scheduler.turn():
                return
        raise AssertionError(f"still busy after {most} turns")

    @property
    def ends(self) -> dict[str, Finished]:
        ends = [event for event in self.events if isinstance(event, Finished)]
        assert len({end.goal_id for end in ends}) == len(ends), "a goal ended twice"
        return {end.goal_id: end for end in ends}

    @property
    def texts(self) -> dict[str, str]:
        texts = dict.fromkeys(self.ends, "")
        for event in self.events:
            if isinstance(event, Progress):
                texts[event.goal_id] += event.text
        return texts


# ---- parking


def started(engine: LlamaEngine, request: GoalRequest, tokens: int = 5) -> str:
    """Its first tokens' text."""
    prompt = engine.prepare(request)
    prompt -= engine.open(request.goal_id)
    text = engine.step((Cell(request.goal_id, prompt),))[0].text
    return text + "".join(engine.step((Cell(request.goal_id),))[0].text for _ in range(tokens - 1))


def finished(engine: LlamaEngine, goal_id: str) -> str:
    """The rest of its text."""
    outputs = engine.step((Cell(goal_id),))
    while outputs[-1].finish is None:
        outputs += engine.step((Cell(goal_id),))
    engine.close(goal_id)
    return "".join(output.text for output in outputs)


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT * 6], ids=["one piece", "pieces"])
def test_a_parked_goal_comes_back_without_computing_and_says_the_same(model_path: Path, alone: LlamaEngine, prompt: str) -> None:
    engine = an_engine(model_path, n_ctx=1024, prefix_cache=0)
    request = goal("a", prompt, max_tokens=40)
    text = started(engine, request)
    computed = len(prompt) + 4
    for _ in range(2):  # the second time, only what has come since is copied
        engine.evict("a")
        assert engine.kv.used == engine.kv.cached == 0
        assert engine.kv.parked_bytes > computed * 100
        started(engine, goal("b", "x" * 300))  # over the cells that it had
        engine.close("b")
        assert engine.cached("a") == computed
        assert engine.open("a") == computed
        text += "".join(engine.step((Cell("a"),))[0].text for _ in range(10))
        computed += 10
    assert text + finished(engine, "a") == text_of(alone, request)
    assert engine.kv == KvUse(0, 1024, 0, 0)
    engine.shutdown()


def test_only_what_fits_the_host_cache_is_parked_and_the_rest_is_computed_again(model_path: Path, alone: LlamaEngine) -> None:
    engine = an_engine(model_path, n_ctx=2048, prefix_cache=0, host_cache_mib=1)
    request = goal("a", PROMPT * 16, max_tokens=20)
    text = started(engine, request)
    engine.evict("a")
    assert 0 < engine.kv.parked_bytes <= 1 << 20
    parked = engine.open("a")
    assert 0 < parked < len(PROMPT * 16)
    assert parked % PIECE == 0
    text += engine.step((Cell("a", len(PROMPT * 16) + 5 - parked),))[0].text
    assert text + finished(engine, "a") == text_of(alone, request)
    engine.shutdown()


def test_without_time_nothing_is_copied(model_path: Path) -> None:
    engine = an_engine(model_path, n_ctx=1024, prefix_cache=0)
    started(engine, goal("a"))
    engine.evict("a", copy_s=0.0)
    assert engine.kv.parked_bytes == 0
    assert engine.open("a") == 0
    engine.close("a")
    started(engine, goal("b"))
    engine.evict("b")
    assert engine.open("b", copy_s=0.0) == 0, "it computes again rather than make others wait"
    engine.shutdown()


def test_the_time_of_copies_is_known_for_a_while(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = an_engine(model_path, n_ctx=1024, prefix_cache=0)
    assert engine.copy_token_s == 0.0
    started(engine, goal("a"))
    began_s = time.monotonic()
    engine.evict("a")
    assert 0.0 < engine.copy_token_s < time.monotonic() - began_s
    now_s = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now_s() + REMEMBERED_S)
    assert engine.copy_token_s == 0.0, "so that what was slow once is tried again"
    engine.shutdown()


def test_kv_is_worth_a_copy_out_and_back_that_is_quicker_than_computing_it() -> None:
    latency = LatencyModel("any", (0.010,), chunk_s=0.010, prompt_token_s=0.001)
    assert is_worth_copying(100, 0.00055, latency)  # 110 ms, as the prompt
    assert not is_worth_copying(100, 0.00056, latency)
    assert is_worth_copying(100, 0.0, LatencyModel("prompts for nothing", (0.010,))), "where no copy was measured"


# ---- who gives way


def test_cells_that_open_goals_may_grow_into_are_claimed() -> None:
    a, b = a_task("a", max_tokens=10, prompt_tokens=20), a_task("b", max_tokens=5, prompt_tokens=20)
    a.prompt_left, b.prompt_left = 0, 15
    assert (claim(a), claim(b)) == (30, 25)
    assert unclaimed(100, 25, (a, b)) == 100 - 30 - 25
    assert unclaimed(100, 20, (a, b)) == 100 - 30 - 25 + 5, "five of them are shared"


def test_there_is_room_for_what_open_goals_do_not_claim() -> None:
    running, lost, small, large = (a_task(name, slo, max_tokens=n) for name, slo, n in (
        ("running", QA, 40), ("lost", RealTime(deadline_s=1.0), 40), ("small", QA, 20), ("large", QA, 80),
    ))  # fmt: skip
    running.is_open = lost.is_open = True
    running.token_times_s = [0.5]
    room = Room((running, lost, small, large), 2.0, cells=100, sequences=3)
    assert [room.has(task) for task in (running, lost, small, large)] == [True, True, True, False]
    room.take(small)
    assert not room.has(a_task("other", QA, max_tokens=45))
    room.take(a_task("another", QA, max_tokens=10))
    assert not room.has(a_task("tiny", QA, max_tokens=1)), "all sequences are taken"


def test_goals_that_can_wait_are_not_begun_while_cells_are_scarce() -> None:
    kinds = {"report": BestEffort(deadline_s=10.0), "tale": BestEffort(), "chat": QA, "control": CONTROL}
    tasks = [a_task(name, slo, max_tokens=20, prompt_tokens=30) for name, slo in kinds.items()]
    running = a_task("running", QA, max_tokens=20, prompt_tokens=30)
    running.is_open = True
    assert held_back([running, *tasks], 1.0, most_rows=1, cells=100) == {"report", "tale"}
    assert held_back([running, *tasks], 6.0, most_rows=1, cells=100) == {"tale"}, "half of a report's time has passed"
    assert not held_back([running, *tasks], 1.0, most_rows=1, cells=250), "there are cells for all"
    assert not held_back([running, *tasks], 1.0, most_rows=2, cells=100), "a step has rows left"
    room = Room([running, *tasks], 1.0, cells=100, sequences=9, held_back={"report"})
    room.take(tasks[0])
    assert room.has(tasks[0])
    assert room.has(tasks[2]), "a goal that is held back takes no cells"


def test_chats_find_cells_that_reports_with_time_would_hold() -> None:
    kinds = (("chat", BestEffort(ttft_ms=1500, tpot_ms=60)), ("report", BestEffort(deadline_s=30)))
    workload = Workload("long prompts", tuple(GoalClass(name, 0.5, slo, Uniform(30, 80), Uniform(300, 1500)) for name, slo in kinds))
    arrivals = workload.traffic(16.0, 10.0, seed=5)
    assert attainment(simulate(arrivals, make_policy("slack"), LatencyModel.profile("h200-chatglm2-6b-q4_0"))) >= 0.99


def test_goals_of_which_nothing_is_due_any_more_give_way_to_those_of_which_something_is() -> None:
    greeting = BestEffort(ttft_ms=1000)
    begun, coming, tale, late = (
        a_task(name, slo, max_tokens=20, prompt_tokens=60, arrival_s=at_s)
        for name, slo, at_s in (("begun", greeting, 1.0), ("coming", greeting, 2.0), ("tale", BestEffort(), 2.0), ("late", greeting, 0.0))
    )
    begun.is_open, begun.token_times_s = True, [1.5]
    assert [task.is_settled for task in (begun, coming, tale, late)] == [True, False, True, False]
    room = Room((begun, coming, tale, late), 2.0, cells=100, sequences=9)
    assert [room.has(task) for task in (begun, coming, tale, late)] == [True, True, False, False]
    control = a_task("control", RealTime(ttft_ms=500), max_tokens=20, prompt_tokens=60)
    control.is_open, control.token_times_s = True, [0.5]
    assert not Room((control, coming), 2.0, cells=100, sequences=9).has(coming), "real-time goals do not give way"
    other = a_task("other", QA, order=5, arrival_s=2.0)
    assert [task.goal_id for task in victims((other, begun), {}, coming, 2.0)] == ["begun", "other"]


def test_chats_that_ask_for_a_first_token_alone_get_it_also_when_others_hold_all_cells() -> None:
    kinds = (("command", RealTime(ttft_ms=500), 0.3), ("chat", BestEffort(ttft_ms=1500), 0.7))
    workload = Workload("chats", tuple(GoalClass(name, share, slo, Uniform(20, 100), Uniform(32, 512), 300) for name, slo, share in kinds))
    latency = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth")
    assert attainment(simulate(workload.traffic(3.6, 30.0, seed=1), make_policy("slack"), latency)) >= 0.97


@pytest.mark.parametrize("policy", POLICIES)
def test_goals_of_two_adapters_do_not_take_the_cells_from_each_other_for_ever(policy: str) -> None:
    """Each prompt takes three steps, and there are cells for one goal: two kinds of goals that cannot share a step, planned together."""
    kinds = (GoalClass(name, 0.5, BestEffort(), Uniform(20, 20), Uniform(1500, 1500), 20, adapter=name) for name in ("plain", "tuned"))
    workload = Workload("two adapters", tuple(kinds))
    outcomes = simulate(workload.traffic(4.0, 1.0, seed=1), make_policy(policy), LATENCY, limits={"context_tokens": 2500})
    assert [outcome.report.output_tokens for outcome in outcomes] == [20] * len(outcomes)


def test_best_effort_goals_give_way_first_the_youngest_before_the_oldest() -> None:
    tasks = [a_task(f"{order}", CONTROL if order % 2 else QA, order=order) for order in range(6)]
    opener_be, opener_rt = a_task("be", QA, order=9), a_task("rt", CONTROL, order=9)
    assert [task.goal_id for task in victims(tasks, {"2"}, opener_rt, 0.0)] == ["4", "0", "5", "3", "1"]
    assert [task.goal_id for task in victims(tasks, {"2"}, opener_be, 0.0)] == ["4", "0"]
    tasks[0].slo = replace(QA, ttft_s=0.1)
    assert [task.goal_id for task in victims(tasks, {"2"}, opener_be, 0.2)] == ["0", "4"], "one whose SLO is lost goes before the others"
    planned = {"0", "1", "4"}
    assert [task.goal_id for task in victims(tasks, {"2"}, opener_be, 0.2, planned)] == [], (
        "two steps of a plan leave each other their cells"
    )
    assert [task.goal_id for task in victims(tasks, {"2"}, opener_rt, 0.2, planned)] == ["0", "4", "5", "3"]
    assert first_to_go(tasks, ["4", "2"]).goal_id == "0"
    assert first_to_go(tasks[:2], ["0"]).goal_id == "1", "a step is never left empty"


def test_copies_take_a_small_part_of_the_real_time_goals_slack() -> None:
    def outlook(deadline_s: float) -> Outlook:
        return Outlook.of(a_task("rt", RealTime(deadline_s=deadline_s), max_tokens=1), 0.0, LATENCY, Lengths())

    assert copy_time([], 0.0) == LONGEST_COPY_S
    assert copy_time([outlook(100.0)], 0.0) == LONGEST_COPY_S
    assert copy_time([outlook(100.0), outlook(0.0025)], 0.0) == pytest.approx(0.00004, abs=0.00002)
    assert copy_time([outlook(0.001)], 0.0) == LONGEST_COPY_S, "what is late in any case waits for nothing"


# ---- the scheduler


class Boastful(LlamaEngine):
    """Says that it has four times the KV cells that it has."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, context_tokens=4 * super().info.context_tokens)

    @property
    def kv(self) -> KvUse:
        return replace(super().kv, total=4 * super().kv.total)


class RealTimeFirst:
    """A policy that serves one goal at a time, the real-time ones first."""

    name = "real-time first"

    def plan(self, tasks, now, latency, limits):  # type: ignore[no-untyped-def]
        return MaskMatrix(((next_cell(min(tasks, key=lambda task: not task.is_real_time)),),))

    def ended(self, task, *, completed):  # type: ignore[no-untyped-def]
        pass


class Latest:
    """A policy that serves the goal that came last."""

    name = "latest"

    def plan(self, tasks, now, latency, limits):  # type: ignore[no-untyped-def]
        return MaskMatrix(((next_cell(tasks[-1]),),))

    def ended(self, task, *, completed):  # type: ignore[no-untyped-def]
        pass


class Together:
    """A policy that puts all goals into every step."""

    name = "together"

    def plan(self, tasks, now, latency, limits):  # type: ignore[no-untyped-def]
        return MaskMatrix((tuple(next_cell(task) for task in tasks)[: limits.max_batch],))

    def ended(self, task, *, completed):  # type: ignore[no-untyped-def]
        pass


def test_a_goal_that_gave_way_to_a_real_time_goal_goes_on_without_computing_again(
    model_path: Path, alone: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "LONGEST_COPY_S", 10.0)  # the machine may be busy
    engine = an_engine(model_path, n_ctx=256, prefix_cache=0)
    computed = 0
    step = engine.step

    def counted(column: Column) -> list[Output]:
        nonlocal computed
        computed += sum(cell.prompt_tokens or 1 for cell in column)
        return step(column)

    engine.step = counted  # type: ignore[method-assign]
    serving = Serving(engine, make_policy("slack"))
    long, urgent = goal("long", max_tokens=60), goal("urgent", "u" * 150, max_tokens=20, slo=RealTime(deadline_s=1000.0))
    serving.scheduler.submit(long)
    for _ in range(10):
        serving.scheduler.turn()
    serving.scheduler.set_policy(RealTimeFirst())
    serving.scheduler.submit(urgent)
    serving.scheduler.turn()
    assert engine.kv.used == 150
    assert engine.kv.parked_bytes > 0
    serving.drain()
    assert computed == len(PROMPT) + 59 + 150 + 19
    for request in (long, urgent):
        assert_said(alone, request, serving.texts[request.goal_id])
    engine.shutdown()


def test_nobody_gives_way_in_vain_for_cells_that_one_who_stays_shares(model_path: Path) -> None:
    engine = an_engine(model_path, n_ctx=512)
    serving = Serving(engine, Together())
    stays, shares = goal("stays", max_tokens=200, slo=RealTime(deadline_s=1000.0)), goal("shares", max_tokens=50)
    serving.scheduler.submit(stays)
    serving.scheduler.turn()
    serving.scheduler.submit(shares)
    serving.scheduler.turn()
    assert engine.kv.used < len(PROMPT) + 5 < engine.held(["stays"]) + engine.held(["shares"])
    serving.scheduler.set_policy(Latest())
    serving.scheduler.submit(goal("new", "n" * 280, max_tokens=20))  # 512 - 102 - 200 are too few for it, whoever gives way
    evicted = []
    evict = engine.evict
    engine.evict = lambda goal_id, copy_s: evicted.append(goal_id) or evict(goal_id, copy_s)  # type: ignore[method-assign,misc,assignment]
    for _ in range(20):
        serving.scheduler.turn()
    assert not evicted
    serving.drain()
    assert {end.error_code for end in serving.ends.values()} == {ErrorCode.NONE}
    engine.shutdown()


@pytest.mark.parametrize("policy", [*POLICIES, "together"])
def test_a_step_that_finds_no_room_is_tried_again_without_somebody(model_path: Path, alone: LlamaEngine, policy: str) -> None:
    config = LlamaConfig(model_path, n_ctx=256, type_k="f32", type_v="f32", n_threads=1)
    engine = Boastful(config)
    serving = Serving(engine, Together() if policy == "together" else make_policy(policy))
    requests = [goal(f"{i}", f"{i}" + PROMPT, max_tokens=24, slo=CONTROL if i % 3 == 0 else QA) for i in range(6)]
    evictions = 0
    evict = engine.evict

    def counted(goal_id: str, copy_s: float) -> int:
        nonlocal evictions
        evictions += 1
        return evict(goal_id, copy_s)

    engine.evict = counted  # type: ignore[method-assign, assignment]
    for request in requests:
        serving.scheduler.submit(request)
    serving.drain()
    for request in requests:
        assert len(serving.texts[request.goal_id]) == 24
        assert_said(alone, request, serving.texts[request.goal_id])
    assert all(end.error_code is ErrorCode.NONE for end in serving.ends.values())
    assert evictions or policy in ("orca", "slack")
    engine.shutdown()


def test_a_goal_that_finds_no_room_alone_ends_with_the_numbers_and_the_next_is_served(model_path: Path) -> None:
    engine = Boastful(LlamaConfig(model_path, n_ctx=256, n_threads=1))
    serving = Serving(engine, make_policy("orca"))
    engine._info = replace(engine._info, goal_tokens=1024)
    serving.scheduler.submit(goal("big", "x" * 250, max_tokens=100))
    serving.scheduler.submit(goal("small"))
    serving.drain()
    assert serving.ends["big"].error_code is ErrorCode.OVERLOADED
    assert "256 of 256 KV cells" in serving.ends["big"].error_msg
    assert serving.ends["small"].error_code is ErrorCode.NONE
    engine.shutdown()


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        *((policy, {}) for policy in POLICIES),
        ("fastserve", {"prefix_cache": 0}),
        ("fastserve", {"host_cache_mib": 0}),
        ("fastserve", {"prefix_cache": 0, "host_cache_mib": 0}),
    ],
    ids=str,
)
def test_under_pressure_every_goal_ends_once_with_the_text_it_would_have_alone(
    model_path: Path, alone: LlamaEngine, policy: str, fields: dict[str, int]
) -> None:
    rng = random.Random(f"{policy}{fields}")
    engine = an_engine(model_path, n_ctx=512, n_seq_max=5, **fields)
    serving = Serving(engine, make_policy(policy))
    requests, canceled = [], set()
    for i in range(16):
        prompt = rng.choice((PROMPT, f"{i} ")) + (PROMPT * 3)[: rng.randrange(1, 200)]
        requests.append(goal(f"{i}", prompt, max_tokens=rng.randrange(1, 40), slo=RealTime(deadline_s=5.0) if i % 3 == 0 else QA))
        serving.scheduler.submit(requests[-1])
        for _ in range(rng.randrange(12)):
            serving.scheduler.turn()
            assert engine.kv.used + engine.kv.cached <= 512
        if rng.random() < 0.3:
            canceled.add(f"{rng.randrange(i + 1)}")
            serving.scheduler.cancel(max(canceled))
    serving.drain()
    assert len(serving.ends) == 16
    for request in requests:
        end, text = serving.ends[request.goal_id], serving.texts[request.goal_id]
        if end.error_code is ErrorCode.CANCELED:
            assert request.goal_id in canceled
        else:
            assert end.error_code is ErrorCode.NONE
            assert len(text) == request.max_tokens
        assert_said(alone, request, text)
    assert engine.kv.used == engine.kv.parked_bytes == 0
    engine.shutdown()
