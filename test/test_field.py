"""The held-out grid: what it runs, and how it tells that the default policy is beaten."""

import math
from dataclasses import replace

import pytest
from by_path import module_at

from slice_ros.bench.limit import LIMIT
from slice_ros.bench.sweep import Case, Simulated, run_case
from slice_ros.scheduling.policies import POLICIES

field = module_at("benchmarks/field.py")


def test_it_covers_each_device_traffic_load_and_policy_with_seeds_that_tuning_never_touches():
    grid = field.cases([*POLICIES, LIMIT], range(field.FIRST_SEED, field.FIRST_SEED + 2), [0.5, 2.0], 60)
    assert len(grid) == 4 * 7 * 2 * 2 * (len(POLICIES) + 1)
    assert min(case.seed for case, _ in grid) >= 1000
    assert len({(runner.device, case.workload.name, case.rate_hz) for case, runner in grid}) == 4 * 7 * 2
    assert all(case.rate_hz * case.duration_s >= 59 for case, _ in grid)


def test_at_a_load_of_one_the_device_has_work_all_of_the_time():
    case, runner = next(pair for pair in field.cases(["orca"], [1000], [1.0], 60) if pair[0].workload.name == "robot-mix")
    assert case.rate_hz * field.mean_work_s(case.workload, runner.latency) == pytest.approx(1.0, rel=0.01)


def a_row(policy, attainment, attainment_rt):
    workload = field.load_workload("robot-mix")
    row = run_case(Case("orca", workload, 1.0, 1000, 2.0), Simulated(field.LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth")))
    return replace(row, policy=policy, attainment=attainment, attainment_rt=attainment_rt)


def test_the_table_tells_who_keeps_clearly_more():
    rows = [a_row("slack", 0.90, 0.990), a_row("orca", 0.905, 0.998), a_row("qoserve", 0.92, 0.5), a_row(LIMIT, 1.0, math.nan)]
    line = field.report(rows).splitlines()[2]
    assert line.endswith("| 0.900 (0.990) | 0.905 (0.998) | **0.920** (0.500) | 1.000 | 0.900 | qoserve; real-time: orca |")
    assert field.report(rows).endswith("\n\n1 cells; another policy keeps clearly more in 1")
    unbeaten = field.report([a_row("slack", 0.9, 0.9), a_row("orca", 0.905, 0.902), a_row(LIMIT, 1.0, 1.0)])
    assert unbeaten.endswith("| 0.900 |  |\n\n1 cells; another policy keeps clearly more in 0")


def test_a_cell_into_which_no_goal_came_does_not_count():
    report = field.report([a_row(name, math.nan, math.nan) for name in ("slack", "orca", LIMIT)])
    assert report.endswith("| nan | no goals |\n\n0 cells; another policy keeps clearly more in 0")
