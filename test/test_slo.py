"""An SLO holds what it says, and says what is wrong with it."""

import math

import pytest

from slice_ros.slo import BestEffort, OnMiss, RealTime, ServiceClass, Slo, SloError


def test_presets_take_the_units_in_their_names():
    slo = RealTime(tpot_ms=50, deadline_s=1.5)
    assert (slo.service_class, slo.ttft_s, slo.tpot_s, slo.deadline_s) == (ServiceClass.REAL_TIME, None, 0.05, 1.5)
    slo = BestEffort(ttft_ms=1000)
    assert (slo.service_class, slo.ttft_s, slo.tpot_s) == (ServiceClass.BEST_EFFORT, 1.0, None)


def test_a_real_time_goal_weighs_a_hundred_best_effort_ones_unless_told_otherwise():
    assert RealTime(deadline_s=1).weight == 100 * BestEffort().weight
    assert RealTime(deadline_s=1, utility=3).weight == 3


def test_goals_go_on_after_a_miss_unless_told_otherwise():
    assert not BestEffort(ttft_ms=1).ends_on_miss
    assert RealTime(ttft_ms=1).ends_on_miss
    assert not RealTime(ttft_ms=1, on_miss=OnMiss.CONTINUE).ends_on_miss


def test_best_effort_needs_no_bound_real_time_does():
    assert not BestEffort().has_bound
    with pytest.raises(SloError, match="real-time SLO has no bound"):
        RealTime()


@pytest.mark.parametrize("name", ["ttft_s", "tpot_s", "deadline_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 100_000.0])
def test_a_bound_that_is_no_time_up_to_a_day_is_refused_by_name_and_value(name, value):
    with pytest.raises(SloError, match=rf"{name[:-2]} is {value} s; it must be above 0"):
        Slo(**{name: value})


@pytest.mark.parametrize("utility", [0.0, -2.0, math.nan, math.inf])
def test_a_utility_that_is_not_above_zero_is_refused(utility):
    with pytest.raises(SloError, match=f"utility is {utility}"):
        BestEffort(utility=utility)


def test_a_first_token_due_after_the_last_is_refused():
    with pytest.raises(SloError, match=r"ttft is 2\.0 s, which is after the deadline of 1\.0 s"):
        RealTime(ttft_ms=2000, deadline_s=1.0)
