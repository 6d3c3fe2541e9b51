"""Which drafts are taken: those that gain time under the latency model and make no promised goal late; and what is learnt of them."""

import math

import pytest
from builders import PAPER, VOICE, Bench, RealTime, a_goal, a_task

from slice_ros.engines.simulated import Lengths
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell
from slice_ros.scheduling.drafts import MISS, PRIOR, Drafts, Prospect, Tally
from slice_ros.scheduling.lengths import Lengths as Learnt
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies import Limits
from slice_ros.scheduling.policies.drafting import Row, draft_lengths
from slice_ros.scheduling.policies.slack import drafts_of

SAW_TOOTH = LatencyModel("four are as fast as one", (0.026, 0.027, 0.033, 0.026, 0.036, 0.049, 0.044, 0.046))
GPU = LatencyModel("rows are nearly free", tuple(0.020 + 0.0001 * rows for rows in range(32)))
LIMITS = Limits(max_draft=15)
SURE, FAIR, POOR = Prospect(0.98, 1.0), Prospect(0.5, 1.0), Prospect(0.02, 1.0)


def lengths(*prospects, latency, most_s=math.inf, most=15):
    rows = [None if prospect is None else Row(1.0, prospect, most, most_s) for prospect in prospects]
    return draft_lengths(rows, len(rows), latency.step_s(len(rows)), 0, 0, latency)


def test_a_draft_saves_the_steps_of_those_tokens_that_are_right_up_to_the_first_wrong_one():
    assert Prospect(0.5, 1.0).steps(3) == pytest.approx(0.5 + 0.25 + 0.125)
    assert Prospect(0.5, 0.25).steps(3) == pytest.approx(Prospect(0.5, 1.0).steps(3) / 4)
    assert Prospect(1.0, 1.0).steps(9) == pytest.approx(9.0, rel=0.01)
    assert Prospect(0.0, 1.0).steps(9) == 0.0


def test_where_a_row_costs_as_much_as_a_step_nothing_is_guessed():
    assert lengths(FAIR, latency=PAPER) == [0]
    assert lengths(FAIR, FAIR, FAIR, latency=PAPER) == [0, 0, 0]
    assert lengths(SURE, latency=PAPER) == [14], "beyond eight rows the published l(b) is flat"


def test_where_rows_are_nearly_free_as_much_is_guessed_as_may_be_right():
    assert lengths(SURE, latency=GPU) == [15]
    assert 4 < lengths(FAIR, latency=GPU)[0] < 10
    assert lengths(FAIR, SURE, latency=GPU)[1] == 15


def test_a_saw_tooth_is_filled_to_its_next_low_point():
    assert lengths(POOR, latency=SAW_TOOTH) == [3], "four tokens are as fast as one, so that even a poor guess gains"
    assert lengths(FAIR, latency=SAW_TOOTH) == [3]
    assert lengths(SURE, latency=SAW_TOOTH) == [7]
    assert lengths(FAIR, FAIR, latency=SAW_TOOTH) == [2, 0]


def test_a_draft_takes_no_more_time_than_the_step_may():
    assert lengths(SURE, latency=SAW_TOOTH, most_s=0.035) == [3]
    assert lengths(SURE, latency=SAW_TOOTH, most_s=0.0) == [3], "what makes the step no longer than it is does no harm"
    assert lengths(SURE, latency=GPU, most_s=0.0202) == [2]
    assert lengths(SURE, latency=GPU, most=2) == [2]


def test_a_row_whose_prompt_the_step_does_not_end_guesses_nothing():
    assert lengths(None, SURE, latency=GPU) == [0, 15]


def plan_drafts(tasks, *, laxity_s=math.inf, latency=GPU, now=0.0, drafts=None, waiting=()):
    """The drafts of a step that all these tasks take part in, all of them promised; others wait."""
    known = drafts or Drafts()
    if drafts is None:
        for _ in range(20):
            known.ended("test", Tally(10.0, 10.0, 10.0))
    jobs = [Outlook.of(task, now, latency, Learnt()) for task in tasks]
    others = [Outlook.of(task, now, latency, Learnt()) for task in waiting]
    for job in (*jobs, *others):
        job.is_promised = True
    return drafts_of([(job, job.prompt_left) for job in jobs], [*jobs, *others], now, laxity_s, known, latency, LIMITS)


