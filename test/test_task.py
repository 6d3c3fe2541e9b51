"""The verdict on a goal, from the times of its tokens."""

import math

import pytest
from builders import a_task

from slice_ros.slo import BestEffort, RealTime


def served(slo, times_s, **fields):
    task = a_task("t", slo, arrival_s=10.0, **fields)
    task.token_times_s = [10.0 + t for t in times_s]
    return task


def test_times_are_counted_as_the_words_say():
    report = served(BestEffort(), [0.3, 0.4, 0.7]).report(completed=True)
    assert report.ttft_s == pytest.approx(0.3)  # submission to first token
    assert report.tpot_s == pytest.approx(0.2)  # (last - first) / (n - 1)
    assert report.e2e_s == pytest.approx(0.7)  # submission to last token
    assert report.output_tokens == 3


def test_every_bound_must_hold():
    slo = RealTime(ttft_ms=500, tpot_ms=250, deadline_s=1.0)
    assert served(slo, [0.5, 0.75, 1.0]).report(completed=True).attained
    for late in ([0.625, 0.75, 0.875], [0.125, 0.25, 0.75], [0.5, 0.75, 1.125]):
        assert not served(slo, late).report(completed=True).attained
    report = served(slo, [0.625, 0.75, 1.25]).report(completed=True)
    assert (report.ttft_met, report.tpot_met, report.deadline_met) == (False, False, False)


def test_a_goal_that_did_not_complete_has_not_attained():
    assert not served(BestEffort(), [0.1, 0.2]).report(completed=False).attained


def test_a_goal_without_tokens_has_missed_what_bounds_it():
    report = served(RealTime(ttft_ms=100, deadline_s=1), []).report(completed=False)
    assert math.isnan(report.ttft_s)
    assert not report.ttft_met
    assert not report.deadline_met


def test_one_token_has_no_pace_to_miss():
    assert served(RealTime(tpot_ms=50), [3.0]).report(completed=True).attained


def test_the_needed_pace_is_the_tpot_bound_or_what_the_deadline_implies():
    assert a_task("t", RealTime(tpot_ms=50, deadline_s=1.5), max_tokens=25).needed_tpot_s == 0.05
    assert a_task("t", RealTime(deadline_s=1.5), max_tokens=25).needed_tpot_s == pytest.approx(0.06)
    assert a_task("t", BestEffort(ttft_ms=100)).needed_tpot_s is None


def test_it_is_lost_when_no_future_can_save_it():
    waiting = served(BestEffort(ttft_ms=1000), [])
    assert not waiting.is_lost(11.0)
    assert waiting.is_lost(11.001)
    late = served(RealTime(deadline_s=1.5), [1.0])
    assert not late.is_lost(11.5)
    assert late.is_lost(11.501)
    assert served(BestEffort(ttft_ms=1000), [1.2]).is_lost(11.3)


def test_a_slow_pace_is_not_lost_while_later_tokens_could_still_come_fast():
    slow = served(BestEffort(tpot_ms=100), [0.0, 0.5], max_tokens=11)
    assert not slow.is_lost(10.9)  # 11 tokens by 1.0 s are still 100 ms each
    assert slow.is_lost(11.1)


def test_kv_cells_are_what_has_been_computed():
    task = a_task("t", prompt_tokens=100)
    task.prompt_left = 40
    assert task.kv_tokens == 60
    task.prompt_left = 0
    task.token_times_s = [1.0, 2.0]
    assert task.kv_tokens == 102
