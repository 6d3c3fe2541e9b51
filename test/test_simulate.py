"""The simulator gives the same answer every time, and the one that is known from before."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from slice_ros.bench.rows import mean
from slice_ros.bench.simulate import attainment, simulate
from slice_ros.bench.sweep import Case, Simulated, run_case
from slice_ros.bench.workload_file import load_workload
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import POLICIES, make_policy

ROBOT_MIX = load_workload("robot-mix")
FLAT = Simulated(LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-flat"))

PUBLISHED = {
    # (policy, goals a second): share of all goals and of real-time goals that met every bound, 300 s, mean of 8 seeds
    ("orca", 2.0): (0.20, 0.09),
    ("slice", 0.6): (0.98, 0.98),
    ("slice", 1.0): (0.91, 0.87),
    ("slice", 2.0): (0.16, 0.05),
}


def _run(case):
    return run_case(case, FLAT)


@pytest.fixture(scope="module")
def published_rows():
    cases = [Case(policy, ROBOT_MIX, rate_hz, seed, 300.0) for policy, rate_hz in PUBLISHED for seed in range(8)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_run, cases, chunksize=4))


@pytest.mark.timeout(600)  # 15 s on a quiet machine with two cores
@pytest.mark.parametrize(("policy", "rate_hz"), PUBLISHED)
def test_baselines_attain_what_was_measured_of_the_published_algorithms(published_rows, policy, rate_hz):
    rows = [row for row in published_rows if (row.policy, row.rate_hz) == (policy, rate_hz)]
    assert len(rows) == 8
    shares = (mean([row.attainment for row in rows]), mean([row.attainment_rt for row in rows]))
    assert shares == pytest.approx(PUBLISHED[policy, rate_hz], abs=0.07)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_traffic_gives_the_same_outcome(policy):
    traffic = ROBOT_MIX.traffic(2.0, 20.0, seed=5)
    first, second = (simulate(traffic, make_policy(policy), FLAT.latency) for _ in range(2))
    # NaN in a prediction is not equal to itself; its text is.
    assert [repr(outcome) for outcome in first] == [repr(outcome) for outcome in second]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_goal_has_an_outcome_with_the_tokens_of_its_script(policy):
    traffic = ROBOT_MIX.traffic(3.0, 20.0, seed=1)
    outcomes = simulate(traffic, make_policy(policy), FLAT.latency)
    assert [outcome.arrival for outcome in outcomes] == traffic
    for outcome in outcomes:
        if outcome.completed:
            assert outcome.report.output_tokens == outcome.arrival.lengths.output_tokens == len(outcome.token_times_s)
            assert outcome.token_times_s[-1] - outcome.arrival.time_s == pytest.approx(outcome.report.e2e_s)


def test_a_goal_alone_takes_what_the_latency_model_says():
    arrival = ROBOT_MIX.only("control").traffic(1.0, 60.0, seed=0)[0]
    (outcome,) = simulate([arrival], make_policy("orca"), FLAT.latency)
    assert outcome.report.ttft_s == pytest.approx(0.014 + 0.030)
    assert outcome.report.tpot_s == pytest.approx(0.014)


def test_attainment_counts_what_was_submitted():
    outcomes = simulate(ROBOT_MIX.traffic(2.0, 20.0, seed=1), make_policy("orca"), FLAT.latency)
    assert attainment(outcomes) == sum(outcome.report.attained for outcome in outcomes) / len(outcomes)


def test_minutes_of_traffic_take_seconds():
    began = time.perf_counter()
    simulate(ROBOT_MIX.traffic(2.0, 300.0, seed=0), make_policy("orca"), FLAT.latency)
    assert time.perf_counter() - began < 30.0  # 1 s on a quiet machine
