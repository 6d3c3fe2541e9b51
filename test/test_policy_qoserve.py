"""QoServe: steps as long as decoders have slack, prompts by deadline and work, late ones relegated."""

from builders import Bench, RealTime, a_goal, a_task

from slice_ros.bench.simulate import attainment, simulate
from slice_ros.bench.workload import GoalClass, Uniform, Workload
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import Limits, make_policy
from slice_ros.scheduling.policies.qoserve import MARGIN
from slice_ros.slo import BestEffort

EVEN = LatencyModel("even", (0.01,), prompt_token_s=0.0001)
"""A step takes 10 ms, and 1 ms more for each ten prompt tokens."""
CHAT = BestEffort(ttft_ms=1000, tpot_ms=100)
ROOMY = Limits(max_step_tokens=4096)


def a_decoding_task(name, slo, order=0, *, first_s=0.0):
    task = a_task(name, slo, order=order, max_tokens=50)
    task.prompt_left, task.token_times_s, task.started_s = 0, [first_s], 0.0
    return task


def cells(tasks, now=0.0, latency=EVEN, limits=ROOMY, policy=None):
    (column,) = (policy or make_policy("qoserve")).plan(tasks, now, latency, limits).columns
    return {cell.goal_id: cell.prompt_tokens for cell in column}


def test_a_step_holds_as_many_tokens_as_the_least_slack_allows():
    decoding = a_decoding_task("decoding", CHAT)
    prompt = a_task("prompt", BestEffort(ttft_ms=60_000), order=1, prompt_tokens=4000)
    for now, tokens in ((0.8, 2552), (0.95, 2048), (1.1, 512), (1.17, 128), (3.0, 128)):
        # due at TTFT + 2 TPOT = 1.2 s; of 2048 tokens a step takes 0.215 s, which times 1.2 is 0.258 s
        slack_s = 1.2 - now
        fitting = max((n for n in (128, 256, 512, 1024, 2048, 2552) if MARGIN * (0.01 + 0.0001 * (n - 1)) <= slack_s), default=128)
        assert cells([decoding, prompt], now)["prompt"] >= min(fitting, tokens) - 1
        assert cells([decoding, prompt], now)["decoding"] == 0
    assert cells([decoding, prompt], 3.0) == {"decoding": 0, "prompt": 127}


def test_without_decoders_a_step_is_as_long_as_it_may_be():
    assert cells([a_task("prompt", CHAT, prompt_tokens=9000)]) == {"prompt": 2552}
    assert cells([a_task("prompt", CHAT, prompt_tokens=9000)], limits=Limits(max_step_tokens=500)) == {"prompt": 500}


def test_what_came_before_its_first_due_time_has_the_slack_of_that():
    early, late = a_decoding_task("early", CHAT, first_s=0.1), a_decoding_task("late", BestEffort(tpot_ms=100), first_s=0.1)
    prompt = a_task("prompt", BestEffort(ttft_ms=60_000), order=1, prompt_tokens=4000)
    assert cells([early, prompt], 0.2)["prompt"] > cells([late, prompt], 0.2)["prompt"]


def test_prompts_go_by_due_time_and_by_what_is_left_of_them():
    long, short = (a_task(name, CHAT, order=i, prompt_tokens=n) for i, (name, n) in enumerate((("long", 3000), ("short", 100))))
    assert cells([long, short]) == {"short": 100, "long": 2452}
    soon = a_task("soon", BestEffort(ttft_ms=500), order=2, prompt_tokens=100)
    assert list(cells([long, short, soon])) == ["soon", "short", "long"]


def test_a_prompt_that_cannot_be_in_time_goes_behind_the_others():
    policy = make_policy("qoserve")
    late = a_task("late", BestEffort(ttft_ms=100), prompt_tokens=3000)
    timely = a_task("timely", CHAT, order=1, prompt_tokens=2552)
    assert cells([late, timely], policy=policy) == {"timely": 2552}
    timely.prompt_left = 0
    timely.token_times_s = [0.3]
    assert "late" in cells([late, timely], 0.3, policy=policy)


def test_one_that_is_begun_is_not_relegated():
    begun = a_task("begun", BestEffort(ttft_ms=100), prompt_tokens=3000)
    begun.started_s = 0.0
    assert list(cells([begun, a_task("timely", CHAT, order=1, prompt_tokens=3000)])) == ["begun"]


def test_best_effort_prompts_are_relegated_for_a_real_time_one_behind_them():
    first = a_task("first", BestEffort(ttft_ms=300), prompt_tokens=2552)
    urgent = a_task("urgent", RealTime(ttft_ms=350), order=1, prompt_tokens=2600)
    relaxed = a_task("relaxed", RealTime(ttft_ms=900), order=1, prompt_tokens=2600)
    assert list(cells([first, urgent])) == ["urgent"]
    assert list(cells([first, relaxed])) == ["first"]


def test_it_forgets_goals_that_ended():
    policy = make_policy("qoserve")
    bench = Bench(policy, EVEN)
    bench.submit(*(a_goal(f"g{i}", BestEffort(ttft_ms=1), prompt_tokens=500) for i in range(20)))
    bench.drain()
    assert not policy._paces
    assert not policy._relegated


def test_on_long_prompts_it_keeps_far_more_than_first_come_first_served():
    """The paper's claim: 1.5 to 2.4 times the goodput of chunked prompts in order of arrival."""
    kinds = (("interactive", BestEffort(ttft_ms=1500, tpot_ms=60)), ("batch", BestEffort(deadline_s=30)))
    workload = Workload("long prompts", tuple(GoalClass(name, 0.5, slo, Uniform(30, 80), Uniform(300, 1500)) for name, slo in kinds))
    arrivals = workload.traffic(14.0, 20.0, seed=3)
    latency = LatencyModel.profile("h200-chatglm2-6b-q4_0")
    kept = {name: attainment(simulate(arrivals, make_policy(name), latency)) for name in ("qoserve", "priority")}
    assert kept["qoserve"] > 1.3 * kept["priority"]
