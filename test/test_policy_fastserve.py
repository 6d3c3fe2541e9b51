"""FastServe: skip-join multi-level feedback queue, quantum doubling with each level."""

from builders import PAPER, Bench, a_goal, a_task

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import Limits
from slice_ros.scheduling.policies.fastserve import FastServe

SLOW_PROMPTS = LatencyModel("slow prompts", PAPER.decode_s, prompt_token_s=0.014)
"""A prompt token costs as much as a decode."""
LIMITS = Limits()


def one_at_a_time(policy, latency=PAPER):
    bench = Bench(policy, latency, max_sequences=2)
    bench.scheduler._limits = type(bench.scheduler._limits)(max_batch=1)
    return bench


def test_a_task_that_used_its_quantum_up_gives_way_to_a_newer_one():
    bench = one_at_a_time(FastServe(first_quantum=4))
    bench.submit(a_goal("old", max_tokens=50), a_goal("new", max_tokens=50))
    bench.turn(4)
    assert (bench.tokens("old"), bench.tokens("new")) == (4, 0)
    bench.turn(4)
    assert (bench.tokens("old"), bench.tokens("new")) == (4, 4)
    bench.turn(8)  # both on level 1: the older has its 8 tokens first
    assert (bench.tokens("old"), bench.tokens("new")) == (12, 4)


def test_a_long_prompt_joins_below_the_levels_whose_quantum_it_exceeds():
    bench = one_at_a_time(FastServe(first_quantum=4), SLOW_PROMPTS)
    bench.submit(a_goal("long prompt", prompt_tokens=20, max_tokens=50), a_goal("short", max_tokens=50))
    bench.turn(4)
    assert (bench.tokens("long prompt"), bench.tokens("short")) == (0, 4)
    bench.turn(8)  # 20 tokens of prefill are worth level 3 (quantum 32); short is on level 1
    assert (bench.tokens("long prompt"), bench.tokens("short")) == (0, 12)


def test_a_starved_task_comes_back_to_the_first_level():
    bench = one_at_a_time(FastServe(first_quantum=4, starvation_s=0.1), SLOW_PROMPTS)
    bench.submit(a_goal("long prompt", prompt_tokens=20, max_tokens=50), a_goal("short", max_tokens=500))
    bench.turn(12)
    assert bench.tokens("long prompt") > 0


def test_it_forgets_tasks_that_ended():
    policy = FastServe()
    bench = Bench(policy)
    bench.submit(*(a_goal(f"g{i}") for i in range(20)))
    bench.drain()
    assert not policy._places


def place(policy, task):
    """The task's level, and what is left of its quantum there."""
    return policy._places[task.goal_id].level, policy._places[task.goal_id].quantum_left


def test_a_prompt_joins_the_first_level_whose_quantum_is_worth_it():
    policy = FastServe(first_quantum=4, levels=4)  # 4, 8, 16 and 32 tokens
    tasks = [a_task(f"{tokens}", order=tokens, prompt_tokens=tokens) for tokens in (3, 4, 7, 8, 15, 16, 31, 32, 500)]
    policy.plan(tasks, 0.0, SLOW_PROMPTS, LIMITS)  # a prompt of n tokens takes as long as n + 1 tokens of the answer
    assert [place(policy, task) for task in tasks] == [(0, 4), (1, 8), (1, 8), (2, 16), (2, 16), (3, 32), (3, 32), (3, 32), (3, 32)]


def test_a_quantum_is_used_up_by_tokens_and_the_last_level_is_never_left():
    policy = FastServe(first_quantum=4, levels=3)
    task = a_task("t", max_tokens=100)
    seen = []
    for tokens in range(40):
        task.token_times_s = [0.0] * tokens
        policy.plan([task], 0.014 * tokens, PAPER, LIMITS)
        seen.append(place(policy, task))
    assert seen[:4] == [(0, 4), (0, 3), (0, 2), (0, 1)]
    assert seen[4:12] == [(1, 8 - tokens) for tokens in range(8)]
    assert seen[12:] == [(2, 16 - tokens) for tokens in range(28)]


def test_a_task_that_waited_too_long_has_the_first_level_and_its_quantum_again():
    policy = FastServe(first_quantum=4, starvation_s=1.0)
    first, starved = a_task("first", order=1), a_task("starved", order=2, prompt_tokens=20)
    one = Limits(max_batch=1)
    policy.plan([first, starved], 0.0, SLOW_PROMPTS, one)
    assert place(policy, starved) == (3, 32)
    policy.plan([first, starved], 1.0, SLOW_PROMPTS, one)
    assert place(policy, starved) == (3, 32), "not longer than that yet"
    policy.plan([first, starved], 1.001, SLOW_PROMPTS, one)
    assert place(policy, starved) == (0, 4)
    policy.plan([starved], 1.5, SLOW_PROMPTS, one)  # it has a step
    policy._places["starved"].level = 2
    policy.plan([starved], 2.4, SLOW_PROMPTS, one)
    assert place(policy, starved)[0] == 2, "it waits since its step"


def test_in_a_level_the_oldest_comes_first_and_as_many_as_a_step_holds():
    policy = FastServe()
    tasks = [a_task(f"{order}", order=order) for order in (3, 1, 2)]
    (column,) = policy.plan(tasks, 0.0, PAPER, Limits(max_batch=2))
    assert [cell.goal_id for cell in column] == ["1", "2"]
