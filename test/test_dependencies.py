"""Goals that wait for others, and deadlines over chains of them (l(1) = 14 ms, prompts for nothing)."""

import math

import pytest
from builders import CONTROL, Bench, a_goal

from slice_ros.engines.simulated import Lengths
from slice_ros.goal import ErrorCode, GoalError
from slice_ros.latency.model import LatencyModel
from slice_ros.slo import BestEffort, OnMiss, RealTime

LOG = BestEffort()


def ended_at(bench, goal_id):
    return bench.end(goal_id).report.e2e_s


def order_of_ends(bench):
    return [end.goal_id for end in bench.ends]


def test_a_goal_starts_when_all_it_names_have_succeeded():
    bench = Bench("slack")
    bench.submit(a_goal("a", LOG, max_tokens=3), a_goal("b", LOG, max_tokens=9), a_goal("c", CONTROL, max_tokens=2, after=("a", "b")))
    bench.drain()
    assert order_of_ends(bench) == ["a", "b", "c"]
    assert bench.end("c").report.queue_s >= ended_at(bench, "b")
    assert all(end.error_code is ErrorCode.NONE for end in bench.ends)


def test_a_goal_that_ended_before_counts():
    bench = Bench("slack")
    bench.submit(a_goal("a", LOG))
    bench.drain()
    bench.submit(a_goal("b", LOG, after=("a",)))
    bench.drain()
    assert bench.end("b").error_code is ErrorCode.NONE


@pytest.mark.parametrize("policy", ["slack", "slice", "orca", "fastserve"])
def test_every_policy_serves_a_chain(policy):
    bench = Bench(policy)
    bench.submit(a_goal("a", LOG), a_goal("b", CONTROL, after=("a",)), a_goal("c", LOG, after=("b",)), a_goal("d", CONTROL))
    bench.drain()
    assert [goal for goal in order_of_ends(bench) if goal != "d"] == ["a", "b", "c"]


def test_an_unknown_goal_is_an_error_that_names_it():
    bench = Bench("slack")
    bench.submit(a_goal("b", LOG, after=("nobody",)))
    bench.drain()
    assert bench.end("b").error_code is ErrorCode.UNKNOWN_GOAL
    assert "nobody" in bench.end("b").error_msg


def test_a_goal_that_names_itself_is_an_error():
    bench = Bench("slack")
    bench.submit(a_goal("a", LOG, after=("a",)))
    bench.drain()
    assert bench.end("a").error_code is ErrorCode.UNKNOWN_GOAL
    assert "itself" in bench.end("a").error_msg


def test_of_a_cycle_the_first_goal_names_an_unknown_one_and_the_second_a_failed_one():
    bench = Bench("slack")
    bench.submit(a_goal("a", LOG, after=("b",)), a_goal("b", LOG, after=("a",)))
    bench.drain()
    assert bench.end("a").error_code is ErrorCode.UNKNOWN_GOAL
    assert bench.end("b").error_code is ErrorCode.PREDECESSOR_FAILED


def test_a_canceled_goal_ends_all_that_wait_for_it_each_once():
    bench = Bench("slack")
    bench.submit(a_goal("a", LOG), a_goal("b", LOG, after=("a",)), a_goal("c", LOG, after=("a", "b")), a_goal("other", LOG))
    bench.turn()
    bench.scheduler.cancel("a")
    bench.drain()
    assert sorted(order_of_ends(bench)) == ["a", "b", "c", "other"]
    assert bench.end("a").error_code is ErrorCode.CANCELED
    assert {bench.end(goal).error_code for goal in "bc"} == {ErrorCode.PREDECESSOR_FAILED}
    assert "a" in bench.end("b").error_msg
    assert bench.end("other").error_code is ErrorCode.NONE


def test_canceling_a_goal_that_waits_leaves_those_before_it_alone():
    bench = Bench("slack")
    bench.submit(a_goal("a", LOG), a_goal("b", LOG, after=("a",)))
    bench.turn()
    bench.scheduler.cancel("b")
    bench.drain()
    assert bench.end("a").error_code is ErrorCode.NONE
    assert bench.end("b").error_code is ErrorCode.CANCELED


