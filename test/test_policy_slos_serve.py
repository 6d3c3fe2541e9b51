"""SLOs-Serve: admission by what steps can compute until each prompt is due, steps by the next due time."""

from builders import Bench, RealTime, a_goal, a_task

from slice_ros.bench.simulate import attainment, simulate
from slice_ros.bench.workload import Bursty, GoalClass, Uniform, Workload
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import Limits, make_policy
from slice_ros.scheduling.policies.bounds import Pace
from slice_ros.scheduling.policies.slos_serve import SlosServe, _Device
from slice_ros.slo import BestEffort

EVEN = LatencyModel("even", (0.01,), prompt_token_s=0.001)
"""A step takes 10 ms, and 1 ms for each prompt token."""
ROOMY = Limits(max_step_tokens=4096)
CHAT = BestEffort(ttft_ms=1000, tpot_ms=100)


def a_decoding_task(name, slo, order=0, tokens=1):
    task = a_task(name, slo, order=order, max_tokens=50)
    task.prompt_left, task.token_times_s = 0, [0.0] * tokens
    return task


def accepted(tasks, policy=None, now=0.0, limits=ROOMY):
    policy = policy or SlosServe()
    policy.plan(tasks, now, EVEN, limits)
    return policy._accepted


def test_prompts_are_accepted_while_steps_can_hold_them_until_they_are_due():
    # steps of 100 ms hold 90 prompt tokens: 900 in a second
    tasks = [a_task(f"{i}", CHAT, order=i, prompt_tokens=280) for i in range(4)]
    assert len(accepted(tasks)) == 3


def test_the_choice_with_the_most_utility_wins():
    small = [a_task(f"small{i}", CHAT, order=i, prompt_tokens=400) for i in range(2)]
    control = a_task("control", RealTime(ttft_ms=1000, tpot_ms=100), order=2, prompt_tokens=800)
    assert accepted(small) == {"small0", "small1"}
    assert accepted([*small, control]) == {"control"}


def test_who_was_accepted_stays_so():
    policy = SlosServe()
    chat = a_task("chat", CHAT, prompt_tokens=600)
    assert accepted([chat], policy) == {"chat"}
    control = a_task("control", RealTime(ttft_ms=1000, tpot_ms=100), order=1, prompt_tokens=600)
    assert accepted([chat, control], policy) == {"chat"}


def test_nobody_is_accepted_beyond_the_kv_cells():
    tasks = [a_task(f"{i}", CHAT, order=i, prompt_tokens=75, max_tokens=25) for i in range(4)]
    assert len(accepted(tasks, limits=Limits(max_step_tokens=4096, cells=250))) == 2


def test_decoders_take_their_share_of_the_steps():
    device = _Device(EVEN, ROOMY, 0.1)
    assert device.until(1.0, []) == 900
    assert device.until(1.0, [Pace(0.0, 0.1)]) == 900  # beside it a prompt costs no row here
    linear = _Device(LatencyModel("linear", (0.01, 0.02, 0.03, 0.04), prompt_token_s=0.001), ROOMY, 0.1)
    assert linear.until(1.0, [Pace(0.0, 0.1)]) == 800
    assert linear.until(1.0, [Pace(0.0, 0.1), Pace(0.0, 0.2)]) == 750  # the second takes part in every other step
    assert linear.until(100.0, [Pace(0.0, 0.1)]) == 80_000
    assert _Device(LatencyModel("slow", (0.2,), prompt_token_s=0.001), ROOMY, 0.1).until(1.0, [Pace(0.0, 0.1)]) == 0


def test_a_step_lasts_until_the_next_token_is_due():
    policy = SlosServe()
    decoding = a_decoding_task("decoding", CHAT)  # its second token is due at 1.1 s
    prompt = a_task("prompt", BestEffort(ttft_ms=5000, tpot_ms=100), order=1, prompt_tokens=1000)
    (column,) = policy.plan([decoding, prompt], 1.05, EVEN, ROOMY).columns
    assert {cell.goal_id: cell.prompt_tokens for cell in column} == {"decoding": 0, "prompt": 40}


def test_declined_goals_have_what_is_left():
    policy = SlosServe()
    chat = a_task("chat", CHAT, prompt_tokens=50)
    declined = a_task("declined", BestEffort(ttft_ms=100), order=1, prompt_tokens=300)
    (column,) = policy.plan([chat, declined], 0.0, EVEN, ROOMY).columns
    assert policy._accepted == {"chat"}
    assert {cell.goal_id: cell.prompt_tokens for cell in column} == {"chat": 50, "declined": 40}


def test_it_forgets_goals_that_ended():
    policy = SlosServe()
    bench = Bench(policy, EVEN)
    bench.submit(*(a_goal(f"g{i}", CHAT if i % 2 else BestEffort(), prompt_tokens=50) for i in range(20)))
    bench.drain()
    assert not policy._paces
    assert not policy._accepted


def test_in_bursts_of_paced_goals_it_keeps_far_more_than_first_come_first_served():
    """The paper's claim: 2.2 times the capacity in the mean."""
    kinds = (("chat", BestEffort(ttft_ms=600, tpot_ms=40), 64, 512), ("code", BestEffort(ttft_ms=1200, tpot_ms=80), 200, 1000))
    classes = tuple(GoalClass(name, 0.5, slo, Uniform(30, 80), Uniform(low, high)) for name, slo, low, high in kinds)
    arrivals = Workload("bursts", classes, Bursty(2.0, 4.0)).traffic(10.0, 30.0, seed=5)
    latency = LatencyModel.profile("h200-chatglm2-6b-q4_0")
    kept = {name: attainment(simulate(arrivals, make_policy(name), latency)) for name in ("slos-serve", "orca")}
    assert kept["slos-serve"] > 1.4 * kept["orca"]
