"""The scheduler's promises: every goal ends exactly once, whatever happens meanwhile."""

import math
import threading
import time

import pytest
from builders import CONTROL, QA, Bench, a_goal

from slice_ros.engines.paced import PacedEngine
from slice_ros.engines.simulated import Lengths, SimulatedEngine
from slice_ros.events import Finished, Progress, Snapshot
from slice_ros.goal import ErrorCode, FinishReason, GoalError
from slice_ros.latency import LatencyModel
from slice_ros.mask import DECODE, Cell, MaskMatrix
from slice_ros.pace import Pace
from slice_ros.policies import POLICIES, make_policy
from slice_ros.policies.base import next_cell
from slice_ros.scheduler import Scheduler
from slice_ros.slo import BestEffort, OnMiss, RealTime


class Fixed:
    """A policy that answers what a function says, and remembers what it was told."""

    name = "fixed"

    def __init__(self, plan):
        self._plan = plan
        self.plans = 0
        self.ends = []

    def plan(self, tasks, now, latency, limits):
        self.plans += 1
        return self._plan(tasks)

    def ended(self, task, *, completed):
        self.ends.append((task.goal_id, completed))


def everyone(columns=1):
    """All tasks decode in every column, as far as their prompts allow."""

    def plan(tasks):
        first = tuple(next_cell(task) for task in tasks)
        return MaskMatrix((first,) + (tuple(cell._replace(prompt_tokens=0) for cell in first),) * (columns - 1))

    return plan


# ---- ends


@pytest.mark.parametrize("policy", POLICIES)
def test_every_goal_ends_exactly_once_with_all_its_tokens(policy):
    lengths = {f"g{i}": Lengths(1 + 7 * i % 50, 1 + i % 9) for i in range(40)}
    bench = Bench(policy, lengths=lengths)
    for i in range(40):
        bench.submit(a_goal(f"g{i}", CONTROL if i % 2 else QA, max_tokens=25))
        bench.turn(i % 4)
    bench.drain()
    assert sorted(end.goal_id for end in bench.ends) == sorted(lengths)
    assert all(end.error_code is ErrorCode.NONE for end in bench.ends)
    assert {goal_id: bench.tokens(goal_id) for goal_id in lengths} == {goal_id: length.output_tokens for goal_id, length in lengths.items()}
    assert bench.engine.kv.used == 0


def test_it_says_why_a_goal_ended():
    bench = Bench(lengths={"short": Lengths(1, 3)})
    bench.submit(a_goal("short", max_tokens=8), a_goal("long", max_tokens=8))
    bench.drain()
    assert bench.end("short").reason is FinishReason.STOP
    assert bench.end("long").reason is FinishReason.LENGTH


def test_a_goal_that_cannot_be_prepared_is_refused_at_once_and_leaves_no_trace():
    bench = Bench(context_tokens=100)
    with pytest.raises(GoalError, match="exceed the context of 100 tokens"):
        bench.submit(a_goal("big", prompt_tokens=99, max_tokens=50))
    bench.drain()
    assert not bench.ends


def test_progress_comes_before_the_end_and_counts_up():
    bench = Bench()
    bench.submit(a_goal("g", max_tokens=5))
    bench.drain()
    events = [event for event in bench.events if not isinstance(event, Snapshot)]
    assert [event.report.output_tokens for event in events] == [1, 2, 3, 4, 5, 5]
    assert [type(event) for event in events] == [Progress] * 5 + [Finished]


def test_tokens_are_timed_where_they_are_produced():
    bench = Bench(latency=LatencyModel("d", (0.010, 0.020), prompt_token_s=0.001))
    bench.submit(a_goal("g", prompt_tokens=30, max_tokens=3))
    bench.drain()
    report = bench.end("g").report
    assert (report.ttft_s, report.tpot_s, report.e2e_s) == pytest.approx((0.040, 0.010, 0.060))


# ---- cancel


def test_a_canceled_goal_ends_once_with_the_reason_and_the_others_go_on():
    bench = Bench()
    bench.submit(a_goal("a"), a_goal("b"))
    bench.turn(2)
    bench.scheduler.cancel("a", ErrorCode.CANCELED, "not needed any more")
    bench.drain()
    assert (bench.end("a").error_code, bench.end("a").error_msg) == (ErrorCode.CANCELED, "not needed any more")
    assert (bench.tokens("a"), bench.tokens("b")) == (2, 8)
    assert bench.engine.kv.used == 0


