"""What a task still needs and by when, worked out by hand.

A token takes 10 ms and 0.01 ms for each KV token, a prompt 5 ms and 1 ms for each of its tokens. Answers had 11 to 20 tokens, and one
more is taken to have 21: 16 in the mean, and none falls short of 11.
"""

import math

import pytest
from builders import a_task

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.outlook import Outlook
from slice_ros.slo import BestEffort, RealTime

LATENCY = LatencyModel("d", (0.010,), chunk_s=0.005, prompt_token_s=0.001, kv_token_s=0.00001)
EVEN = BestEffort(ttft_ms=1000, tpot_ms=100, deadline_s=10.0)


def outlook(slo, times_s=(), *, now=2.0, **task):
    lengths = Lengths()
    for tokens in range(11, 21):
        lengths.observe("test", tokens)
    it = a_task("t", slo, max_tokens=50, prompt_tokens=100, arrival_s=1.0, **task)
    if times_s:
        it.prompt_left, it.token_times_s = 0, list(times_s)
    return Outlook.of(it, now, LATENCY, lengths)


def test_where_forms_force_tokens_steps_count_and_the_next_token_takes_one():
    lengths = Lengths()
    assert lengths.gain("test") == 1.0
    for _ in range(300):
        lengths.observe("test", 12, 4)
    assert lengths.gain("test") == 3.0
    lengths.observe("test", 12)
    assert lengths.gain("test") == pytest.approx(256 * 12 / (255 * 4 + 12))
    job = Outlook.of(a_task("t", RealTime(deadline_s=1.0), max_tokens=50, prompt_tokens=100, arrival_s=1.0), 1.0, LATENCY, lengths)
    job.gain = 3.0
    assert job.steps_to(12.0) == 4.0
    assert job.work_s == pytest.approx(0.105 + 4 * 0.010)
    assert (job.steps_to(1.0), job.steps_to(0.0)) == (1.0, 0.0)
    job.advance(100, 1.2)
    assert job.tokens == 3.0
    assert job.steps_to(12.0) == 3.0


def test_before_its_prompt_a_task_needs_the_prompt_and_its_whole_answer():
    job = outlook(EVEN)
    assert (job.tokens, job.prompt_left, job.kv_tokens, job.first_s, job.short) == (0, 100, 0, None, 11)
    assert (job.token_s, job.prompt_s, job.expected, job.deviation) == pytest.approx((0.010, 0.105, 16.0, math.sqrt(10.0)))
    assert job.work_s == pytest.approx(0.105 + 16.0 * 0.010)
    assert (job.is_real_time, job.is_promised) == (False, False)
    assert outlook(RealTime(ttft_ms=1000)).is_real_time


def test_a_first_token_is_due_under_ttft_and_the_last_one_under_tpot_if_it_starts_at_once():
    job = outlook(EVEN)
    assert job.due_s == pytest.approx(2.0)
    assert job.latest_s == job.hope_s == pytest.approx(2.0 - 0.115)
    assert job.end_s == pytest.approx(2.0 + 0.115 + 15.0 * 0.100)


def test_where_the_deadline_leaves_less_time_than_ttft_it_decides():
    job = outlook(BestEffort(ttft_ms=1000, deadline_s=1.05))
    assert job.due_s == pytest.approx(2.0)
    assert job.latest_s == pytest.approx(2.05 - 0.105 - 21 * 0.010)  # even if its answer is long
    assert job.last_s == pytest.approx(2.05 - 0.105 - 11 * 0.010)
    assert job.end_s == pytest.approx(2.05)


def test_without_bounds_nothing_is_ever_due():
    job = outlook(BestEffort())
    assert job.due_s == job.latest_s == job.hope_s == job.end_s == math.inf
    job = outlook(RealTime(ttft_ms=1000), [1.5])
    assert job.due_s == job.latest_s == job.hope_s == job.end_s == math.inf, "its one bound is met"


def test_a_task_that_decodes_needs_its_tokens_together_up_to_the_length_that_answers_reach():
    job = outlook(EVEN, [2.0, 2.05, 2.1])
    token_s = 0.010 + 103 * 0.00001
    assert (job.tokens, job.prompt_left, job.kv_tokens, job.first_s, job.prompt_s) == (3, 0, 103, 2.0, 0.0)
    assert job.token_s == pytest.approx(token_s)
    assert job.due_s == pytest.approx(2.0 + 10 * 0.100)
    assert job.latest_s == pytest.approx(2.0 + 10 * 0.100 - 8 * token_s)
    assert job.end_s == pytest.approx(2.0 + 15.0 * 0.100)
    assert job.hope_s == pytest.approx(2.0 + 15.0 * 0.100 - 13.0 * token_s), "a longer answer has time to catch up"


