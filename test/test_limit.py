"""What no schedule can exceed: never below what some schedule does, and what the proof of it says in examples."""

import math
from dataclasses import replace

import pytest
from builders import CONTROL, PAPER, QA, VOICE, RealTime

from slice_ros.bench.limit import Demand, Hull, LimitError, demands_of, limit_of, most_kept
from slice_ros.bench.optimum import most_attained, random_instance
from slice_ros.bench.robustness import draw
from slice_ros.bench.simulate import simulate
from slice_ros.bench.workload import Arrival
from slice_ros.bench.workload_file import load_workload
from slice_ros.engines.simulated import Lengths
from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import POLICIES, make_policy
from slice_ros.slo import BestEffort

pytest.importorskip("scipy")
SMOOTH = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth")
ROUNDING = 1e-6


def an_arrival(name, slo, tokens, *, at_s=0.0, prompt_tokens=1, forced=0, **fields):
    request = GoalRequest(name, slo, 200, prompt="x", submitted_s=at_s, **fields)
    return Arrival(at_s, request, Lengths(prompt_tokens, tokens, forced))


# ---- never below what can be done


@pytest.mark.parametrize("first", range(0, 120, 30))
def test_it_is_never_below_the_best_of_all_schedules(first):
    for seed in range(first, first + 30):
        instance = random_instance(seed, most_goals=4, most_columns=9)
        assert most_kept(instance.arrivals, instance.latency) >= most_attained(instance) - ROUNDING, seed


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_exceeds_it_in_random_traffic_on_random_devices(policy):
    for seed in range(8000, 8012):
        case = draw(seed)
        arrivals = case.workload.traffic(case.rate_hz, case.duration_s / 4, seed)
        outcomes = simulate(arrivals, make_policy(policy), case.latency, limits={"context_tokens": case.cells})
        assert sum(outcome.report.attained for outcome in outcomes) <= most_kept(arrivals, case.latency) + ROUNDING, seed


@pytest.mark.parametrize("rate_hz", [1.0, 2.5, 5.0])
def test_no_policy_exceeds_it_in_robot_mix(rate_hz):
    arrivals = load_workload("robot-mix").traffic(rate_hz, 40.0, seed=7)
    for policy in ("slack", "slos-serve"):
        kept = sum(outcome.report.attained for outcome in simulate(arrivals, make_policy(policy), SMOOTH))
        assert kept <= most_kept(arrivals, SMOOTH) + ROUNDING


def test_a_prompt_looks_back_on_what_is_within_windows_and_is_cheaper_in_pieces():
    """The whole of 4000 tokens in one chunk looks back on 8 million; those of which three quarters of the layers see 512 on less."""
    windowed = LatencyModel("windowed", (0.005,) * 16, prompt_token_s=1e-5, prompt_kv_token_s=2e-7, window=512, windowed=0.8)
    goal = an_arrival("report", BestEffort(deadline_s=1.3), 10, prompt_tokens=4000)
    assert windowed.prompt_s(4000) > 1.3, "in one chunk"
    assert sum(outcome.report.attained for outcome in simulate([goal], make_policy("slack"), windowed)) == 1
    assert most_kept([goal], windowed) == 1
    assert most_kept([replace(goal, request=replace(goal.request, slo=BestEffort(deadline_s=0.5)))], windowed) == 0


def test_goals_are_whole():
    linear = LatencyModel("linear", tuple(0.01 * b for b in range(1, 17)))
    goals = [an_arrival(f"{i}", RealTime(deadline_s=0.25), 10) for i in range(8)]
    assert most_kept(goals, linear) == 2, "not two and a half"


def test_it_is_tight_where_goals_run_one_after_the_other():
    linear = LatencyModel("linear", tuple(0.01 * b for b in range(1, 17)))
    goals = [an_arrival(f"{i}", RealTime(deadline_s=0.5), 10) for i in range(8)]
    assert most_kept(goals, linear) == pytest.approx(5.0)  # each takes 0.1 s in whatever steps


def test_it_falls_with_load():
    robot_mix = load_workload("robot-mix")
    limits = [limit_of(robot_mix.traffic(rate_hz, 60.0, seed=1), SMOOTH) for rate_hz in (1.0, 3.0, 6.0)]
    assert limits[0] == 1.0 > limits[1] > limits[2]


# ---- what the proof says


def the_demand(arrival, latency=PAPER, others=()):
    return demands_of([arrival, *others], latency, 16)[0][0]