def test_a_goal_may_be_canceled_before_its_first_step():
    bench = Bench()
    bench.submit(a_goal("a"))
    bench.scheduler.cancel("a")
    bench.drain()
    assert bench.end("a").error_code is ErrorCode.CANCELED
    assert math.isnan(bench.end("a").report.ttft_s)


def test_to_cancel_what_has_ended_or_never_was_changes_nothing():
    bench = Bench()
    bench.submit(a_goal("a"))
    bench.drain()
    bench.scheduler.cancel("a")
    bench.scheduler.cancel("never was")
    bench.submit(a_goal("b"))
    bench.drain()
    assert [(end.goal_id, end.error_code) for end in bench.ends] == [("a", ErrorCode.NONE), ("b", ErrorCode.NONE)]


def test_cancelling_every_goal_of_a_matrix_leaves_no_column_to_compute():
    policy = Fixed(everyone(10))
    bench = Bench(policy)
    bench.submit(a_goal("a"), a_goal("b"))
    bench.turn()
    bench.scheduler.cancel("a")
    bench.scheduler.cancel("b")
    assert not bench.scheduler.turn()
    assert len(bench.ends) == 2
    assert policy.ends == [("a", False), ("b", False)]


# ---- plans


def test_a_matrix_is_scanned_to_its_end_before_the_policy_is_asked_again():
    policy = Fixed(everyone(4))
    bench = Bench(policy)
    bench.submit(a_goal("a", max_tokens=100))
    bench.turn(4)
    assert policy.plans == 1
    bench.turn()
    assert policy.plans == 2


def test_arrival_and_cancellation_ask_for_a_new_plan():
    policy = Fixed(everyone(100))
    bench = Bench(policy)
    bench.submit(a_goal("a", max_tokens=100))
    bench.turn(2)
    bench.submit(a_goal("b", max_tokens=100))
    bench.turn(2)
    assert policy.plans == 2
    bench.scheduler.cancel("b")
    bench.turn(2)
    assert policy.plans == 3


def test_a_completion_asks_for_a_new_plan():
    policy = Fixed(everyone(100))
    bench = Bench(policy)
    bench.submit(a_goal("a", max_tokens=2), a_goal("b", max_tokens=100))
    bench.turn(3)
    assert policy.plans == 2
    assert policy.ends == [("a", True)]


def test_steps_that_take_longer_than_planned_ask_for_a_new_plan():
    policy = Fixed(everyone(100))
    bench = Bench(policy)
    bench.scheduler._pace = Pace(LatencyModel("optimist", (0.007,)))  # the engine takes 14 ms
    bench.submit(a_goal("a", max_tokens=100))
    bench.turn(10)
    assert 2 <= policy.plans <= 6  # after 10 ms of drift: every other step


def test_steps_that_take_what_was_planned_do_not():
    policy = Fixed(everyone(100))
    bench = Bench(policy)
    bench.submit(a_goal("a", max_tokens=100))
    bench.turn(50)
    assert policy.plans == 1


@pytest.mark.parametrize("matrix", [MaskMatrix(), MaskMatrix(((),))], ids=["no columns", "an empty column"])
def test_a_policy_without_an_answer_does_not_stop_the_world(matrix):
    bench = Bench(Fixed(lambda tasks: matrix))
    bench.submit(a_goal("a"), a_goal("b"))
    bench.drain()
    assert [end.goal_id for end in bench.ends] == ["a", "b"]


def test_the_policy_can_be_changed_while_goals_run():
    bench = Bench("orca")
    bench.submit(*(a_goal(f"g{i}", max_tokens=20) for i in range(5)))
    bench.turn(3)
    bench.scheduler.set_policy(make_policy("slice"))
    bench.turn(3)
    bench.scheduler.set_policy(make_policy("fastserve"))
    bench.drain()
    assert len(bench.ends) == 5
    assert all(bench.tokens(f"g{i}") == 20 for i in range(5))