def test_hope_ends_with_the_deadline_for_a_short_answer():
    job = outlook(BestEffort(ttft_ms=1000, tpot_ms=100, deadline_s=2.2), [2.0, 2.05, 2.1])
    token_s = 0.010 + 103 * 0.00001
    assert job.due_s == pytest.approx(3.0)
    assert job.end_s == pytest.approx(3.2)
    assert job.hope_s == pytest.approx(3.2 - 8 * token_s)


def test_where_tokens_take_longer_than_they_may_a_short_answer_is_the_best_hope():
    job = outlook(BestEffort(tpot_ms=5), [2.0, 2.005])
    assert job.hope_s == job.latest_s == pytest.approx(2.0 + 10 * 0.005 - 9 * (0.010 + 102 * 0.00001))


def test_beyond_that_length_tokens_are_due_one_by_one():
    job = outlook(EVEN, [2.0 + 0.05 * k for k in range(20)])
    assert job.due_s == pytest.approx(2.0 + 20 * 0.100)
    assert job.latest_s == pytest.approx(2.0 + 20 * 0.100 - (0.010 + 120 * 0.00001))


def test_how_short_an_answer_may_be_is_asked_once_and_not_anew_with_each_token():
    """Of answers of 30 to 285 tokens one in fifty has less than 35, and of those with more than 43 less than 48: not due together, as an
    answer that is behind its pace may end at each of these.
    """
    lengths = Lengths()
    for tokens in range(30, 286):
        lengths.observe("test", tokens)
    assert lengths.at_least("test", 43, 300, 0.02) == 48
    for slo in (EVEN, RealTime(tpot_ms=100)):
        it = a_task("t", slo, max_tokens=300, prompt_tokens=100, arrival_s=1.0)
        assert Outlook.of(it, 1.0, LATENCY, lengths).short == 35
        it.prompt_left, it.token_times_s = 0, [2.0] * 43
        assert Outlook.of(it, 2.0, LATENCY, lengths).due_s == pytest.approx(2.0 + 43 * 0.100)


def test_a_plan_advances_a_task_through_its_prompt_and_its_tokens():
    job = outlook(EVEN)
    hope_s = job.hope_s
    job.advance(40, 2.2)
    assert (job.prompt_left, job.kv_tokens, job.tokens, job.first_s) == (60, 40, 0, None)
    assert job.prompt_s == pytest.approx(0.065)
    assert job.hope_s == pytest.approx(hope_s + 0.040)
    assert (job.due_s, job.latest_s) == pytest.approx((2.0, 2.0 - 0.075))
    job.advance(60, 2.3)
    assert (job.prompt_left, job.kv_tokens, job.tokens, job.first_s) == (0, 100, 1, 2.3)
    assert job.prompt_s == pytest.approx(0.0)
    assert job.hope_s == pytest.approx(hope_s + 0.105 + 0.010)
    assert (job.due_s, job.latest_s) == pytest.approx((3.3, 3.3 - 10 * 0.010))
    job.advance(0, 2.31)
    assert (job.prompt_left, job.kv_tokens, job.tokens, job.first_s) == (0, 101, 2, 2.3)
    assert job.hope_s == pytest.approx(hope_s + 0.105 + 0.020)
    assert (job.due_s, job.latest_s) == pytest.approx((3.3, 3.3 - 9 * 0.010))


def test_of_a_task_that_no_bound_matters_for_only_its_work_is_known():
    task = a_task("t", RealTime(ttft_ms=1), max_tokens=50, prompt_tokens=100, arrival_s=1.0)
    task.prompt_left, task.token_times_s = 10, [1.5, 1.6]
    job = Outlook.bare(task, LATENCY)
    assert (job.task, job.tokens, job.prompt_left, job.first_s, job.token_s, job.kv_tokens) == (task, 2, 10, None, 0.010, 92)
    assert job.due_s == job.latest_s == job.hope_s == job.end_s == math.inf
    assert (job.is_real_time, job.is_promised) == (True, False)
