"""Orca: every running task in every step, free places to the longest-waiting one."""

from builders import Bench, a_goal

from slice_ros.slo import BestEffort


def batch(bench):
    return [cell.goal_id for cell in bench.scheduler.matrix.columns[0]]


def test_every_running_task_takes_part_in_every_step():
    bench = Bench("orca")
    bench.submit(*(a_goal(f"g{i}", max_tokens=50) for i in range(3)))
    bench.turn(5)
    assert [bench.tokens(f"g{i}") for i in range(3)] == [5, 5, 5]


def test_sixteen_run_and_a_free_place_goes_to_the_one_that_waited_longest():
    bench = Bench("orca")
    bench.submit(*(a_goal(f"g{i}", max_tokens=2 if i == 4 else 50) for i in range(18)))
    bench.turn()
    assert batch(bench) == [f"g{i}" for i in range(16)]
    bench.turn(2)
    assert batch(bench) == [f"g{i}" for i in range(17) if i != 4]
    assert bench.tokens("g17") == 0


def test_service_classes_do_not_matter():
    bench = Bench("orca")
    bench.submit(*(a_goal(f"g{i}", BestEffort(), max_tokens=50) for i in range(16)), a_goal("late", max_tokens=5))
    bench.turn(10)
    assert bench.tokens("late") == 0
