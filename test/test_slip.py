"""How much time real-time tasks are left beside others: learnt from promises that were not kept."""

import pytest
from builders import a_task

from slice_ros.bench.simulate import simulate
from slice_ros.bench.workload import GoalClass, Uniform, Workload
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies import make_policy
from slice_ros.scheduling.policies.slip import LOWER, MOST, OVERLOADED, RAISE, Slip
from slice_ros.slo import OnMiss, RealTime


def jobs(*goal_ids, computed=1):
    tasks = [a_task(goal_id) for goal_id in goal_ids]
    for task in tasks:
        task.computed_tokens = computed
    return [Outlook(task, 0, 0, None, 0.010) for task in tasks]


def test_none_is_left_until_a_promise_is_broken():
    slip = Slip()
    slip.promised(jobs("a", "b"))
    slip.promised(jobs("a", "b", "c"))
    slip.ended(a_task("a"))
    slip.promised(jobs("b", "c"))
    assert slip.share(0.9) == 0.0


def test_what_was_begun_and_cannot_be_kept_any_more_raises_it_once():
    slip = Slip()
    slip.promised(jobs("a", "b", "c"))
    slip.promised(jobs("c"))
    slip.promised(jobs("c"))
    assert slip.share(0.9) == pytest.approx(2 * RAISE)


def test_what_was_not_begun_is_given_up_at_no_cost():
    slip = Slip()
    slip.promised(jobs("a", computed=0))
    slip.promised([])
    assert slip.share(0.9) == 0.0


def test_each_promise_that_is_kept_to_the_end_lowers_it():
    slip = Slip()
    slip.promised(jobs("a", "b", "c"))
    slip.promised(jobs("b", "c"))
    slip.ended(a_task("b"))
    slip.ended(a_task("never promised"))
    assert slip.share(0.9) == pytest.approx(RAISE - LOWER)
    for i in range(50):
        slip.promised(jobs("c", f"{i}"))
        slip.ended(a_task(f"{i}"))
    assert slip.share(0.9) == 0.0


def test_it_has_a_limit():
    slip = Slip()
    slip.promised(jobs(*map(str, range(200))))
    slip.promised([])
    assert slip.share(0.9) == MOST


def test_while_real_time_goals_alone_ask_for_more_than_all_the_time_it_has_a_least():
    slip = Slip()
    assert slip.share(1.0) == 0.0
    assert slip.share(1.01) == OVERLOADED
    slip.promised(jobs(*map(str, range(40))))
    slip.promised([])
    assert slip.share(1.01) == slip.share(0.5) == pytest.approx(40 * RAISE)


@pytest.mark.parametrize("on_miss", [OnMiss.CONTINUE, OnMiss.ABORT], ids=lambda on_miss: on_miss.name)
def test_of_more_real_time_goals_than_a_gpu_can_serve_most_are_kept(on_miss):
    """What is begun too late needs narrow steps, in which everybody is late: without what was learnt 0.77 of these are kept, now 0.89."""
    classes = (
        GoalClass("control", 0.75, RealTime(deadline_s=0.8, on_miss=on_miss), Uniform(6, 14), Uniform(20, 60)),
        GoalClass("monitor", 0.25, RealTime(deadline_s=3.0, on_miss=on_miss), Uniform(10, 30), Uniform(64, 256)),
    )
    arrivals = Workload("too many", classes).traffic(120.0, 8.0, seed=1)
    outcomes = simulate(arrivals, make_policy("slack"), LatencyModel.profile("h200-chatglm2-6b-q4_0"))
    assert sum(outcome.report.attained for outcome in outcomes) > 0.84 * len(outcomes)
