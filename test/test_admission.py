"""What a goal can expect at its submission (l(1), l(2) = 14, 27 ms, prompts for nothing)."""

import math

import pytest
from builders import CONTROL, PAPER, VOICE, Bench, RealTime, a_goal, a_task

from slice_ros.engines.simulated import Lengths
from slice_ros.goal import ErrorCode
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.admission import Admission, predict
from slice_ros.scheduling.events import Checked
from slice_ros.scheduling.experience import Experience
from slice_ros.scheduling.lengths import FEW
from slice_ros.scheduling.policies import Limits
from slice_ros.slo import BestEffort

FLAT = LatencyModel("flat", (0.020,), chunk_s=0.030)


def experienced(**lengths):
    experience = Experience()
    for kind, tokens in lengths.items():
        for _ in range(FEW):
            experience.lengths.observe(kind, tokens)
    return experience


def prediction(newcomer, *tasks, latency=PAPER, now=0.0):
    return predict(newcomer, tasks, now, latency, Limits(), experienced(test=20))


def strict(policy="slack", **fields):
    bench = Bench(policy, **fields)
    bench.scheduler._admission = Admission.STRICT
    return bench


def test_alone_a_goal_takes_its_own_time():
    expected = prediction(a_task("c", CONTROL))
    assert expected.ttft_s == pytest.approx(0.014)
    assert expected.tpot_s == pytest.approx(0.014)
    assert expected.e2e_s == pytest.approx(0.280)  # 20 tokens, as learnt
    assert expected.fits
    assert expected.fits_in_s == 0.0


def test_real_time_goals_due_before_it_come_first():
    expected = prediction(a_task("c", CONTROL, arrival_s=0.1), a_task("a", CONTROL), a_task("b", CONTROL), now=0.1)
    assert expected.ttft_s == pytest.approx(0.560 + 0.014)
    assert expected.e2e_s == pytest.approx(0.840)


def test_a_goal_without_bounds_waits_for_a_place_among_those_before_it():
    alone = prediction(a_task("c", BestEffort()))
    behind = [prediction(a_task("c", BestEffort()), *(a_task(f"{i}", BestEffort()) for i in range(n))) for n in (1, 5, 20)]
    assert [expected.fits for expected in behind] == [True] * 3
    assert alone.e2e_s < behind[0].e2e_s < behind[1].e2e_s < behind[2].e2e_s
    assert behind[1].e2e_s == pytest.approx(20 * PAPER.step_s(6))  # all share all steps
    bounded = a_task("c", BestEffort(deadline_s=60.0))
    assert prediction(bounded, a_task("a", BestEffort())) == prediction(bounded)  # it comes first


def test_where_rows_are_free_nobody_waits_but_for_prompts():
    expected = prediction(a_task("c", CONTROL, prompt_tokens=64), a_task("a", CONTROL, prompt_tokens=64), latency=FLAT)
    assert expected.ttft_s == pytest.approx(2 * 0.030 + 0.020)  # both prompts in the first step
    assert expected.e2e_s == pytest.approx(2 * 0.030 + 20 * 0.020)


def test_a_deadline_that_cannot_be_met_says_when_it_could():
    ahead = [a_task(f"{i}", CONTROL) for i in range(5)]  # 1.4 s of work
    expected = prediction(a_task("c", CONTROL, arrival_s=0.01), *ahead, now=0.01)
    assert not expected.is_feasible
    assert expected.e2e_s == pytest.approx(6 * 0.280)
    assert expected.fits_in_s == pytest.approx(0.18)  # 1.68 s - 1.5 s
    assert "0.18" in expected.reason


def test_a_goal_that_is_too_much_for_the_machine_never_fits():
    expected = prediction(a_task("c", RealTime(tpot_ms=10)))
    assert not expected.is_feasible
    assert math.isinf(expected.fits_in_s)


def test_a_goal_of_an_unknown_kind_that_is_too_long_for_its_deadline_never_fits():
    expected = predict(a_task("c", RealTime(deadline_s=0.2), max_tokens=100), [], 0.0, PAPER, Limits(), Experience())
    assert expected.e2e_s == pytest.approx(62.5 * 0.014)  # a quarter, half, three quarters or all of 100 tokens
    assert not expected.is_feasible
    assert math.isinf(expected.fits_in_s), "nobody is ahead whose end would help"


