"""What is promised beside the real-time traffic, summed up by hand: one token takes 10 ms, one row a step."""

import math
from dataclasses import replace

import pytest
from builders import CONTROL, PAPER, a_task

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.load import Traffic
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies import Limits
from slice_ros.scheduling.policies.base import narrowed
from slice_ros.scheduling.policies.promises import MOST_DUE_TIMES, Lump, Promises, _with_lump, keepable
from slice_ros.slo import BestEffort, RealTime

TEN_MS = LatencyModel("10 ms a token", (0.010,))
ALONE = Limits(max_batch=1)
NOW_S = 100.0


def a_job(tokens, due_s, *, prompt_s=0.0, kv_tokens=0, deviation=0.0, even=False):
    """A task that is due so many seconds from now; ``even``: under a TPOT bound, so that its tokens are needed evenly."""
    task = a_task("job", BestEffort(tpot_ms=1000) if even else BestEffort(deadline_s=due_s))
    return Outlook(
        task, 0, 0, None, 0.010, prompt_s=prompt_s, kv_tokens=kv_tokens,
        expected=tokens, needed=tokens, deviation=deviation, end_s=NOW_S + due_s,
    )  # fmt: skip


def promises(traffic=Traffic(), latency=TEN_MS, limits=ALONE):  # noqa: B008 - it is frozen
    return Promises(traffic, NOW_S, latency, limits)


def taken(*jobs, **parts):
    made = promises(**parts)
    return [made.take(job) for job in jobs]


def test_work_that_takes_longer_than_until_it_is_due_is_not_promised():
    assert taken(a_job(100, 1.01)) == [True]
    assert taken(a_job(100, 0.99)) == [False]


def test_work_that_is_due_earlier_comes_first():
    assert taken(a_job(50, 0.6), a_job(50, 1.01), a_job(50, 1.49), a_job(50, 1.51)) == [True, True, False, True]


def test_a_promise_breaks_none_that_is_due_later():
    assert taken(a_job(50, 1.51), a_job(110, 1.2), a_job(100, 1.2)) == [True, False, True]


def test_what_was_refused_takes_no_time():
    made = promises()
    assert not made.take(a_job(200, 1.0))
    assert made.take(a_job(100, 1.01))


def test_prompts_take_time_beside_the_tokens():
    assert taken(a_job(50, 0.91, prompt_s=0.4)) == [True]
    assert taken(a_job(50, 0.89, prompt_s=0.4)) == [False]
    assert taken(a_job(50, 0.91, prompt_s=0.4), a_job(1, 0.911, prompt_s=0.002), a_job(1, 0.93, prompt_s=0.002)) == [True, False, True]


def test_kv_tokens_take_time_with_every_token():
    latency = LatencyModel("10 ms a token and 0.1 ms a KV token", (0.010,), kv_token_s=0.0001)
    assert taken(a_job(50, 0.56, kv_tokens=10), latency=latency) == [True]  # 500 + 50 * 1 ms
    assert taken(a_job(50, 0.54, kv_tokens=10), latency=latency) == [False]


def test_tokens_under_a_tpot_bound_are_needed_evenly():
    even = [a_job(40, 1.0, even=True), a_job(80, 2.0, even=True)]  # 40 tokens/s each: 80 % of the time
    assert taken(*even, a_job(30, 1.0, even=True)) == [True, True, False]
    assert taken(*even, a_job(10, 0.49)) == [True, True, False]  # 100 ms of the 20 % that are left
    assert taken(*even, a_job(10, 0.51)) == [True, True, True]
    assert taken(a_job(10, 0.11), a_job(80, 1.0, even=True)) == [True, False]  # nor do they break a promise that was made


def test_the_prompt_of_an_even_task_takes_a_share_of_the_time():
    even = a_job(80, 2.0, even=True, prompt_s=0.6)  # 40 % and 30 % of it
    assert taken(even, a_job(28, 1.0)) == [True, True]
    assert taken(even, a_job(32, 1.0)) == [True, False]


