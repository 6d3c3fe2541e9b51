"""Plans follow a device that throttles, and one that comes back; a step that is slow for once says nothing."""

import itertools
import random
import statistics
import time

import pytest
from builders import PAPER, Bench, a_goal

from slice_ros.bench.simulate import Recorder, attainment
from slice_ros.bench.workload_file import load_workload
from slice_ros.engines.simulated import SimulatedEngine
from slice_ros.latency.model import LatencyModel
from slice_ros.latency.pace import Pace
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.events import Snapshot
from slice_ros.scheduling.policies import make_policy
from slice_ros.scheduling.scheduler import Scheduler

STEP_S = PAPER.step_s(1)


def observe(pace, ratio, seconds):
    """Steps of so many calibrated seconds."""
    for _ in range(round(seconds / STEP_S)):
        pace.observe(STEP_S, 0.0, ratio * STEP_S)


def test_it_follows_a_device_down_and_up_again():
    pace = Pace(PAPER)
    observe(pace, 2.0, 1.0)
    assert pace.latency.step_s(3, 10, 1, 100) == pytest.approx(2.0 * PAPER.step_s(3, 10, 1, 100), rel=0.05)
    observe(pace, 1.0, 1.0)
    assert pace.latency.step_s(3) == pytest.approx(PAPER.step_s(3), rel=0.05)


@pytest.mark.parametrize("slow", [[50.0], [50.0, 50.0]], ids=["one", "two"])
def test_an_odd_slow_step_changes_nothing(slow):
    pace = Pace(PAPER)
    for ratio in [1.0] * 5 + slow + [1.0] * 10:
        pace.observe(STEP_S, 0.0, ratio * STEP_S)
        assert pace.latency is PAPER


PREFILLING = LatencyModel("prefilling", (STEP_S,), prompt_token_s=0.001, kv_token_s=1e-6)
CHUNK_S = PREFILLING.prompt_s(100)


def prefill(pace, ratio, prompt_ratio, chunks):
    """Steps of one row with a prompt chunk, each followed by a few decodes, on such a device."""
    for _ in range(chunks):
        pace.observe(STEP_S, CHUNK_S, ratio * (STEP_S + prompt_ratio * CHUNK_S))
        observe(pace, ratio, 5 * STEP_S)


def test_what_prompts_cost_beside_decodes_is_followed_too_and_does_not_touch_these():
    pace = Pace(PREFILLING)
    prefill(pace, 0.75, 1.6, 50)
    assert pace.latency.step_s(4, kv_tokens=100) == pytest.approx(0.75 * PREFILLING.step_s(4, kv_tokens=100), rel=0.05)
    assert pace.latency.prompt_s(200) == pytest.approx(0.75 * 1.6 * PREFILLING.prompt_s(200), rel=0.05)
    prefill(pace, 0.75, 1.0, 50)
    assert pace.latency.prompt_s(200) == pytest.approx(0.75 * PREFILLING.prompt_s(200), rel=0.05)


def test_prompts_alone_follow_a_device_that_throttles():
    pace = Pace(PREFILLING)
    for _ in range(30):
        pace.observe(STEP_S, CHUNK_S, 2.0 * (STEP_S + CHUNK_S))
    assert pace.latency.step_s(1, 100, 1) == pytest.approx(2.0 * PREFILLING.step_s(1, 100, 1), rel=0.05)


@pytest.mark.parametrize("slow", [[50.0], [50.0, 50.0]], ids=["one", "two"])
def test_nor_does_an_odd_slow_prompt(slow):
    pace = Pace(PREFILLING)
    for ratio in [1.0] * 5 + slow + [1.0] * 10:
        pace.observe(STEP_S, CHUNK_S, ratio * (STEP_S + CHUNK_S))
        assert pace.latency is PREFILLING


def test_a_chunk_that_is_a_small_part_of_its_step_says_nothing_about_prompts():
    pace = Pace(PREFILLING)
    rng = random.Random(0)
    for _ in range(300):  # what makes steps differ is about as long as the chunk
        pace.observe(1.0, 0.01, 1.01 * rng.uniform(0.992, 1.008))
        assert pace.latency is PREFILLING


def test_noise_is_not_worth_another_model():
    pace = Pace(PAPER)
    for i in range(1000):
        pace.observe(STEP_S, 0.0, (0.997 if i % 2 else 1.003) * STEP_S)
        assert pace.latency is PAPER


@pytest.mark.parametrize("ratio", [0.0, 1e9])
def test_it_stays_a_model_whatever_the_clock_says(ratio):
    pace = Pace(PAPER)
    observe(pace, ratio, 10.0)
    assert 0.01 * STEP_S < pace.latency.step_s(1) < 100 * STEP_S
    pace = Pace(PREFILLING)
    prefill(pace, 1.0, ratio, 100)
    assert 0.01 * CHUNK_S < pace.latency.prompt_s(100) < 100 * CHUNK_S


def test_an_engine_that_keeps_its_times_is_planned_with_them():
    bench = Bench("slack")
    bench.submit(*(a_goal(f"g{i}", max_tokens=20) for i in range(8)))
    bench.drain()
    snapshots = [event for event in bench.events if isinstance(event, Snapshot) and event.steps]
    assert snapshots
    assert all(snapshot.step_predicted_s == snapshot.step_calibrated_s for snapshot in snapshots)


# ---- a machine that runs at half its speed for a while

GPU_LIKE = LatencyModel("gpu-like", tuple(0.020 + 0.0004 * max(0, rows - 8) for rows in range(1, 17)), prompt_token_s=5e-5)
"""Rows cost next to nothing, so that goals of both classes share steps, and how many may do so is a matter of how long steps take."""
SLOW_S = (10.0, 20.0)
END_S = 30.0
SETTLED_S = 2.0


