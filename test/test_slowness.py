"""How slow a machine was in the course of a run, and simulations of it."""

import pytest

from slice_ros.bench.simulate import simulate
from slice_ros.bench.slowness import Slowness
from slice_ros.bench.workload_file import load_workload
from slice_ros.latency.fit import Step
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import make_policy

TEN_MS = LatencyModel("ten", (0.010, 0.010), prompt_token_s=0.001)


def test_each_second_has_its_own():
    steps = [Step(1, 0, (), 0.020, 0.1), Step(2, 10, (), 0.020, 0.9), Step(1, 0, (), 0.005, 1.0), Step(1, 0, (), 0.030, 5.5)]
    slowness = Slowness.of(steps, TEN_MS)
    assert slowness.since_s == (0.0, 1.0, 5.0)
    assert slowness.factors == pytest.approx((0.040 / 0.030, 0.5, 3.0))
    assert [slowness.at(now_s) for now_s in (0.5, 1.0, 4.9, 5.0, 99.0)] == pytest.approx([4 / 3, 0.5, 0.5, 3.0, 3.0])


def test_where_nothing_is_known_a_machine_is_as_fast_as_it_is():
    assert Slowness().at(3.0) == 1.0
    assert Slowness((2.0,), (5.0,)).at(1.9) == 1.0


def test_a_simulated_device_is_as_slow_as_the_machine_was_then():
    arrivals = load_workload("robot-mix").only("control").traffic(1.0, 40.0, seed=0)
    outcomes = simulate(arrivals, make_policy("orca"), TEN_MS, slowness=Slowness((0.0, 20.0), (1.0, 4.0)))
    early, late = ([o.report.tpot_s for o in outcomes if first <= o.arrival.time_s < first + 18.0] for first in (0.0, 20.0))
    assert min(early) == pytest.approx(0.010)
    assert min(late) == pytest.approx(0.040)
