"""Real-time goals beside others, on devices and in traffic drawn at random; and the gauge that draws them."""

import random

import pytest
import yaml

from slice_ros.bench.command import add_arguments
from slice_ros.bench.plots import plot_price
from slice_ros.bench.robustness import CONTESTANTS, REAL_TIME_FIRST, Price, Verdict, draw, judge, price
from slice_ros.bench.workload_file import load_workload
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import DEFAULT_POLICY

QUICK = (DEFAULT_POLICY, *REAL_TIME_FIRST)
GROSSLY = 0.85
"""A case drawn anew fails where real-time goals attain less of what they do alone; how many of hundreds break is in the documentation."""


@pytest.mark.parametrize("seed", [1009, 1011, 1023, 1025, 1027, 1042, 1043, 1071, 1076, 1088, 900086])
def test_real_time_goals_are_safe_where_they_once_were_not(seed):
    verdict = judge(draw(seed), QUICK)
    assert verdict.is_safe, verdict.line


@pytest.mark.parametrize("seed", [920049])
def test_no_other_policy_keeps_more_where_one_once_did(seed):
    verdict = judge(draw(seed), (DEFAULT_POLICY, "slos-serve"))
    assert verdict.is_unbeaten, verdict.line


def test_real_time_goals_are_safe_on_devices_drawn_anew():
    first = random.SystemRandom().randrange(10**6)
    for seed in range(first, first + 3):
        verdict = judge(draw(seed), QUICK)
        least = min(GROSSLY * verdict.alone, verdict.safest - 0.1)
        assert verdict.real_time[DEFAULT_POLICY] >= least, f"seed {seed}, {verdict.case.command}: {verdict.line}"


def test_a_seed_draws_the_same_case_and_another_one_another():
    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_draws_differ_in_all_that_matters():
    cases = [draw(seed) for seed in range(60)]
    kinds = [kind for case in cases for kind in case.workload.classes]
    assert {type(case.workload.arrivals).__name__ for case in cases} == {"Poisson", "Bursty", "Periodic"}
    assert len({case.cells for case in cases}) > 2
    assert any(kind.adapter for kind in kinds)
    assert any(kind.after for kind in kinds)
    assert min(case.latency.prompt_token_s / case.latency.step_s(1) for case in cases) < 1 / 100
    assert max(case.latency.prompt_token_s / case.latency.step_s(1) for case in cases) > 1 / 5


def test_the_files_of_a_case_hold_what_was_drawn(tmp_path):
    for seed in range(20):
        case = draw(seed)
        case.write(tmp_path)
        device, workload = tmp_path / f"case-{seed}.device.yaml", tmp_path / f"case-{seed}.workload.yaml"
        assert LatencyModel.profile(str(device)).decode_s == pytest.approx(case.latency.decode_s)
        loaded = load_workload(str(workload))
        assert case.command in yaml.safe_load(workload.read_text())["description"]
        drawn = case.workload.traffic(case.rate_hz, case.duration_s, 0)
        again = loaded.traffic(case.rate_hz, case.duration_s, 0)
        assert [(a.time_s, a.lengths, a.request.after, a.request.adapter) for a in again] == [
            (a.time_s, a.lengths, a.request.after, a.request.adapter) for a in drawn
        ]
        for ours, theirs in zip(loaded.classes, case.workload.classes, strict=True):
            for name in ("ttft_s", "tpot_s", "deadline_s"):
                assert getattr(ours.slo, name) == pytest.approx(getattr(theirs.slo, name))
            assert ours.slo.on_miss is theirs.slo.on_miss


def test_the_command_of_a_case_is_one():
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    program, verb, *options = draw(3).command.split()
    assert (program, verb) == ("slice-ros", "bench")
    assert parser.parse_args(options).seeds == 1


def a_verdict(real_time, everything=0.9, *, alone=1.0, safest=1.0, other=0.9):
    names = [name for name in CONTESTANTS if name != DEFAULT_POLICY]
    return Verdict(
        draw(0),
        alone,
        {DEFAULT_POLICY: everything} | dict.fromkeys(names, other),
        {DEFAULT_POLICY: real_time} | dict.fromkeys(names, safest),
        {},
    )


def test_a_case_breaks_below_097_of_alone_unless_nobody_keeps_more():
    assert a_verdict(0.97).is_safe
    assert not a_verdict(0.96).is_safe
    assert a_verdict(0.96, safest=0.96).is_safe
    assert a_verdict(0.49, alone=0.5).is_safe


def test_a_case_breaks_where_another_policy_keeps_clearly_more_goals():
    assert a_verdict(1.0, 0.89).is_unbeaten
    assert not a_verdict(1.0, 0.88).is_unbeaten


def test_what_best_effort_goals_pay_is_told_beside_the_policies_that_keep_most_of_them():
    case = draw(0)
    others = dict.fromkeys((name for name in CONTESTANTS if name != DEFAULT_POLICY), 0.0)
    real_time = others | {DEFAULT_POLICY: 0.98, "real-time first": 0.96, "orca": 0.5, "slice": 0.97}
    best_effort = others | {DEFAULT_POLICY: 0.6, "orca": 0.9, "slice": 0.4, "real-time first": 0.1}
    verdict = Verdict(case, 1.0, real_time, real_time, best_effort)
    assert (verdict.kindest, verdict.kindest_safe) == ("orca", "slice")
    assert price([verdict, verdict]) == Price(here=0.6, first=0.1, safe=0.4, kindest=0.9, kindest_real_time=0.5, real_time=0.98)


def test_what_they_pay_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    shares = {name: 0.1 * place for place, name in enumerate(CONTESTANTS)}
    plot_price([Verdict(draw(0), 1.0, shares, shares, shares)], tmp_path / "price.png")
    assert (tmp_path / "price.png").stat().st_size > 10_000


def test_a_verdict_is_kept_as_a_line():
    verdict = a_verdict(0.96, 0.88)
    assert Verdict.from_json(verdict.to_json()) == verdict
