"""For how long others may keep the device: a row takes 10 ms alone, a prompt 1 ms for each of its tokens."""

import math
from dataclasses import replace

import pytest
from builders import a_task

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.experience import Experience
from slice_ros.scheduling.lengths import FEW, Lengths
from slice_ros.scheduling.load import Load, Traffic
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies import Limits
from slice_ros.scheduling.policies.laxity import RISK, backlog_s, laxity_s, prompts_s, too_early
from slice_ros.scheduling.policies.promises import keepable
from slice_ros.slo import RealTime

ROWS = LatencyModel("a row costs a step", tuple(0.010 * rows for rows in range(1, 17)), prompt_token_s=0.001)
FLAT = LatencyModel("rows cost nothing", (0.010,), prompt_token_s=0.001)
LIMITS = Limits()
KNOWN = Lengths()
for _ in range(FEW):
    KNOWN.observe("test", 10)


def a_job(deadline_s, *, prompt_tokens=0, tpot_ms=None, begun_s=None, latency=ROWS, now=0.0):
    task = a_task("rt", RealTime(deadline_s=deadline_s, tpot_ms=tpot_ms), prompt_tokens=prompt_tokens or 1)
    task.prompt_left = prompt_tokens
    if begun_s is not None:
        task.token_times_s = [begun_s]
    return Outlook.of(task, now, latency, KNOWN)


def laxity(*jobs, traffic=Traffic(), latency=ROWS, now=0.0):  # noqa: B008 - it is frozen
    return laxity_s(jobs, traffic, now, latency, LIMITS)


def test_nobody_in_hand_and_nobody_to_come_leaves_all_the_time_there_is():
    assert laxity() == math.inf


def test_what_is_due_first_has_to_fit_and_all_that_is_due_later_after_it():
    assert laxity(a_job(0.5)) == pytest.approx(0.5 - 0.100)
    assert laxity(a_job(0.5, prompt_tokens=50)) == pytest.approx(0.5 - 0.150)
    assert laxity(a_job(0.5), a_job(0.45)) == pytest.approx(0.5 - 0.200)
    assert laxity(a_job(0.9), a_job(0.45)) == pytest.approx(0.45 - 0.100)
    assert laxity(a_job(0.05)) < 0.0


def test_where_rows_cost_nothing_tasks_share_their_steps():
    assert laxity(a_job(0.5, latency=FLAT), a_job(0.5, latency=FLAT), latency=FLAT) == pytest.approx(0.5 - 0.100)


def test_tasks_of_two_adapters_share_no_steps():
    first, second = (a_job(0.5, latency=FLAT) for _ in range(2))
    second.task.adapter = "tuned"
    assert laxity(first, second, latency=FLAT) == pytest.approx(0.5 - 0.200)
    assert len(keepable([first, second], 0.0, FLAT, LIMITS)) == 2
    tight = [a_job(0.15, latency=FLAT) for _ in range(2)]
    assert len(keepable(tight, 0.0, FLAT, LIMITS)) == 2
    tight[1].task.adapter = "tuned"
    assert len(keepable(tight, 0.0, FLAT, LIMITS)) == 1


def test_a_pace_that_counts_leaves_less_than_the_deadline():
    """Nine more tokens at 20 ms each: 180 ms, and 90 of work. It counts from the first token on."""
    assert laxity(a_job(5.0, tpot_ms=20, begun_s=0.0)) == pytest.approx(0.090)
    assert laxity(a_job(5.0, tpot_ms=20)) == pytest.approx(4.900)


def test_steps_count_as_longer_by_what_the_latest_were_off_by():
    late = replace(ROWS, margin=0.25)
    assert laxity(a_job(0.5), latency=late) == pytest.approx((0.5 - 0.125) / 1.25)


def test_one_that_comes_now_finds_time_after_the_work_in_hand_that_is_due_before_it():
    traffic = Traffic(rate=10.0, fastest=20.0, variance=100.0, slack_s=0.3, window_s=0.5)  # one goal of 10 tokens a second
    assert laxity(traffic=replace(traffic, rate=0.01, variance=0.1)) == pytest.approx(0.3, rel=0.05)
    assert laxity(a_job(0.49), traffic=traffic) == pytest.approx((0.3 - 0.100 - backlog_s(traffic, ROWS, LIMITS)) / 2)
    assert laxity(a_job(9.0), traffic=traffic) == pytest.approx((0.3 - backlog_s(traffic, ROWS, LIMITS)) / 2)


def test_where_another_may_come_half_is_kept_for_it():
    quiet = Traffic(rate=1e-3, fastest=20.0, variance=0.01, slack_s=9.0, window_s=9.0)
    assert laxity(a_job(0.5), traffic=quiet) == pytest.approx(0.4, rel=0.01)
    busy = Traffic(rate=10.0, fastest=20.0, variance=100.0, slack_s=9.0, window_s=9.0)
    assert laxity(a_job(0.5), traffic=busy) == pytest.approx((0.4 - backlog_s(busy, ROWS, LIMITS)) / 2)


