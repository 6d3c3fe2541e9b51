"""A deadline as a TTFT and a TPOT, for schedulers that know no deadline."""

import math

import pytest
from builders import CONTROL, VOICE, RealTime, a_task

from slice_ros.scheduling.policies.bounds import Pace, pace
from slice_ros.slo import BestEffort


def test_bounds_that_a_goal_has_are_its_own():
    assert pace(a_task("t", VOICE, arrival_s=3.0), 80) == Pace(4.0, 0.125)


def test_a_deadline_leaves_the_prompt_what_the_answer_does_not_take():
    assert pace(a_task("t", RealTime(tpot_ms=20, deadline_s=1.5)), 20) == Pace(pytest.approx(1.1), 0.02)


def test_a_pace_that_would_use_the_deadline_up_is_made_faster():
    assert pace(a_task("t", CONTROL), 25) == Pace(0.75, 0.03)


def test_who_asks_for_nothing_needs_nothing():
    its = pace(a_task("t", BestEffort()), 25)
    assert not its.is_bounded
    assert its.due_s(0) == its.due_s(5) == math.inf


def test_tokens_are_due_one_pace_after_the_other():
    its = pace(a_task("t", VOICE), 80)
    assert [its.due_s(tokens) for tokens in (0, 1, 4)] == [1.0, 1.125, 1.5]


def test_a_first_token_without_pace_leaves_the_rest_to_be_whenever():
    its = pace(a_task("t", BestEffort(ttft_ms=500)), 80)
    assert its.is_bounded
    assert (its.due_s(0), its.due_s(1)) == (0.5, math.inf)