def test_a_prompt_longer_than_a_step_is_computed_in_chunks():
    bench = Bench(max_step_tokens=64)
    bench.submit(a_goal("a", prompt_tokens=150, max_tokens=4))
    bench.turn(2)
    assert bench.tokens("a") == 0
    bench.turn()
    assert bench.tokens("a") == 1
    bench.drain()
    assert bench.tokens("a") == 4


def test_snapshots_show_the_matrix_in_force():
    bench = Bench("slice")
    bench.submit(a_goal("a", CONTROL, max_tokens=100), a_goal("b", QA, max_tokens=100))
    bench.turn(60)
    snapshot = [event for event in bench.events if isinstance(event, Snapshot)][-1]
    assert (snapshot.policy, snapshot.running, snapshot.queued) == ("slice", 2, 0)
    assert snapshot.mask.goal_ids == ("a", "b")
    assert snapshot.mask.real_time == (True, False)
    assert snapshot.mask.cells[:, -1].tolist() == [DECODE, 0]  # packed to the left: only the faster one is in the cycle's last column
    assert snapshot.kv_used > 0


# ---- SLO misses


def test_a_goal_that_asks_for_it_ends_as_soon_as_its_slo_is_out_of_reach():
    bench = Bench()
    bench.submit(
        a_goal("abort", RealTime(deadline_s=0.5, on_miss=OnMiss.ABORT), max_tokens=1000),
        a_goal("go on", RealTime(deadline_s=0.5), max_tokens=100),
    )
    bench.drain()
    assert bench.end("abort").error_code is ErrorCode.SLO_MISSED
    assert 10 < bench.tokens("abort") <= 20
    assert bench.end("go on").error_code is ErrorCode.NONE
    assert not bench.end("go on").report.attained


def test_such_a_goal_does_not_wait_for_the_bound_to_pass():
    bench = Bench(latency=LatencyModel("d", (0.014,), prompt_token_s=0.001))
    soon = {"on_miss": OnMiss.ABORT}
    bench.submit(
        a_goal("first", BestEffort(), prompt_tokens=50, max_tokens=8),  # 64 ms
        a_goal("prompt", RealTime(ttft_ms=110, **soon), prompt_tokens=100),  # 114 ms alone
        a_goal("in time", RealTime(ttft_ms=120, **soon), prompt_tokens=100),
        a_goal("deadline", RealTime(deadline_s=0.013, **soon), max_tokens=1),
    )
    bench.scheduler.set_policy(Fixed(lambda tasks: MaskMatrix(((next_cell(max(tasks, key=lambda task: task.prompt_tokens)),),))))
    bench.turn()
    assert {end.goal_id: end.error_code for end in bench.ends} == dict.fromkeys(("prompt", "deadline"), ErrorCode.SLO_MISSED)
    assert bench.tokens("in time") == 1
    assert "out of reach 0.000 s after the goal was sent" in bench.end("deadline").error_msg


# ---- KV cells


def test_best_effort_goals_give_way_the_youngest_first_when_the_kv_cells_run_out():
    bench = Bench(lengths={f"be{i}": Lengths(20, 40) for i in range(3)}, context_tokens=200)
    bench.submit(*(a_goal(f"be{i}", QA, max_tokens=40) for i in range(3)))  # 60 of 200 cells each
    bench.turn(5)
    evicted = []
    evict = bench.engine.evict
    bench.engine.evict = lambda goal_id, copy_s: evicted.append(goal_id) or evict(goal_id, copy_s)
    bench.scheduler.set_policy(Fixed(lambda tasks: MaskMatrix(((next_cell(tasks[-1]),),))))
    bench.submit(a_goal("rt", CONTROL, prompt_tokens=20, max_tokens=60))
    bench.turn()
    assert evicted == ["be2"]
    bench.scheduler.set_policy(make_policy("orca"))
    bench.drain()
    assert len(bench.ends) == 4
    assert all(bench.tokens(f"be{i}") == 40 for i in range(3))  # an evicted goal loses no token


