"""The soak's own judgement of goals: it finds a server that flatters itself, and knows how exact its stamps are."""

from __future__ import annotations

import pytest

from reliability.verdicts import ACCEPTED, FINISHED, FIRST_TOKEN, Life, disagreements, observed, reported
from slice_ros.ros.conversions import report_msg, slo_msg
from slice_ros.ros.interfaces import GoalEvent
from slice_ros.scheduling.task import SloReport
from slice_ros.slo import RealTime


def life(*, ttft_s: float = 0.2, tpot_s: float = 0.05, e2e_s: float = 1.0, stamped_late_s: float = 0.0, **verdict: bool) -> Life:
    """A goal of 17 tokens whose bounds are 0.3 s, 0.06 s and 2 s."""
    met = {"attained": True, "ttft_met": True, "tpot_met": True, "deadline_met": True, **verdict}
    report = SloReport(ttft_s=ttft_s, tpot_s=tpot_s, e2e_s=e2e_s, output_tokens=17, **met)
    slo = RealTime(ttft_ms=300, tpot_ms=60, deadline_s=2.0)
    end = GoalEvent(event=FINISHED, slo=slo_msg(slo), report=report_msg(report))
    stamps_s = {ACCEPTED: 100.0, FIRST_TOKEN: 100.0 + ttft_s + stamped_late_s, FINISHED: 100.0 + e2e_s + stamped_late_s}
    return Life(stamps_s, dict.fromkeys(stamps_s, 1), end)


def test_right_verdicts_are_agreed_with():
    lives = [
        life(),
        life(ttft_s=0.4, ttft_met=False, attained=False),
        life(ttft_s=0.1, e2e_s=2.5, tpot_s=0.15, tpot_met=False, deadline_met=False, attained=False),
    ]
    assert disagreements(lives, lambda life: reported(life.end)) == (0, 0)
    assert disagreements(lives, observed) == (0, 0)


@pytest.mark.parametrize(
    "lie", [{"ttft_s": 0.4}, {"tpot_s": 0.07}, {"e2e_s": 2.1}, {"attained": False}, {"deadline_met": False, "attained": False}]
)
def test_a_verdict_that_its_times_belie_is_found(lie):
    assert disagreements([life(**lie)], lambda life: reported(life.end)) == (1, 0)


def test_times_that_are_reported_shorter_than_they_were_are_found_by_the_stamps():
    assert disagreements([life(stamped_late_s=0.5)], observed, distance_s=0.1) == (1, 0)
    assert life(stamped_late_s=0.5).delays_s() == pytest.approx((0.5, 0.5))


def test_a_verdict_on_its_bound_is_told_apart():
    assert disagreements([life(ttft_s=0.29, stamped_late_s=0.05)], observed, distance_s=0.1) == (0, 1)