class Throttling(SimulatedEngine):
    """Takes twice as long within ``SLOW_S``."""

    def __init__(self, latency, clock, lengths):
        super().__init__(latency, clock, lengths)
        self.clock = clock

    def step(self, column):
        began = self.clock.now()
        outputs = super().step(column)
        if SLOW_S[0] <= began < SLOW_S[1]:
            self.clock.advance(self.clock.now() - began)
        return outputs


def serve(seed):
    """What becomes of traffic that the device can serve at both speeds."""
    arrivals = load_workload("robot-mix").with_rt_share(0.3).traffic(6.0, END_S, seed)
    clock, recorder = VirtualClock(), Recorder()
    engine = Throttling(GPU_LIKE, clock, {a.request.goal_id: a.lengths for a in arrivals})
    scheduler = Scheduler(engine, make_policy("slack"), GPU_LIKE, recorder, clock=clock)
    for arrival in arrivals:
        while clock.now() < arrival.time_s and scheduler.turn():
            pass
        clock.advance(max(0.0, arrival.time_s - clock.now()))
        scheduler.submit(arrival.request)
    while scheduler.turn():
        pass
    return [recorder.outcome(arrival) for arrival in arrivals]


def attained(outcomes, begin_s, end_s, *, real_time):
    """Attainment of the goals that arrived from ``SETTLED_S`` after the begin of a phase to its end."""
    return attainment([o for o in outcomes if begin_s + SETTLED_S <= o.arrival.time_s < end_s and o.is_real_time == real_time])


def test_real_time_goals_are_in_time_again_two_seconds_after_the_machine_throttled_and_the_others_after_it_came_back():
    outcomes = [outcome for seed in range(3) for outcome in serve(seed)]
    assert attained(outcomes, *SLOW_S, real_time=True) >= 0.9
    assert attained(outcomes, SLOW_S[1], END_S, real_time=True) >= 0.95
    assert attained(outcomes, SLOW_S[1], END_S, real_time=False) >= 0.95


def test_they_would_not_be_without_refinement(monkeypatch):
    monkeypatch.setattr(Pace, "observe", lambda *_: None)
    assert attained([outcome for seed in range(3) for outcome in serve(seed)], *SLOW_S, real_time=True) < 0.75


# ---- the same with llama.cpp


class ThreadClock:
    """Processor time of this thread, on which llama.cpp computes with one thread: other work on the machine does not count."""

    def now(self):
        return time.thread_time()


class Slowed:
    """An engine that takes as long again after each step, while ``is_slow``."""

    def __init__(self, engine, clock):
        self._engine = engine
        self._clock = clock
        self.is_slow = False

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def step(self, column):
        began_s = self._clock.now()
        outputs = self._engine.step(column)
        taken_s = self._clock.now() - began_s
        while self.is_slow and self._clock.now() < began_s + 2.0 * taken_s:
            pass
        return outputs


def test_llama_cpp_at_half_its_speed_is_followed_within_two_seconds_and_back(tmp_path):
    pytest.importorskip("llama_cpp")
    from slice_ros.engines.calibration import measure_latency
    from slice_ros.engines.llama import LlamaConfig, LlamaEngine
    from slice_ros.engines.llama.shapes import make_start_model

    make_start_model(tmp_path / "start.gguf")
    clock = ThreadClock()
    engine = Slowed(LlamaEngine(LlamaConfig(tmp_path / "start.gguf", n_ctx=1024, n_threads=1)), clock)
    latency = measure_latency(engine, max_batch=1, clock=clock)
    scheduler = Scheduler(engine, make_policy("slack"), latency, lambda _: None, clock=clock)
    sent = itertools.count()

    def ratios(*, slow):
        """Those that are planned with within two seconds at that speed."""
        engine.is_slow = slow
        until_s = clock.now() + SETTLED_S
        while clock.now() < until_s:
            if not scheduler.turn():
                scheduler.submit(a_goal(f"{next(sent)}", max_tokens=50, submitted_s=clock.now()))
            yield scheduler._pace.latency.step_s(1) / latency.step_s(1)

    # What else runs takes caches and memory bandwidth away, so that steps vary: 1.5 is well above that, and below 2.
    before = statistics.median(ratios(slow=False))
    slowed = max(ratios(slow=True))
    assert slowed > 1.5 * before
    assert min(ratios(slow=False)) < slowed / 1.5
    engine.shutdown()


def test_the_margin_is_what_one_in_ten_of_the_latest_steps_exceeded_its_prediction_by():
    pace = Pace(LatencyModel("margin", (0.010,)))
    for number in range(100):
        pace.observe(0.010, 0.0, 0.015 if number % 5 == 0 else 0.010)  # one in five takes half as long again: no new pace
    assert pace.latency.step_s(1) == pytest.approx(0.010, rel=0.02)
    assert pace.latency.margin == pytest.approx(0.5, abs=0.02)
    for _ in range(60):
        pace.observe(0.010, 0.0, 0.010)
    assert pace.latency.margin == pytest.approx(0.0, abs=0.02)


def test_a_device_that_becomes_slower_has_no_margin_once_that_is_its_pace():
    pace = Pace(LatencyModel("slower", (0.010,)))
    for _ in range(300):
        pace.observe(0.010, 0.0, 0.020)
    assert pace.latency.step_s(1) == pytest.approx(0.020, rel=0.02)
    assert pace.latency.margin == pytest.approx(0.0, abs=0.02)
