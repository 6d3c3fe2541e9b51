"""The published algorithm, against examples worked out by hand (l(1), l(2), l(3) = 14, 27, 38 ms; T = 1000 ms)."""

import pytest
from builders import CONTROL, PAPER, QA, VOICE, Bench, RealTime, a_goal, a_task

from slice_ros.mask import DECODE
from slice_ros.scheduling.policies import Limits, PolicyError
from slice_ros.scheduling.policies.slice import Slice, cycle_time_s
from slice_ros.slo import BestEffort

LIMITS = Limits()


@pytest.mark.parametrize(
    ("rates", "phi_ms"),
    [
        ([20], 20 * 14),
        ([20, 8], (20 - 8) * 14 + 8 * 27),  # 384
        ([20, 10, 8], (20 - 10) * 14 + (10 - 8) * 27 + 8 * 38),  # 498
        ([20, 20, 20], 20 * 38),
    ],
)
def test_cycle_time_is_phi(rates, phi_ms):
    assert cycle_time_s(rates, PAPER) == pytest.approx(phi_ms / 1e3)


def test_rate_is_the_tokens_a_cycle_that_the_tpot_asks_for():
    policy = Slice()
    assert [policy.rate(a_task("t", slo)) for slo in (CONTROL, VOICE, QA)] == [20, 8, 10]
    assert policy.rate(a_task("t", BestEffort(tpot_ms=300))) == 3  # floor(3.33)
    assert policy.rate(a_task("t", BestEffort(tpot_ms=5000))) == 1  # at least one, or it would never end
    assert policy.rate(a_task("t", RealTime(deadline_s=1.5), max_tokens=30)) == 20  # the pace its deadline implies


def test_selection_takes_real_time_first_then_utility_rate_then_arrival():
    tasks = [
        a_task("qa", QA, order=1),  # r = 1 * 0.100
        a_task("voice", VOICE, order=2),  # r = 1 * 0.125
        a_task("fast", RealTime(tpot_ms=100), order=3),  # r = 100 * 0.1
        a_task("control 1", CONTROL, order=4),  # r = 100 * 0.05
        a_task("control 2", CONTROL, order=5),
        a_task("modest", RealTime(tpot_ms=50, utility=300), order=6),  # r = 300 * 0.05
    ]
    order = []
    for n in range(1, len(tasks) + 1):
        taken = {task.goal_id for task, _ in Slice(cycle_s=1.0, ratio=99.0).select(tasks, PAPER, Limits(max_batch=n))}
        order += taken - set(order)
    assert order == ["modest", "fast", "control 1", "control 2", "voice", "qa"]


def test_selection_stops_at_the_first_task_that_does_not_fit_the_cycle():
    # 20 tokens a cycle each: 3 rows take 20 * 38 = 760 ms, 4 rows 20 * 50 = 1000 ms, 5 rows 20 * 60 = 1200 ms.
    tasks = [a_task(f"c{i}", CONTROL, order=i) for i in range(5)]
    tasks.append(a_task("small", BestEffort(tpot_ms=1000), order=9))  # 4 rows + 1 token: 19 * 50 + 60 = 1010 ms; never asked
    assert [task.goal_id for task, _ in Slice().select(tasks, PAPER, LIMITS)] == ["c0", "c1", "c2", "c3"]
    assert len(Slice(ratio=0.76).select(tasks, PAPER, LIMITS)) == 3
    assert len(Slice(ratio=0.75).select(tasks, PAPER, LIMITS)) == 2


def test_at_least_one_task_is_selected_and_never_more_than_the_batch_limit():
    greedy = [a_task(f"t{i}", RealTime(tpot_ms=1), order=i) for i in range(3)]
    assert len(Slice().select(greedy, PAPER, LIMITS)) == 1
    modest = [a_task(f"t{i}", BestEffort(), order=i) for i in range(20)]
    assert len(Slice(ratio=99).select(modest, PAPER, LIMITS)) == 16


def test_matrix_is_packed_to_the_left_with_one_row_a_task_in_descending_rate():
    tasks = [a_task("b", BestEffort(tpot_ms=500), order=1), a_task("a", RealTime(tpot_ms=250), order=2)]
    for task in tasks:
        task.prompt_left = 0
    matrix = Slice().plan(tasks, 0.0, PAPER, LIMITS)
    assert matrix.rows == ("a", "b")
    assert matrix.to_array().tolist() == [[DECODE] * 4, [DECODE] * 2 + [0] * 2]


def test_the_first_one_of_a_row_carries_the_prompt():
    matrix = Slice().plan([a_task("a", RealTime(tpot_ms=250), prompt_tokens=64)], 0.0, PAPER, LIMITS)
    assert matrix.to_array().tolist() == [[64, DECODE, DECODE, DECODE]]


def test_the_scan_goes_column_by_column_and_starts_again_at_the_end():
    bench = Bench("slice")
    bench.submit(a_goal("a", RealTime(tpot_ms=250), max_tokens=50), a_goal("b", BestEffort(tpot_ms=500), max_tokens=50))
    begins_ms = []
    for _ in range(8):
        begins_ms.append(round(bench.clock.now() * 1e3))
        bench.turn()
    # Columns of 2, 2, 1 and 1 rows, twice.
    assert begins_ms == [0, 27, 54, 68, 82, 109, 136, 150]
    assert (bench.tokens("a"), bench.tokens("b")) == (8, 4)


def test_an_arrival_throws_the_matrix_away():
    bench = Bench("slice")
    bench.submit(a_goal("a", RealTime(tpot_ms=250), max_tokens=50), a_goal("b", BestEffort(tpot_ms=500), max_tokens=50))
    bench.turn(3)
    assert bench.tokens("b") == 2  # its share of the cycle; b would wait for the next one
    bench.submit(a_goal("c", RealTime(tpot_ms=250), max_tokens=50))
    bench.turn()
    assert bench.scheduler.matrix.rows == ("a", "c", "b")
    assert bench.tokens("b") == 3  # the new cycle begins with every row


def test_a_completion_throws_the_matrix_away():
    bench = Bench("slice")
    bench.submit(a_goal("a", RealTime(tpot_ms=250), max_tokens=3), a_goal("b", BestEffort(tpot_ms=500), max_tokens=50))
    bench.turn(4)  # a ends in the third column; b is alone in a new matrix
    assert bench.scheduler.matrix.rows == ("b",)
    assert bench.tokens("b") == 3


@pytest.mark.parametrize("parameters", [{"cycle_s": 0.0}, {"ratio": 0.0}, {"cycle_s": -1.0}])
def test_parameters_must_be_above_zero(parameters):
    with pytest.raises(PolicyError, match="both must be above 0"):
        Slice(**parameters)