def test_prompts_that_wait_take_their_share_until_their_first_tokens_are_due():
    """20 % of the time for the decodes of each; a prompt of 200 ms in a second is as much, one of 500 ms more."""
    hasty = [replace(a_job(40, 2.0, even=True, prompt_s=0.5), task=a_task("job", BestEffort(ttft_ms=1000, tpot_ms=1000)))] * 2
    assert taken(*hasty) == [True, True]
    assert taken(*hasty, a_job(8, 1.0, even=True)) == [True, True, False]
    begun = [replace(job, tokens=1, prompt_s=0.0) for job in hasty]
    assert taken(*begun, a_job(8, 1.0, even=True)) == [True, True, True]
    easy = [replace(job, prompt_s=0.2) for job in hasty]
    assert taken(*easy, a_job(20, 1.0, even=True)) == [True, True, True]


def test_an_even_task_is_not_promised_more_than_there_is_until_its_own_end():
    assert taken(a_job(40, 0.39, even=True)) == [False]
    assert taken(a_job(40, 0.41, even=True)) == [True]


def test_real_time_goals_to_come_have_their_share_first():
    assert taken(a_job(49, 1.0), traffic=Traffic(rate=50.0, fastest=50.0)) == [True]
    assert taken(a_job(51, 1.0), traffic=Traffic(rate=50.0, fastest=50.0)) == [False]
    assert taken(a_job(29, 1.0), traffic=Traffic(rate=50.0, fastest=50.0, prompt_share=0.2)) == [True]
    assert taken(a_job(31, 1.0), traffic=Traffic(rate=50.0, fastest=50.0, prompt_share=0.2)) == [False]


def test_a_promise_leaves_room_for_one_and_a_half_deviations():
    unsure = a_job(50, 0.66, deviation=10.0)  # 500 ms, and 1.5 * 10 tokens
    assert taken(unsure) == [True]
    assert taken(a_job(50, 0.64, deviation=10.0)) == [False]
    assert taken(unsure, a_job(50, 1.22, deviation=10.0)) == [True, True]  # two vary by sqrt(2) * 10 tokens: 1000 + 212 ms
    assert taken(unsure, a_job(50, 1.20, deviation=10.0)) == [True, False]
    even = a_job(100, 2.0, even=True, deviation=20.0)  # 50 +- 10 tokens/s
    assert taken(even, a_job(34, 1.0)) == [True, True]  # 500 + 340 + 150 ms
    assert taken(even, a_job(36, 1.0)) == [True, False]


def test_arrivals_vary_the_less_the_longer_the_time():
    traffic = Traffic(rate=50.0, fastest=50.0, variance=100.0)  # 10 tokens in one second, 20 in four
    assert taken(a_job(34, 1.0), traffic=traffic) == [True]
    assert taken(a_job(36, 1.0), traffic=traffic) == [False]
    assert taken(a_job(169, 4.0), traffic=traffic) == [True]
    assert taken(a_job(171, 4.0), traffic=traffic) == [False]


def test_one_task_alone_has_steps_of_its_own():
    """Two rows take 12 ms: 6 ms a token where two tasks share the steps, 10 ms where there is one."""
    latency, limits = LatencyModel("two rows", (0.010, 0.012)), Limits(max_batch=2)
    assert taken(a_job(50, 0.49), latency=latency, limits=limits) == [False]
    assert taken(a_job(50, 0.51), latency=latency, limits=limits) == [True]
    assert taken(a_job(50, 0.61), a_job(50, 0.62), latency=latency, limits=limits) == [True, True]  # together: 600 ms
    assert taken(a_job(50, 0.59), a_job(50, 0.58), latency=latency, limits=limits) == [True, False]
    assert taken(a_job(50, 0.56), a_job(25, 0.551), latency=latency, limits=limits) == [True, True]  # 25 steps of two, 25 of one: 550 ms
    assert taken(a_job(50, 0.549), a_job(25, 0.548), latency=latency, limits=limits) == [True, False]


