"""What could be kept if it were known whom to take on: schedules that exist, between what the policy keeps and the limit."""

import pytest
from builders import PAPER
from by_path import module_at

from slice_ros.bench.limit import most_kept
from slice_ros.bench.workload import Arrival
from slice_ros.bench.workload_file import load_workload
from slice_ros.engines.simulated import Lengths
from slice_ros.goal import GoalRequest
from slice_ros.slo import BestEffort

pytest.importorskip("scipy")
hindsight = module_at("benchmarks/hindsight.py")


def report(name, tokens, deadline_s, *, at_s=0.0):
    """A goal with a deadline alone."""
    return Arrival(at_s, GoalRequest(name, BestEffort(deadline_s=deadline_s), 200, prompt="x", submitted_s=at_s), Lengths(1, tokens))


def linear():
    return hindsight.LatencyModel("linear", tuple(0.01 * rows for rows in range(1, 17)))


def serve_in_order(goals):
    """Those that are in time if each has the device for itself, one after the other, and none is left out."""
    at_s, kept = 0.0, set()
    for goal in goals:
        at_s = max(at_s, goal.time_s) + 0.01 * goal.lengths.output_tokens
        if at_s <= goal.time_s + goal.request.slo.deadline_s:
            kept.add(goal.request.goal_id)
    return frozenset(kept)


def test_goals_are_taken_on_and_exchanged_for_longer_ones_as_long_as_more_are_kept():
    long, *short = report("long", 90, 1.0), *(report(f"short {i}", 30, 1.0, at_s=0.001 * i) for i in (1, 2, 3))
    found = hindsight.search(frozenset([long]), [long, *short], linear(), serve_in_order)
    assert {goal.request.goal_id for goal in found.served} == {"short 1", "short 2", "short 3"}
    assert found.kept == 3
    assert found.work_s == pytest.approx(0.9)


def test_a_goal_that_costs_another_one_is_not_taken_on():
    goals = [report("a", 60, 0.7), report("b", 60, 0.7)]
    assert hindsight.search(frozenset(goals[:1]), goals, linear(), serve_in_order).served == frozenset(goals[:1])


def test_goals_meet_that_may_be_served_at_one_time():
    early, late = report("a", 10, 1.0), report("b", 10, 1.0, at_s=1.5)
    assert hindsight.meet(early, report("c", 10, 1.0, at_s=0.9))
    assert not hindsight.meet(early, late)
    chat = Arrival(0.0, GoalRequest("chat", BestEffort(ttft_ms=1000, tpot_ms=100), 200, prompt="x", submitted_s=0.0), Lengths(1, 11))
    assert hindsight.latest_end_s(chat) == pytest.approx(2.0)
    assert hindsight.meet(chat, late)


@pytest.mark.parametrize("seed", [3, 5])
def test_it_is_between_what_the_policy_keeps_and_the_limit(seed):
    case = hindsight.Case("slack", load_workload("robot-mix"), 3.0, seed, 15.0)
    kept = hindsight.judged(case, hindsight.LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth"))
    assert kept.policy <= kept.hindsight <= kept.limit
    assert kept.hindsight > kept.policy, "under such overload, to know pays"


def test_who_knows_the_lengths_is_not_surprised():
    goals = [report("a", 30, 5.0), report("b", 70, 5.0)]
    policy = hindsight.Foreknowing(goals)
    lengths = policy._experience.lengths
    assert [lengths.at_most(goal.request.goal_id, 0, 200, 0.02) for goal in goals] == [30, 70]
    assert lengths.expected("b", 10, 200) == (70.0, 0.0)
    assert most_kept(goals, PAPER) == 2
