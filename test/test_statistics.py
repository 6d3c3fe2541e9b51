"""Figures per kind of goal."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from slice_ros.metrics.statistics import Statistics, percentile
from slice_ros.scheduling.task import SloReport
from slice_ros.slo import ServiceClass


def test_a_goal_is_queued_then_running_then_ended():
    statistics = Statistics()
    statistics.submitted("a", "voice", ServiceClass.BEST_EFFORT)
    (voice,) = statistics.classes
    assert (voice.submitted, voice.queued, voice.running, voice.ended) == (1, 1, 0, 0)
    statistics.started("a")
    statistics.started("a")
    assert (voice.queued, voice.running) == (0, 1)
    statistics.ended("a", SloReport(attained=True, ttft_s=0.1), completed=True)
    assert (voice.queued, voice.running, voice.completed, voice.attained, voice.attainment) == (0, 0, 1, 1, 1.0)


def test_a_goal_that_fails_before_its_first_step_counts_as_missed():
    statistics = Statistics()
    statistics.submitted("a", "qa", ServiceClass.BEST_EFFORT)
    statistics.ended("a", SloReport(), completed=False)
    (qa,) = statistics.classes
    assert (qa.failed, qa.missed, qa.attainment, qa.queued, qa.running) == (1, 1, 0.0, 0, 0)


def test_attainment_of_nothing_is_not_a_number():
    statistics = Statistics()
    statistics.submitted("a", "qa", ServiceClass.BEST_EFFORT)
    assert math.isnan(statistics.classes[0].attainment)


def test_an_end_is_counted_once():
    statistics = Statistics()
    statistics.submitted("a", "qa", ServiceClass.BEST_EFFORT)
    for _ in range(2):
        statistics.ended("a", SloReport(), completed=True)
    statistics.ended("never seen", SloReport(), completed=True)
    assert statistics.classes[0].ended == 1


def test_percentiles_are_values_that_occurred():
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert math.isnan(percentile([], 0.5))


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_at_least_the_share_does_not_exceed_the_percentile(values, share):
    value = percentile(values, share)
    assert value in values
    assert sum(v <= value for v in values) >= share * len(values) - 1e-6
