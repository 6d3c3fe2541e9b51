"""Fleets on a virtual clock: real schedulers, networks that delay and break, and the same result every time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slice_ros.bench.fleet import Network, SimulatedFleet
from slice_ros.bench.simulate import Outcome, attainment, simulate
from slice_ros.bench.workload import Arrival
from slice_ros.bench.workload_file import load_workload
from slice_ros.dispatch.policies import DISPATCH_POLICIES
from slice_ros.goal import ErrorCode
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import make_policy

FAST = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth")
HALF = replace(FAST.scaled(2.0), device="half")


def traffic(rate_hz: float, duration_s: float = 60.0, seed: int = 0) -> list[Arrival]:
    return load_workload("robot-mix").traffic(rate_hz, duration_s, seed)


def real_time(outcomes: list[Outcome]) -> float:
    return attainment([outcome for outcome in outcomes if outcome.is_real_time])


def test_a_fleet_of_one_beside_its_dispatcher_serves_as_the_device_does():
    arrivals = traffic(1.5)
    alone = simulate(arrivals, make_policy("slack"), FAST)
    assert real_time(SimulatedFleet((FAST,)).run(arrivals, "deadline")) == pytest.approx(real_time(alone), abs=0.02)


def test_two_devices_keep_what_neither_keeps_alone():
    arrivals = traffic(3.0)
    assert real_time(SimulatedFleet((FAST, HALF)).run(arrivals, "deadline")) > real_time(simulate(arrivals, make_policy("slack"), FAST))


def test_bounds_decide_better_than_balancers_do():
    attained = {policy: real_time(SimulatedFleet((FAST, HALF)).run(traffic(4.0), policy)) for policy in DISPATCH_POLICIES}
    assert attained.pop("deadline") > max(attained.values())


def test_the_same_traffic_has_the_same_outcome():
    fleet = SimulatedFleet((FAST, HALF), Network(0.005, 0.01, 20.0, 2.0))
    assert fleet.run(traffic(2.0, 30.0), "deadline") == fleet.run(traffic(2.0, 30.0), "deadline")


@pytest.mark.parametrize("is_fatal", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_goal_ends_once_and_whole_whatever_the_network_does(is_fatal, seed):
    fleet = SimulatedFleet((FAST, HALF, HALF), Network(0.002, 0.01, 6.0, 2.0, is_fatal))
    arrivals = traffic(1.5, 30.0, seed)
    outcomes = fleet.run(arrivals, "deadline")  # a goal without an end would keep it running, one with two would fail
    assert len(outcomes) == len(arrivals)
    for outcome in outcomes:
        assert outcome.completed or outcome.error_code in (ErrorCode.ENGINE_DIED, ErrorCode.SLO_MISSED)
        if outcome.completed:
            more = outcome.report.output_tokens - outcome.arrival.lengths.output_tokens
            assert more in (0, 1)  # of one that was told whole, but not that this was its end, another member says so with a token
            assert len(outcome.token_times_s) == outcome.report.output_tokens


def test_outages_of_one_device_at_a_time_cost_few_goals():
    arrivals = traffic(1.0, 60.0)
    outcomes = SimulatedFleet((FAST, FAST, FAST), Network(0.002, 0.002, 30.0, 2.0)).run(arrivals, "deadline")
    assert real_time(outcomes) > 0.9
    assert all(outcome.completed for outcome in outcomes if not outcome.is_real_time)