def test_steps_of_tasks_with_several_adapters_are_as_narrow_as_the_most_common_allows():
    tasks = [a_task(f"{order}") for order in range(5)]
    assert narrowed(Limits(max_batch=4), tasks) == Limits(max_batch=4)
    tasks[0].adapter = tasks[1].adapter = "polite"
    assert narrowed(Limits(max_batch=4), tasks) == Limits(max_batch=3)
    assert narrowed(Limits(max_batch=2), tasks) == Limits(max_batch=2)


# ---- real-time tasks beside each other


def kept(*jobs, latency=TEN_MS, limits=ALONE, slip=0.0):
    keep = keepable(jobs, NOW_S, latency, limits, slip)
    assert keep == [job for job in jobs if job in keep], "in the order in which they came"
    return [job in keep for job in jobs]


def a_real_time_job(tokens, due_s, *, ttft_s=None, utility=None, **fields):
    slo = RealTime(deadline_s=due_s, ttft_ms=1e3 * ttft_s if ttft_s else None, utility=utility)
    job = a_job(tokens, due_s, **fields)
    job.task, job.likely, job.due_s = a_task("job", slo), tokens, NOW_S + (ttft_s or due_s)
    return job


def test_real_time_tasks_that_fit_are_all_kept():
    assert kept(a_real_time_job(50, 1.01), a_real_time_job(50, 0.51), a_real_time_job(50, 1.51)) == [True] * 3
    assert kept() == []


def test_of_too_many_the_longest_of_those_that_make_one_late_is_left_out():
    assert kept(a_real_time_job(60, 0.8), a_real_time_job(30, 0.85), a_real_time_job(40, 1.0)) == [False, True, True]
    assert kept(a_real_time_job(40, 0.61), a_real_time_job(30, 0.71), a_real_time_job(60, 1.0)) == [True, True, False]
    assert kept(a_real_time_job(90, 0.5), a_real_time_job(40, 0.5)) == [False, True], "one that is late in any case spoils nothing"


def test_or_the_one_that_is_worth_least_per_work():
    assert kept(a_real_time_job(60, 0.8, utility=3.0), a_real_time_job(30, 0.85, utility=1.0)) == [True, False]


def test_a_first_token_is_due_by_ttft_and_the_others_later():
    late = a_real_time_job(30, 1.0, ttft_s=0.51, prompt_s=0.1)
    assert kept(a_real_time_job(40, 0.4), late) == [True, True]
    assert kept(a_real_time_job(41, 0.41), a_real_time_job(30, 1.0, ttft_s=0.505, prompt_s=0.1)) == [False, True]
    assert kept(a_real_time_job(50, 1.02), a_real_time_job(49, 1.01, ttft_s=0.1), a_real_time_job(51, 1.4)) == [True, True, False]


def test_of_equals_the_one_that_came_first_is_left_out():
    assert kept(a_real_time_job(50, 0.9), a_real_time_job(50, 0.9), a_real_time_job(20, 0.9)) == [False, True, True]


def test_answers_are_taken_to_be_as_long_as_is_likely_and_kv_tokens_take_time():
    long = a_real_time_job(100, 0.5)
    long.likely = 40
    assert kept(long, a_real_time_job(10, 0.51)) == [True, True]
    latency = LatencyModel("10 ms a token and 0.1 ms a KV token", (0.010,), kv_token_s=0.0001)
    assert kept(a_real_time_job(50, 0.54, kv_tokens=10), latency=latency) == [False]