def test_no_draft_makes_a_promised_goal_late_if_all_of_it_is_wrong():
    slow = LatencyModel("a row is half a step", tuple(0.020 + 0.004 * rows for rows in range(32)))
    writer = a_task("writer", VOICE, max_tokens=60)
    assert plan_drafts([writer], latency=slow)[0] > 3
    tight = a_task("tight", RealTime(deadline_s=25 * 0.020 + 0.030), max_tokens=25)  # may wait for a step, and hardly more
    (drafted,) = plan_drafts([writer], latency=slow, waiting=[tight])
    start_s = Outlook.of(tight, 0.0, slow, Learnt()).latest_s
    assert slow.step_s(1 + drafted, 1, 1) <= max(start_s, slow.step_s(1, 1, 1))
    assert drafted < plan_drafts([writer], latency=slow)[0]


def test_drafts_of_best_effort_goals_take_no_more_than_the_laxity():
    voice, control = a_task("voice", VOICE, max_tokens=60), a_task("control", RealTime(deadline_s=5.0))
    free = plan_drafts([control, voice])
    bound = plan_drafts([control, voice], laxity_s=0.0)
    assert free[1] > 0
    assert bound[0] == free[0]
    assert bound[1] == 0


def test_the_end_of_an_answer_is_not_guessed_beyond():
    task = a_task("g", VOICE, max_tokens=6)
    task.prompt_left, task.token_times_s = 0, [0.0, 0.1]
    assert plan_drafts([task]) == [3], "four tokens are left, of which the step draws one"


def test_guesses_of_a_kind_that_fare_badly_are_given_up_and_tried_again_much_later():
    drafts = Drafts()
    assert drafts.prospect("qa", Tally()) == (PRIOR, 1.0)
    for _ in range(10):
        drafts.ended("qa", Tally(20.0, 1.0, 1.0))
    assert drafts.prospect("qa", Tally()).chance < 0.1
    assert drafts.prospect("other", Tally()).chance == PRIOR
    for _ in range(150):
        drafts.ended("qa", Tally())
    assert drafts.prospect("qa", Tally()).chance > 0.4


def test_a_long_answer_counts_its_own_guesses_as_well():
    own, drafts = Tally(), Drafts()
    for _ in range(20):
        own.add(4, 4, 4)
    assert drafts.prospect("qa", own).chance > 0.9
    own = Tally()
    for _ in range(20):
        own.add(4, 0, 0)
    assert drafts.prospect("qa", own).chance < 0.2
    own = Tally()
    own.miss()
    assert own == Tally(MISS, 0.0, 0.0)


def test_what_forms_force_saves_no_steps_of_its_own():
    drafts = Drafts()
    for _ in range(20):
        drafts.ended("control", Tally(13.0, 12.0, 3.0))  # of four tokens one is drawn
    assert drafts.prospect("control", Tally()).saves == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("policy", ["slice", "orca", "fastserve", "priority"])
def test_other_policies_guess_nothing(policy):
    bench = Bench(policy, GPU, lengths={"g": Lengths(1, 20, guessed=1.0)})
    bench.submit(a_goal("g", max_tokens=20))
    bench.drain()
    assert bench.end("g").report.steps == 20


def test_the_default_policy_stops_guessing_where_it_is_always_wrong():
    bench = Bench("slack", LatencyModel("a row is a quarter of a step", tuple(0.020 + 0.005 * i for i in range(16))),
                  lengths={f"{i}": Lengths(1, 40, guessed=1e-9) for i in range(6)})  # fmt: skip
    drafted, step = [], bench.engine.step
    bench.engine.step = lambda column: drafted.append(column[0]) or step(column)
    for i in range(6):
        bench.submit(a_goal(f"{i}", max_tokens=40))
        bench.drain()
    assert sum(cell.drafted for cell in drafted) < 30
    assert not any(cell.drafted for cell in drafted[-40:])
    assert isinstance(drafted[0], Cell)