def test_a_goal_after_one_that_could_not_be_submitted_fails_for_that():
    bench = Bench("slack", context_tokens=100)
    with pytest.raises(GoalError):
        bench.submit(a_goal("a", LOG, prompt_tokens=200))
    bench.submit(a_goal("b", LOG, after=("a",)))
    bench.drain()
    assert bench.end("b").error_code is ErrorCode.PREDECESSOR_FAILED


def test_a_goal_id_that_is_taken_does_the_goal_in_hand_no_harm():
    bench = Bench("slack")
    bench.submit(a_goal("a", LOG))
    bench.turn()
    bench.scheduler.refuse("a")
    bench.submit(a_goal("b", LOG, after=("a",)))
    bench.drain()
    assert bench.end("b").error_code is ErrorCode.NONE


def test_a_goal_after_a_failed_one_fails_at_once():
    bench = Bench("slack")
    bench.submit(a_goal("a", BestEffort(ttft_ms=1, on_miss=OnMiss.ABORT)))
    bench.drain()
    bench.submit(a_goal("b", LOG, after=("a",)))
    bench.drain()
    assert bench.end("b").error_code is ErrorCode.PREDECESSOR_FAILED


def test_a_long_chain_that_fails_ends_without_recursion():
    bench = Bench("slack")
    bench.submit(a_goal("0", LOG), *(a_goal(str(i), LOG, after=(str(i - 1),)) for i in range(1, 3000)))
    bench.scheduler.cancel("0")
    bench.drain()
    assert len(bench.ends) == 3000


def test_a_chain_deadline_is_split_in_proportion_to_work():
    bench = Bench("slack")
    bench.submit(a_goal("a", LOG, max_tokens=10, chain_deadline_s=4.0), a_goal("b", LOG, max_tokens=30, after=("a",)))
    bench.turn()
    a, b = bench.scheduler.tasks
    assert a.due_end_s == pytest.approx(4.0 * 10 / 40)  # planned at 0 s
    assert b.due_end_s == pytest.approx(4.0)


def test_the_longest_path_counts():
    bench = Bench("slack")
    bench.submit(
        a_goal("a", LOG, max_tokens=10, chain_deadline_s=4.0),
        a_goal("short", LOG, max_tokens=10, after=("a",)),
        a_goal("long", LOG, max_tokens=20, after=("a",)),
        a_goal("last", LOG, max_tokens=10, after=("short", "long")),
    )
    bench.turn()
    dues = {task.goal_id: task.due_end_s for task in bench.scheduler.tasks}
    assert dues["a"] == pytest.approx(4.0 * 10 / 40)
    assert dues["short"] == pytest.approx(4.0 * 10 / 20)
    assert dues["long"] == pytest.approx(4.0 * 20 / 30)
    assert dues["last"] == pytest.approx(4.0)


def test_a_goal_is_due_in_time_for_those_that_wait_for_it():
    bench = Bench("slack")
    bench.submit(
        a_goal("a", RealTime(deadline_s=9.0), max_tokens=10),
        a_goal("b", RealTime(deadline_s=8.0), max_tokens=10, after=("a",)),
        a_goal("c", RealTime(deadline_s=2.0), max_tokens=20, after=("b",)),
        a_goal("d", LOG, max_tokens=10),
        a_goal("e", LOG, max_tokens=10, after=("d",)),
    )
    bench.turn()
    dues = {task.goal_id: task.followers_due_s for task in bench.scheduler.tasks}
    assert dues["a"] == pytest.approx(2.0 * 10 / 40)  # planned at 0 s: so the 20 tokens of c are left half of the time
    assert dues["b"] == pytest.approx(2.0 * 10 / 30)
    assert dues["c"] == dues["d"] == dues["e"] == math.inf
    bench.scheduler.cancel("c")
    bench.turn()
    assert bench.scheduler.tasks[0].followers_due_s == pytest.approx(0.014 + (8.0 - 0.014) * 9 / 19)