def test_a_row_costs_no_less_than_the_hull_at_the_mean_time_of_its_steps():
    hull = Hull((0.010, 0.014, 0.027, 0.028))  # a row: 10, 7, 9, 7 ms
    assert hull(0.005) == hull(0.010) == 0.010
    assert hull(0.014) == hull(1.0) == 0.007
    assert hull(0.012) == pytest.approx(0.0085)
    assert [Hull((0.010, 0.030, 0.032))(s) for s in (0.010, 0.021, 0.032)] == pytest.approx(
        [0.010, (0.010 + 0.032 / 3) / 2, 0.032 / 3], abs=7e-4
    )


def test_alone_a_goal_pays_for_steps_of_its_own():
    demand = the_demand(an_arrival("a", CONTROL, 20))
    assert demand == Demand(0.0, 1.5 - 19 * 0.014, pytest.approx(1.5), pytest.approx(0.014), pytest.approx(20 * 0.014))


def test_beside_others_it_may_share_as_far_as_its_pace_allows():
    others = [an_arrival(f"{i}", QA, 100) for i in range(15)]
    fast, slow = (the_demand(an_arrival("a", slo, 40), others=others) for slo in (RealTime(ttft_ms=500, tpot_ms=20), VOICE))
    assert slow.all_s < fast.all_s < 40 * 0.014
    assert slow.all_s == pytest.approx(40 * 0.124 / 16)


def test_prompts_and_kv_are_its_own():
    latency = replace(PAPER, prompt_token_s=0.001, chunk_s=0.005, kv_token_s=1e-5)
    demand = the_demand(an_arrival("a", CONTROL, 3, prompt_tokens=100), latency)
    assert demand.first_s == pytest.approx(0.105 + 0.014)
    assert demand.all_s == pytest.approx(0.105 + 3 * 0.014 + 1e-5 * (101 + 102))


def test_where_only_the_first_token_is_due_no_other_is_counted():
    demand = the_demand(an_arrival("a", BestEffort(ttft_ms=500), 100))
    assert (demand.first_due_s, demand.end_s) == (0.5, 0.5)
    assert demand.all_s == pytest.approx(0.014)


def test_forced_tokens_take_no_step():
    assert the_demand(an_arrival("a", CONTROL, 20, forced=1)).all_s == pytest.approx(10 * 0.014)


def test_what_could_not_be_kept_alone_is_not_kept():
    assert most_kept([an_arrival("a", RealTime(deadline_s=0.1), 10), an_arrival("b", RealTime(tpot_ms=13), 10)], PAPER) == 0.0


def test_what_may_be_served_at_any_time_is_kept():
    assert most_kept([an_arrival("a", BestEffort(), 10), an_arrival("b", BestEffort(tpot_ms=50), 10)], PAPER) == 2.0


def test_who_comes_when_the_chain_before_it_is_due_is_not_kept():
    look = an_arrival("look", RealTime(deadline_s=2.0), 10, chain_deadline_s=5.0)
    plans = [an_arrival(f"plan at {at_s}", RealTime(deadline_s=4.0), 20, at_s=at_s, after=("look",)) for at_s in (1.0, 4.5, 4.8, 6.0)]
    last = an_arrival("last", RealTime(deadline_s=4.0), 20, at_s=4.9, after=("plan at 1.0",))
    kept = [outcome.report.attained for outcome in simulate([look, *plans[:3], last, plans[3]], make_policy("slack"), PAPER)]
    assert kept == [True, True, True, False, False, False], "20 tokens take 0.28 s"
    assert most_kept([look, *plans[:3], last, plans[3]], PAPER) == 3


def test_a_goal_that_waits_for_another_cannot_begin_before_its_end():
    look = an_arrival("look", RealTime(deadline_s=1.0), 20)
    plan = an_arrival("plan", RealTime(deadline_s=0.5), 10, after=("look",))
    assert demands_of([look, plan], PAPER, 16)[0][1].release_s == pytest.approx(20 * 0.014)
    assert most_kept([look, replace(plan, request=replace(plan.request, slo=RealTime(deadline_s=0.4)))], PAPER) == 1.0


def test_of_no_goals_there_is_no_share():
    assert most_kept([], PAPER) == 0.0
    assert math.isnan(limit_of([], PAPER))


def test_tiles_are_refused_as_their_rows_have_no_share_of_their_own():
    with pytest.raises(LimitError, match="tiles of 4 tokens"):
        most_kept([an_arrival("a", CONTROL, 20)], replace(PAPER, tile=4))
