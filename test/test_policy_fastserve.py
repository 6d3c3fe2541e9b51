"""FastServe: skip-join multi-level feedback queue, quantum doubling with each level."""

from builders import PAPER, Bench, a_goal

from slice_ros.latency import LatencyModel
from slice_ros.policies.fastserve import FastServe

SLOW_PROMPTS = LatencyModel("slow prompts", PAPER.decode_s, prompt_token_s=0.014)
"""A prompt token costs as much as a decode."""


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