def test_best_effort_goals_hurry_no_real_time_one_that_they_wait_for():
    bench = Bench("slack")
    bench.submit(a_goal("a", RealTime(deadline_s=9.0), max_tokens=10), a_goal("b", BestEffort(deadline_s=1.0), max_tokens=10, after=("a",)))
    bench.turn()
    assert bench.scheduler.tasks[0].followers_due_s == math.inf


def test_a_goal_goes_before_others_where_one_that_waits_for_it_is_due_before_them():
    lengths = {goal: Lengths(1, 10) for goal in ("long", "first", "then")}
    bench = Bench("slack", lengths=lengths)
    bench.submit(
        a_goal("long", RealTime(deadline_s=1.5), max_tokens=10),
        a_goal("first", RealTime(deadline_s=2.0), max_tokens=10),
        a_goal("then", RealTime(deadline_s=0.35), max_tokens=10, after=("first",)),
    )
    bench.drain()
    assert all(bench.end(goal).report.attained for goal in lengths)


def test_a_chain_with_a_deadline_overtakes_goals_without_one():
    lengths = {goal: Lengths(1, 20) for goal in ("a", "b", *(f"log {i}" for i in range(6)))}
    bench = Bench("slack", lengths=lengths)
    bench.submit(*(a_goal(f"log {i}", LOG, max_tokens=20) for i in range(6)))
    bench.submit(a_goal("a", LOG, max_tokens=20, chain_deadline_s=1.0), a_goal("b", LOG, max_tokens=20, after=("a",)))
    bench.drain()
    assert bench.end("b").report.e2e_s <= 1.0
    assert bench.end("b").report.attained


def test_a_goal_that_ends_after_its_chain_is_due_has_missed_its_deadline():
    bench = Bench("orca")
    bench.submit(a_goal("a", LOG, max_tokens=10, chain_deadline_s=0.2), a_goal("b", LOG, max_tokens=10, after=("a",)))
    bench.drain()  # 140 ms each
    assert bench.end("a").report.attained
    assert not bench.end("b").report.attained
    assert not bench.end("b").report.deadline_met


def test_the_chain_deadline_outlives_the_goal_that_brought_it():
    bench = Bench("slack")
    bench.submit(a_goal("a", LOG, max_tokens=2, chain_deadline_s=5.0))
    bench.drain()
    bench.submit(a_goal("b", RealTime(tpot_ms=100), max_tokens=30, after=("a",)))
    bench.turn()
    assert bench.scheduler.tasks[0].due_end_s == pytest.approx(5.0)


def test_the_shares_of_those_that_waited_are_forgotten_with_them():
    bench = Bench("slack")
    bench.submit(a_goal("a", RealTime(deadline_s=9.0), max_tokens=20), a_goal("b", RealTime(deadline_s=2.0), max_tokens=20, after=("a",)))
    bench.turn()
    assert [task.goal_id for task in bench.scheduler.tasks[0].followers] == ["b"]
    bench.scheduler.cancel("b")
    bench.turn()
    assert bench.scheduler.tasks[0].followers_due_s == math.inf
    assert not bench.scheduler.tasks[0].followers


def test_others_leave_time_for_real_time_goals_that_still_wait():
    """Those that go first decode together, in 0.8 s; the prompts of those that wait take 0.7 s each, and others would have 1.4 s before."""
    latency = LatencyModel("flat", (0.020,), prompt_token_s=0.001)
    lengths = {f"{part} {i}": Lengths(prompt, tokens) for part, prompt, tokens in (("a", 1, 40), ("b", 700, 2)) for i in range(4)}
    lengths["be"] = Lengths(1400, 2)
    bench = Bench("slack", latency, lengths=lengths)
    for i in range(4):
        bench.submit(
            a_goal(f"a {i}", RealTime(deadline_s=4.6), max_tokens=40),
            a_goal(f"b {i}", RealTime(deadline_s=4.6), prompt_tokens=700, max_tokens=2, after=(f"a {i}",)),
        )
    bench.submit(a_goal("be", BestEffort(deadline_s=2.2), prompt_tokens=1400, max_tokens=2))
    bench.drain()
    assert [goal for goal in lengths if not bench.end(goal).report.attained] == ["be"]