def test_an_urgent_goal_that_makes_another_late_is_not_safe():
    tight = a_task("tight", RealTime(deadline_s=0.5))
    expected = prediction(a_task("urgent", RealTime(deadline_s=0.4)), tight)
    assert expected.is_feasible
    assert not expected.is_safe  # 280 ms + 280 ms > 500 ms
    assert not expected.fits
    assert prediction(a_task("urgent", RealTime(deadline_s=0.4)), a_task("lax", RealTime(deadline_s=0.6))).fits


def test_a_goal_that_makes_anothers_first_token_late_is_not_safe():
    ttft = a_task("ttft", RealTime(ttft_ms=290))
    assert not prediction(a_task("urgent", RealTime(deadline_s=0.285)), ttft).is_safe  # 280 ms + 14 ms > 290 ms
    both = a_task("both", RealTime(ttft_ms=290, deadline_s=5.0))
    assert not prediction(a_task("urgent", RealTime(deadline_s=0.285)), both).is_safe
    lax = a_task("lax", RealTime(ttft_ms=300))
    assert prediction(a_task("urgent", RealTime(deadline_s=0.285)), lax).fits  # of the first token alone, however long its answer is
    assert prediction(a_task("urgent", RealTime(deadline_s=0.285)), running(a_task("is there", RealTime(ttft_ms=290)))).fits


def running(task):
    task.prompt_left, task.token_times_s = 0, [0.0]
    return task


def test_a_chat_shares_what_real_time_goals_leave():
    alone = prediction(a_task("v", VOICE))
    assert alone.tpot_s == pytest.approx(0.014)
    experience = experienced(test=20)
    for second in range(100):  # one control goal of 20 tokens a second: 28 % of the time
        experience.load.observe(second, 20, 0.0, 1.5, 1.0)
    beside = predict(a_task("v", VOICE, arrival_s=100.0), [], 100.0, PAPER, Limits(), experience)
    assert beside.tpot_s == pytest.approx(0.014 / 0.72, rel=0.02)


def test_a_chat_for_which_there_is_no_room_is_told_when_there_will_be():
    talks = [a_task(f"{i}", BestEffort(ttft_ms=1000, tpot_ms=60), order=i) for i in range(5)]
    expected = prediction(a_task("one more", BestEffort(ttft_ms=1000, tpot_ms=60), order=9), *talks)
    assert not expected.is_feasible
    assert 0.0 < expected.fits_in_s < 5.0


def test_the_report_carries_what_was_predicted():
    bench = Bench("slack", lengths={"c": Lengths(1, 8)})
    bench.submit(a_goal("c", CONTROL, max_tokens=8))
    bench.drain()
    report = bench.end("c").report
    assert report.predicted_e2e_s == pytest.approx(0.014 * 5)  # nothing learnt yet: a quarter, half, three quarters or all of 8
    assert report.predicted_ttft_s == pytest.approx(0.014)


def test_strict_admission_ends_at_once_what_cannot_be_kept_and_says_when():
    bench = strict()
    bench.submit(a_goal("first", RealTime(deadline_s=0.5), max_tokens=20))
    bench.drain()  # now it knows that they have 20 tokens: 280 ms
    bench.submit(*(a_goal(f"{i}", RealTime(deadline_s=0.6), max_tokens=20, submitted_s=bench.clock.now()) for i in range(5)))
    bench.turn()
    refused = [end for end in bench.ends if end.error_code is ErrorCode.INFEASIBLE]
    assert len(refused) == 3
    assert all("it would fit in" in end.error_msg for end in refused)
    bench.drain()
    assert all(end.report.attained for end in bench.ends if end not in refused)


def test_by_default_they_run_all_the_same():
    bench = Bench("slack")
    bench.submit(*(a_goal(f"{i}", RealTime(deadline_s=0.5), max_tokens=20) for i in range(5)))
    bench.drain()
    assert all(end.error_code is ErrorCode.NONE for end in bench.ends)


def test_a_refused_goal_is_a_failed_predecessor():
    bench = strict()
    bench.submit(a_goal("a", RealTime(tpot_ms=1)), a_goal("b", after=("a",)))
    bench.drain()
    assert bench.end("b").error_code is ErrorCode.PREDECESSOR_FAILED


def test_a_check_is_answered_with_its_id_and_changes_nothing():
    bench = Bench("slack")
    bench.scheduler.check("question", a_goal("q", CONTROL, max_tokens=8), 1)
    bench.drain()
    (answer,) = [event for event in bench.events if isinstance(event, Checked)]
    assert answer.check_id == "question"
    assert answer.prediction.fits
    assert not bench.ends
    assert not bench.scheduler.tasks
