"""JITServe: who brings the most reward per second of work left, in groups of similar length, for fifty steps."""

import pytest
from builders import Bench, RealTime, a_goal, a_task

from slice_ros.bench.simulate import attainment, simulate
from slice_ros.bench.workload import GoalClass, Uniform, Workload
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import Limits, make_policy
from slice_ros.scheduling.policies.jitserve import EVERY_STEPS, FIRST_STEP_S, SWAPS, JitServe
from slice_ros.slo import BestEffort

EVEN = LatencyModel("even", (0.01,), prompt_token_s=0.0001)
TWO = Limits(max_batch=2)


def density(task, now=0.0):
    return JitServe()._density(task, now)


def rows(policy, tasks, now=0.0, limits=TWO):
    (column,) = policy.plan(tasks, now, EVEN, limits).columns
    return {cell.goal_id: cell.prompt_tokens for cell in column}


def test_density_is_reward_per_second_of_work_left():
    task = a_task("t", BestEffort(), prompt_tokens=100, max_tokens=50)
    assert density(task) == pytest.approx((100 + 8 * 50) / (50 * FIRST_STEP_S))


def test_what_comes_late_counts_less():
    # 50 tokens take a second, as predicted: twice the deadline
    task = a_task("t", BestEffort(deadline_s=0.5), prompt_tokens=100, max_tokens=50)
    assert density(task) == pytest.approx(0.5 * density(a_task("t", BestEffort(deadline_s=9), prompt_tokens=100, max_tokens=50)))


def test_a_streamed_answers_prompt_counts_by_its_ttft_and_its_tokens_by_its_end():
    streamed = a_task("t", BestEffort(ttft_ms=100, tpot_ms=100), prompt_tokens=100, max_tokens=50)
    assert density(streamed, 0.18) == pytest.approx((0.5 * 100 + 8 * 50) / (50 * FIRST_STEP_S))


def test_utility_counts():
    assert density(a_task("t", RealTime(deadline_s=9))) == pytest.approx(100 * density(a_task("t", BestEffort(deadline_s=9))))


def test_free_places_go_to_the_densest_and_are_kept():
    policy = JitServe()
    long, short = a_task("long", BestEffort(), max_tokens=200), a_task("short", BestEffort(), order=1, max_tokens=10, prompt_tokens=50)
    mid = a_task("mid", BestEffort(), order=2, max_tokens=20, prompt_tokens=50)
    assert rows(policy, [long, short, mid]).keys() == {"short", "mid"}
    urgent = a_task("urgent", RealTime(deadline_s=1), order=3)
    assert rows(policy, [long, short, mid, urgent]).keys() == {"short", "mid"}
    assert rows(policy, [long, mid, urgent]).keys() == {"mid", "urgent"}


def test_after_fifty_steps_the_group_with_the_most_density_runs():
    policy = JitServe()
    dull = [a_task(f"dull{i}", BestEffort(), order=i, max_tokens=200, prompt_tokens=10) for i in range(2)]
    urgent = [a_task(f"urgent{i}", RealTime(deadline_s=1), order=9 + i, prompt_tokens=60) for i in range(2)]
    rows(policy, dull)
    for step in range(2, EVERY_STEPS):
        assert rows(policy, [*dull, *urgent], 0.01 * step).keys() == {"dull0", "dull1"}
    assert rows(policy, [*dull, *urgent], 0.5).keys() == {"urgent0", "urgent1"}


def test_no_more_than_some_give_way_at_once():
    policy, limits = JitServe(), Limits(max_batch=SWAPS + 2)
    dull = [a_task(f"dull{i}", BestEffort(), order=i, max_tokens=200, prompt_tokens=10) for i in range(SWAPS + 2)]
    urgent = [a_task(f"urgent{i}", RealTime(deadline_s=1), order=99 + i, prompt_tokens=60) for i in range(SWAPS + 2)]
    rows(policy, dull, limits=limits)
    policy._steps = EVERY_STEPS - 1
    assert sum(name.startswith("urgent") for name in rows(policy, [*dull, *urgent], 0.5, limits)) == SWAPS


def test_decodes_come_first_and_prompts_share_the_rest():
    policy = JitServe()
    decoding = a_task("decoding", BestEffort(), order=1)
    decoding.prompt_left, decoding.token_times_s = 0, [0.0]
    prompt = a_task("prompt", BestEffort(), prompt_tokens=2000)
    assert rows(policy, [prompt, decoding]) == {"decoding": 0, "prompt": 511}


def test_it_forgets_goals_that_ended():
    policy = JitServe()
    bench = Bench(policy, EVEN)
    bench.submit(*(a_goal(f"g{i}", prompt_tokens=50) for i in range(40)))
    bench.drain()
    assert not policy._densities
    bench.submit(a_goal("one more"))
    bench.drain()
    assert not policy._densities


def test_under_overload_by_long_answers_it_keeps_more_than_first_come_first_served():
    """The paper's claim: 1.4 times the goodput or more."""
    kinds = (("chat", BestEffort(ttft_ms=2000, tpot_ms=100), 30, 80), ("long", BestEffort(deadline_s=8), 100, 300))
    workload = Workload("long answers", tuple(GoalClass(name, 0.5, slo, Uniform(a, b), Uniform(64, 256)) for name, slo, a, b in kinds))
    arrivals = workload.traffic(24.0, 8.0, seed=5)
    latency = LatencyModel.profile("h200-chatglm2-6b-q4_0")
    kept = {name: attainment(simulate(arrivals, make_policy(name), latency)) for name in ("jitserve", "orca")}
    assert kept["jitserve"] > 1.2 * kept["orca"]


def test_plans_can_be_made_again_and_again_at_one_moment():
    policy, tasks = JitServe(), [a_task("a"), a_task("b", order=1)]
    for _ in range(20 * EVERY_STEPS):
        assert rows(policy, tasks, 1.0).keys() == {"a", "b"}