def test_more_piles_up_the_busier_the_device_is():
    """Ten goals a second of one token each take 0.1 of the time: ln(0.1 / RISK) * 10 * 0.01² / (2 * 0.9)."""
    ten = Traffic(rate=10.0, variance=10.0)
    assert backlog_s(ten, ROWS, LIMITS) == pytest.approx(math.log(0.1 / RISK) * 10 * 1e-4 / 1.8)
    assert backlog_s(Traffic(), ROWS, LIMITS) == 0.0
    assert backlog_s(Traffic(rate=100.0, variance=100.0), ROWS, LIMITS) == math.inf
    assert backlog_s(replace(ten, burst_rate=50.0), ROWS, LIMITS) > 2 * backlog_s(ten, ROWS, LIMITS)


def test_as_few_rows_as_there_are_at_once_take_as_long_as_they_do():
    """A goal a second that is due within two: two rows, 6 ms a token of theirs; with six others beside them eight, 3 ms."""
    latency = LatencyModel("wide steps pay", tuple(0.008 + 0.002 * rows for rows in range(1, 17)))
    goal = Traffic(rate=10.0, variance=100.0, window_s=2.0)
    two, eight, all_there_are = (
        math.log(10.0 * token_s / RISK) * 100.0 * token_s**2 / (2.0 * (1.0 - 10.0 * token_s)) for token_s in (0.006, 0.003, 0.0025)
    )
    assert backlog_s(goal, latency, LIMITS, 0) == pytest.approx(two)
    assert backlog_s(goal, latency, LIMITS, 6) == pytest.approx(eight)
    assert backlog_s(goal, latency, LIMITS, 60) == backlog_s(goal, latency, LIMITS) == pytest.approx(all_there_are)


def test_a_prompt_that_may_come_meanwhile_is_reckoned_with():
    traffic = Traffic(rate=1.0, variance=1.0, prompt_share=0.2)  # a goal a second, 200 ms of prompt
    assert prompts_s(traffic, RISK / 2) == 0.0
    assert prompts_s(traffic, 0.1) == pytest.approx(0.2)
    assert prompts_s(traffic, 100.0) == pytest.approx(0.2 * 115)


def early(*jobs, latency=ROWS):
    return sorted(jobs.index(job) for job in too_early(jobs, 0.0, latency, LIMITS))


def test_a_pace_does_not_begin_beside_others_that_leave_no_time_for_it():
    """Ten tokens every 25 ms: two at a time take 20, three take 30."""
    paced, begun = {"tpot_ms": 25}, {"tpot_ms": 25, "begun_s": 0.0}
    assert early(a_job(5.0, **begun), a_job(5.0, **paced)) == []
    assert early(a_job(5.0, **begun), a_job(5.0, **begun), a_job(5.0, **paced), a_job(4.0, **paced)) == [2, 3]
    assert early(a_job(5.0, **paced), a_job(4.0, **paced), a_job(4.5, **paced)) == [0], "those due first begin"
    assert early(a_job(5.0, **begun), a_job(5.0, **begun), a_job(5.0)) == [], "a goal without a pace just begins"
    flat = {"latency": FLAT}
    assert early(a_job(5.0, **begun, **flat), a_job(5.0, **begun, **flat), a_job(5.0, **paced, **flat), **flat) == []


def test_a_pace_begins_where_the_goal_could_not_wait_until_the_others_are_done():
    begun = [a_job(5.0, tpot_ms=25, begun_s=0.0) for _ in range(2)]  # nine tokens each, 180 ms
    assert early(*begun, a_job(0.29, tpot_ms=25)) == [2]
    assert early(*begun, a_job(0.27, tpot_ms=25)) == []


def test_a_goal_that_could_not_be_in_time_even_alone_tells_nothing_of_the_slack_of_those_to_come():
    experience = Experience()
    experience.arrived(a_task("never", RealTime(deadline_s=0.01), max_tokens=50), ROWS)
    assert experience.load.traffic(0.0).slack_s == math.inf
    experience.arrived(a_task("if short", RealTime(deadline_s=0.3), max_tokens=50), ROWS)  # 500 ms if it is long
    assert experience.load.traffic(0.0).slack_s == pytest.approx(0.3 - 0.010 - 0.001)


def test_a_burst_counts_while_it_lasts():
    load = Load()
    for k in range(10):
        load.observe(20.0 + 0.01 * k, 10, 0.030, 0.5, 0.4)
    assert load.traffic(20.1).burst_rate == pytest.approx(100 / 2.0)  # four times 0.5 s
    assert load.traffic(20.1).busy(0.01) > load.traffic(20.1).share(0.01)
    assert load.traffic(23.0).burst_rate == 0.0