def test_what_an_evicted_goal_computes_again_is_planned():
    def plan(tasks):
        goals = {task.goal_id: task for task in tasks}
        if "rt" not in goals:
            return everyone()(tasks)
        return MaskMatrix(((next_cell(goals["rt"]),), (Cell("young", min(8, goals["young"].prompt_left)),)))

    bench = Bench(Fixed(plan), context_tokens=100)
    bench.submit(a_goal("old", prompt_tokens=30, max_tokens=20), a_goal("young", prompt_tokens=30, max_tokens=20))
    bench.turn()
    columns = []
    step = bench.engine.step
    bench.engine.step = lambda column: columns.append(column) or step(column)
    bench.submit(a_goal("rt", CONTROL, prompt_tokens=1, max_tokens=20))
    bench.turn(4)
    assert columns[1:] == [(Cell("rt"),), (Cell("young", 8),), (Cell("rt"),)]


@pytest.mark.parametrize(("adapter", "max_batch"), [("x", 16), ("", 1)], ids=["another adapter", "one row"])
def test_no_real_time_goal_gives_way_to_a_best_effort_one(adapter, max_batch):
    bench = Bench("slack", context_tokens=100)
    bench.scheduler.set_max_batch(max_batch)
    evicted = []
    evict = bench.engine.evict
    bench.engine.evict = lambda goal_id, copy_s: evicted.append(goal_id) or evict(goal_id, copy_s)
    bench.submit(a_goal("be", BestEffort(), max_tokens=60, adapter=adapter))  # owed steps from 0.7 s on, with no room for it
    bench.submit(*(a_goal(f"rt{i}", RealTime(deadline_s=20.0), max_tokens=60) for i in range(12)))
    bench.drain()
    assert set(evicted) <= {"be"}
    assert all(bench.end(f"rt{i}").report.attained for i in range(12))


def test_goals_beyond_the_number_of_sequences_wait_and_are_served():
    bench = Bench(max_sequences=2)
    bench.submit(*(a_goal(f"g{i}") for i in range(6)))
    bench.drain()
    assert len(bench.ends) == 6


# ---- threads


def a_live_scheduler(events):
    latency = LatencyModel("quick", (0.0005,))
    return Scheduler(PacedEngine(SimulatedEngine(latency), latency), make_policy("orca"), latency, events.extend)


def test_many_threads_may_submit_and_cancel_while_it_runs():
    events = []
    scheduler = a_live_scheduler(events)
    runner = threading.Thread(target=scheduler.run)
    runner.start()

    def client(name):
        for i in range(25):
            goal_id = f"{name}-{i}"
            scheduler.submit(a_goal(goal_id, max_tokens=5, submitted_s=time.monotonic()))
            if i % 3 == 0:
                scheduler.cancel(goal_id)

    clients = [threading.Thread(target=client, args=(name,)) for name in "abcdefgh"]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(20)
    deadline = time.monotonic() + 20
    while sum(isinstance(event, Finished) for event in events) < 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    scheduler.stop()
    runner.join(5)
    assert not runner.is_alive()
    ended = [event.goal_id for event in events if isinstance(event, Finished)]
    assert sorted(ended) == sorted(f"{name}-{i}" for name in "abcdefgh" for i in range(25))


def test_stop_ends_every_goal_and_says_so():
    events = []
    scheduler = a_live_scheduler(events)
    runner = threading.Thread(target=scheduler.run)
    runner.start()
    for i in range(3):
        scheduler.submit(a_goal(f"g{i}", max_tokens=30_000))
    time.sleep(0.05)
    scheduler.stop()
    runner.join(5)
    assert not runner.is_alive()
    ends = {event.goal_id: event.error_code for event in events if isinstance(event, Finished)}
    assert ends == {f"g{i}": ErrorCode.SHUTTING_DOWN for i in range(3)}


def test_a_policy_that_breaks_loses_no_goal(caplog):
    def breaks(_tasks):
        raise ZeroDivisionError("no step is that short")

    bench = Bench(Fixed(breaks), lengths={"a": Lengths(4, 3), "b": Lengths(4, 2)})
    bench.submit(a_goal("a"), a_goal("b"))
    bench.drain()
    assert [(end.goal_id, end.error_code) for end in bench.ends] == [("a", ErrorCode.NONE), ("b", ErrorCode.NONE)]
    assert "could not plan" in caplog.text