def test_where_promises_slip_each_is_left_time_for_the_others_in_its_steps():
    two = {"latency": LatencyModel("two rows in 12 ms", (0.010, 0.012)), "limits": Limits(max_batch=2)}
    jobs = [a_real_time_job(50, 0.61), a_real_time_job(50, 0.70)]  # 50 steps of 12 ms, of which 6 ms are the other's
    assert kept(*jobs, **two) == [True, True]
    assert kept(*jobs, **two, slip=0.32) == [True, True]
    assert kept(*jobs, **two, slip=0.34) == [False, True]
    assert kept(jobs[0], **two, slip=9.0) == [True], "there is nobody else"
    dear = {"latency": LatencyModel("two rows in 18 ms", (0.010, 0.018)), "limits": Limits(max_batch=2)}
    assert kept(a_real_time_job(50, 0.91), a_real_time_job(50, 0.91), **dear, slip=9.0) == [True, True], "steps of one row are wide enough"


def test_a_task_without_due_time_is_kept():
    waiting = a_job(100, 0.1)
    waiting.due_s = math.inf
    assert kept(waiting, a_real_time_job(50, 0.51)) == [True, True]


# ---- many due times


def test_due_times_are_kept_apart_while_they_are_few():
    lumps, from_s = _with_lump([Lump(1.0, 5, 5, 0.0, 0.0), Lump(3.0, 5, 5, 0.0, 0.0)], Lump(2.0, 7, 7, 0.0, 0.0))
    assert [lump.due_s for lump in lumps] == [1.0, 2.0, 3.0]
    assert from_s == 2.0, "what is due before it does not change"


@pytest.mark.parametrize(
    ("due_s", "merged_at", "from_s"),
    [(4.1, 4.0, 4.0), (3.9, 3.9, 3.9), (2.0**11 + 1.0, 2.0**11, 2.0**11)],
    ids=["after its neighbour", "before it", "the last"],
)
def test_beyond_that_the_two_closest_count_as_the_earlier_of_them(due_s, merged_at, from_s):
    full = [Lump(2.0**i, 10.0 + i, 1.0 + i, 0.1 * i, 2.0 * i) for i in range(MOST_DUE_TIMES)]
    new = Lump(due_s, 100.0, 50.0, 0.5, 7.0)
    lumps, changed_from_s = _with_lump(full, new)
    assert len(lumps) == MOST_DUE_TIMES
    assert changed_from_s == from_s
    (merged,) = [lump for lump in lumps if lump not in full]
    neighbour = min(full, key=lambda lump: abs(math.log(lump.due_s / due_s)))
    assert merged == Lump(merged_at, 100.0 + neighbour.tokens, 50.0, 0.5 + neighbour.serial_s, 7.0 + neighbour.variance)
    assert lumps == sorted(lumps)


def test_a_new_due_time_may_make_room_among_the_others():
    full = [Lump(1.0, 3.0, 2.0, 0.0, 0.0), Lump(1.01, 4.0, 3.0, 0.0, 0.0)] + [Lump(2.0**i, 1.0, 1.0, 0.0, 0.0) for i in range(1, 11)]
    lumps, from_s = _with_lump(full, Lump(5000.0, 1.0, 1.0, 0.0, 0.0))
    assert lumps[0] == Lump(1.0, 7.0, 3.0, 0.0, 0.0)
    assert lumps[-1].due_s == 5000.0
    assert from_s == 1.0


def test_a_first_token_is_due_by_ttft_and_the_others_by_the_end():
    promises = Promises(Traffic(), 5.0, PAPER, Limits(4))
    job = Outlook(a_task("g", CONTROL), 0, 10, None, 0.014, prompt_s=0.1, likely=10, needed=12.0, end_s=6.5, due_s=5.5)
    assert list(promises.lumps(job)) == [Lump(0.5, 1.0, 1.0, 0.1, 0.0), Lump(1.5, 9.0, 10.0, 0.0, 0.0)]
    of_two = replace(job, likely=2, needed=2.0)
    assert list(promises.lumps(of_two)) == [Lump(0.5, 1.0, 1.0, 0.1, 0.0), Lump(1.5, 1.0, 2.0, 0.0, 0.0)]
    begun = replace(job, tokens=1, prompt_s=0.0)
    assert list(promises.lumps(begun)) == [Lump(1.5, 9.0, 9.0, 0.0, 0.0)]
