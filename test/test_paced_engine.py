"""A paced engine gives the inner engine's tokens, at the speed of another device."""

from __future__ import annotations

import time

import pytest

from slice_ros.engines.paced import FINE_S, PacedEngine
from slice_ros.goal import FinishReason, GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, Column
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.engine import EngineInfo, KvUse, Output
from slice_ros.slo import Slo

LATENCY = LatencyModel("toaster", (0.010, 0.015, 0.020), prompt_token_s=0.001, kv_token_s=0.0001)


class Inner:
    """Answers at once, or after a time."""

    info = EngineInfo("model", "this machine", 4096, 8, 512, 4096)
    kv = KvUse(3, 4096)

    def __init__(self, clock: VirtualClock, step_s: float = 0.0) -> None:
        self.clock = clock
        self.step_s = step_s
        self.calls: list[tuple[str, object]] = []

    def prepare(self, request: GoalRequest) -> int:
        self.calls.append(("prepare", request))
        return 20

    def open(self, goal_id: str, copy_s: float) -> int:
        self.calls.append(("open", goal_id))
        return 5

    def step(self, column: Column) -> list[Output]:
        self.clock.advance(self.step_s)
        return [Output(cell.goal_id, "x", FinishReason.STOP) for cell in column]

    def evict(self, goal_id: str, copy_s: float) -> int:
        self.calls.append(("evict", goal_id))
        return 21

    def close(self, goal_id: str) -> None:
        self.calls.append(("close", goal_id))

    def shutdown(self) -> None:
        self.calls.append(("shutdown", None))


def paced(step_s: float = 0.0) -> tuple[PacedEngine, VirtualClock]:
    clock = VirtualClock()
    return PacedEngine(Inner(clock, step_s), LATENCY, now=clock.now, sleep=clock.advance), clock


def test_a_step_lasts_as_long_as_the_profile_says() -> None:
    engine, clock = paced(step_s=0.004)
    for goal_id in "ab":
        engine.open(goal_id)
    engine.step((Cell("a", 15),))  # 5 tokens cached
    assert clock.now() == pytest.approx(0.010 + 15 * 0.001 + 5 * 0.0001)
    before = clock.now()
    engine.step((Cell("a"), Cell("b", 10)))
    assert clock.now() - before == pytest.approx(0.015 + 10 * 0.001 + (20 + 5) * 0.0001)


def test_an_evicted_goal_has_no_kv_to_attend() -> None:
    engine, clock = paced()
    engine.open("a")
    engine.step((Cell("a", 15),))
    engine.evict("a")
    engine.open("a")
    before = clock.now()
    engine.step((Cell("a", 1),))
    assert clock.now() - before == pytest.approx(0.010 + 0.001 + 5 * 0.0001)


def test_a_slower_inner_engine_sets_its_own_pace() -> None:
    engine, clock = paced(step_s=0.5)
    engine.open("a")
    engine.step((Cell("a", 1),))
    assert clock.now() == 0.5


def test_tokens_and_everything_else_are_the_inner_engines() -> None:
    clock = VirtualClock()
    inner = Inner(clock)
    engine = PacedEngine(inner, LATENCY, now=clock.now, sleep=clock.advance)
    request = GoalRequest("a", Slo(), 8, prompt="x")
    assert engine.prepare(request) == 20
    assert engine.open("a") == 5
    assert engine.step((Cell("a", 15),)) == [Output("a", "x", FinishReason.STOP)]
    assert engine.kv == KvUse(3, 4096)
    assert engine.evict("a") == 21
    engine.close("a")
    engine.close("a")
    engine.shutdown()
    assert [name for name, _ in inner.calls] == ["prepare", "open", "evict", "close", "close", "shutdown"]
    assert engine.info == EngineInfo("model", "toaster (paced, on this machine)", 4096, 8, 512, 4096)


def test_waits_on_the_real_clock_are_never_short_and_as_exact_as_the_machine_lets_them() -> None:
    clock = VirtualClock()
    engine = PacedEngine(Inner(clock), LATENCY)
    engine.open("a")
    late_s = []
    for _ in range(30):
        start_s = time.monotonic()
        engine.step((Cell("a"),))
        late_s.append(time.monotonic() - start_s - 0.010 - 0.0001 * len(late_s) - 5 * 0.0001)
    assert min(late_s) >= 0.0
    assert min(late_s) < FINE_S  # a busy machine delays some
