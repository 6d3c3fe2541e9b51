"""The scheduler's promises: every goal ends exactly once, whatever happens meanwhile."""

import math
import threading
import time
from dataclasses import replace

import pytest
from builders import CONTROL, PAPER, QA, Bench, RealTime, StrictEngine, a_goal, a_task

from slice_ros.engines.paced import PacedEngine
from slice_ros.engines.simulated import Lengths, SimulatedEngine
from slice_ros.goal import ErrorCode, FinishReason, GoalError, TokenLogprob
from slice_ros.latency.model import LatencyModel
from slice_ros.latency.pace import Pace
from slice_ros.mask import DECODE, Cell, MaskMatrix
from slice_ros.scheduling.admission import Admission
from slice_ros.scheduling.engine import Output
from slice_ros.scheduling.events import Checked, Finished, Progress, Snapshot
from slice_ros.scheduling.lengths import FEW
from slice_ros.scheduling.lengths import Lengths as Lengths_
from slice_ros.scheduling.policies import POLICIES, make_policy
from slice_ros.scheduling.policies.base import next_cell
from slice_ros.scheduling.residency import LONGEST_COPY_S
from slice_ros.scheduling.scheduler import LONGEST_PAST, MOST_ROWS, Scheduler, next_due_s
from slice_ros.slo import BestEffort, OnMiss


class Fixed:
    """A policy that answers what a function says, and remembers what it was told."""

    name = "fixed"

    def __init__(self, plan):
        self._plan = plan
        self.plans = 0
        self.ends = []

    def plan(self, tasks, now, latency, limits):
        self.plans += 1
        return self._plan(tasks)

    def ended(self, task, *, completed):
        self.ends.append((task.goal_id, completed))


def everyone(columns=1):
    """All tasks decode in every column, as far as their prompts allow."""

    def plan(tasks):
        first = tuple(next_cell(task) for task in tasks)
        return MaskMatrix((first,) + (tuple(cell._replace(prompt_tokens=0) for cell in first),) * (columns - 1))

    return plan


# ---- forced tokens


@pytest.mark.parametrize("policy", POLICIES)
def test_forced_tokens_are_computed_with_the_next_decode(policy):
    bench = Bench(policy, lengths={"g": Lengths(4, 10, forced=3)})
    bench.submit(a_goal("g", max_tokens=20))
    columns = []
    step = bench.engine.step
    bench.engine.step = lambda column: columns.extend(column) or step(column)
    bench.drain()
    assert columns == [Cell("g", 4), Cell("g", 4, is_decode=True), Cell("g", 4, is_decode=True)]
    assert MaskMatrix((tuple(columns[:1]), tuple(columns[1:2]))).to_array().tolist() == [[4, -4]]
    assert (bench.end("g").report.output_tokens, bench.end("g").report.steps) == (10, 3)
    (snapshot,) = [event for event in bench.events if isinstance(event, Snapshot)][:1] or [bench.scheduler._snapshot(bench.clock.now())]
    assert snapshot.tokens_per_step == pytest.approx(10 / 3)


class Drafting(Fixed):
    """Everyone decodes, and guesses so much ahead."""

    def __init__(self, drafted):
        super().__init__(lambda tasks: MaskMatrix((tuple(Cell(task.goal_id, task.prompt_left, drafted=drafted) for task in tasks),)))


def traced(bench):
    columns, step = [], bench.engine.step
    bench.engine.step = lambda column: columns.append(column) or step(column)
    return columns


def test_a_draft_that_is_right_brings_its_tokens_in_one_step_and_none_beyond_the_end():
    bench = Bench(Drafting(4), lengths={"g": Lengths(3, 12, guessed=1.0)})
    bench.submit(a_goal("g", max_tokens=20, prompt_tokens=3))
    columns = traced(bench)
    bench.drain()
    assert [column[0] for column in columns] == [Cell("g", 3, drafted=4), Cell("g", 0, drafted=4), Cell("g", 0, drafted=1)]
    report = bench.end("g").report
    assert (report.output_tokens, report.steps) == (12, 3)
    snapshot = bench.scheduler._snapshot(bench.clock.now())
    assert (snapshot.drafted_per_step, snapshot.draft_acceptance) == (3.0, 1.0)
    assert snapshot.mask.cells.tolist() == [[7, -5, -2]]


def test_what_a_draft_forces_too_is_computed_in_the_next_step():
    bench = Bench(Drafting(4), lengths={"g": Lengths(1, 12, forced=2, guessed=1.0)})
    bench.submit(a_goal("g", max_tokens=20))
    columns = traced(bench)
    bench.drain()  # two bursts of three tokens, of which four were guessed
    assert [column[0] for column in columns] == [Cell("g", 1, drafted=4), Cell("g", 2, is_decode=True, drafted=4)]
    assert bench.end("g").report.output_tokens == 12


def test_guesses_that_are_wrong_cost_time_and_nothing_else():
    bench = Bench(Drafting(3), lengths={"g": Lengths(1, 6, guessed=1e-9)})
    bench.submit(a_goal("g", max_tokens=20))
    columns = traced(bench)
    bench.drain()
    report = bench.end("g").report
    assert (report.output_tokens, report.steps) == (6, 6)
    drafted = [column[0].drafted for column in columns]
    assert drafted == [3, 3, 3, 2, 1, 0]
    assert report.e2e_s == pytest.approx(sum(PAPER.step_s(1 + tokens) for tokens in drafted))


def test_drafts_take_what_prompts_leave_of_a_step():
    bench = Bench(Drafting(9), lengths={"g": Lengths(6, 20, guessed=1.0), "h": Lengths(1, 20, guessed=1.0)}, max_step_tokens=10)
    bench.submit(a_goal("g", max_tokens=20, prompt_tokens=6), a_goal("h", max_tokens=20))
    columns = traced(bench)
    bench.turn()
    assert columns == [(Cell("g", 6, drafted=3), Cell("h", 1))]


def test_without_max_draft_or_an_engine_that_can_forget_nothing_is_guessed():
    for max_draft, guessed in ((0, 1.0), (15, 0.0)):
        bench = Bench("slack", FAST_ROWS, lengths={"g": Lengths(1, 30, guessed=guessed)})
        if not max_draft:
            bench.scheduler.set_max_draft(0)
        bench.submit(a_goal("g", max_tokens=30))
        columns = traced(bench)
        bench.drain()
        assert [column[0].drafted for column in columns] == [0] * 30


FAST_ROWS = LatencyModel("rows are nearly free", tuple(0.020 + 0.0001 * rows for rows in range(16)))


def test_what_drafts_save_is_learnt_so_that_predictions_count_steps():
    bench = Bench("slack", FAST_ROWS, lengths={f"{i}": Lengths(1, 24, guessed=1.0) for i in range(12)})
    for i in range(12):
        bench.submit(a_goal(f"{i}", RealTime(deadline_s=5.0), max_tokens=24, submitted_s=bench.clock.now()))
        bench.drain()
    first, last = bench.end("0").report, bench.end("11").report
    assert last.steps <= 4
    assert last.predicted_e2e_s < first.predicted_e2e_s / 2


def test_the_lead_is_computed_with_the_prompt_and_is_no_part_of_it():
    bench = Bench()
    bench.engine.lead = lambda goal_id: 5
    bench.submit(a_goal("g", prompt_tokens=4, max_tokens=8))
    bench.scheduler._take_inbox()
    (task,) = bench.scheduler.tasks
    assert (task.prompt_left, task.kv_tokens, task.known_tokens) == (9, 0, 9)
    assert task.report(completed=False).prompt_tokens == 4


def test_steps_of_a_kind_that_forces_tokens_are_predicted():
    bench = Bench("slack", lengths={f"{i}": Lengths(1, 12, forced=3) for i in range(FEW + 1)})
    for name in map(str, range(FEW + 1)):
        bench.submit(a_goal(name, RealTime(deadline_s=5.0), max_tokens=20, submitted_s=bench.clock.now()))
        bench.drain()
    first, last = bench.end("0").report, bench.end(str(FEW)).report
    assert last.predicted_e2e_s < first.predicted_e2e_s / 3  # of 20 tokens, one a step; of 12, four a step
    assert last.e2e_s == pytest.approx(last.predicted_e2e_s)


# ---- ends


def test_a_goal_that_the_engine_cannot_go_on_with_ends_and_the_others_go_on():
    bench = Bench(Fixed(everyone()))
    step = bench.engine.step

    def failing(column):
        outputs = step(column)
        if bench.tokens("a") == 2:
            outputs = [
                Output("a", "", error=GoalError(ErrorCode.INVALID_GRAMMAR, "too slow")) if output.goal_id == "a" else output
                for output in outputs
            ]
        return outputs

    bench.engine.step = failing
    bench.submit(a_goal("a", max_tokens=5), a_goal("b", max_tokens=5))
    bench.drain()
    assert (bench.end("a").error_code, bench.end("a").error_msg) == (ErrorCode.INVALID_GRAMMAR, "too slow")
    assert bench.end("a").report.output_tokens == bench.tokens("a") == 2
    assert bench.end("b").error_code is ErrorCode.NONE
    assert bench.tokens("b") == 5


@pytest.mark.parametrize("policy", POLICIES)
def test_every_goal_ends_exactly_once_with_all_its_tokens(policy):
    lengths = {f"g{i}": Lengths(1 + 7 * i % 50, 1 + i % 9) for i in range(40)}
    bench = Bench(policy, lengths=lengths)
    for i in range(40):
        bench.submit(a_goal(f"g{i}", CONTROL if i % 2 else QA, max_tokens=25))
        bench.turn(i % 4)
    bench.drain()
    assert sorted(end.goal_id for end in bench.ends) == sorted(lengths)
    assert all(end.error_code is ErrorCode.NONE for end in bench.ends)
    assert {goal_id: bench.tokens(goal_id) for goal_id in lengths} == {goal_id: length.output_tokens for goal_id, length in lengths.items()}
    assert bench.engine.kv.used == 0


def test_it_says_why_a_goal_ended():
    bench = Bench(lengths={"short": Lengths(1, 3)})
    bench.submit(a_goal("short", max_tokens=8), a_goal("long", max_tokens=8))
    bench.drain()
    assert bench.end("short").reason is FinishReason.STOP
    assert bench.end("long").reason is FinishReason.LENGTH
    assert {end.error_msg for end in bench.ends} == {""}


def test_a_goal_that_cannot_be_prepared_is_refused_at_once_and_leaves_no_trace():
    bench = Bench(context_tokens=100)
    with pytest.raises(GoalError, match="exceed the context of 100 tokens"):
        bench.submit(a_goal("big", prompt_tokens=99, max_tokens=50))
    bench.drain()
    assert not bench.ends


def test_progress_comes_before_the_end_and_counts_up():
    bench = Bench()
    bench.submit(a_goal("g", max_tokens=5))
    bench.drain()
    events = [event for event in bench.events if not isinstance(event, Snapshot)]
    assert [event.report.output_tokens for event in events] == [1, 2, 3, 4, 5, 5]
    assert [type(event) for event in events] == [Progress] * 5 + [Finished]


def test_tokens_are_timed_where_they_are_produced():
    bench = Bench(latency=LatencyModel("d", (0.010, 0.020), prompt_token_s=0.001))
    bench.submit(a_goal("g", prompt_tokens=30, max_tokens=3))
    bench.drain()
    report = bench.end("g").report
    assert (report.ttft_s, report.tpot_s, report.e2e_s) == pytest.approx((0.040, 0.010, 0.060))


def test_a_goal_that_is_refused_leaves_nothing_in_the_engine_and_fails_those_that_name_it():
    bench = Bench()
    bench.submit(a_goal("a", after=("nobody",)), a_goal("b", after=("a",)))
    bench.drain()
    assert [(end.goal_id, end.error_code) for end in bench.ends] == [
        ("a", ErrorCode.UNKNOWN_GOAL),
        ("b", ErrorCode.PREDECESSOR_FAILED),
    ]
    assert not bench.engine._sequences
    assert not bench.scheduler.tasks


# ---- cancel


def test_a_canceled_goal_ends_once_with_the_reason_and_the_others_go_on():
    bench = Bench()
    bench.submit(a_goal("a"), a_goal("b"))
    bench.turn(2)
    bench.scheduler.cancel("a", ErrorCode.CANCELED, "not needed any more")
    bench.drain()
    assert (bench.end("a").error_code, bench.end("a").error_msg) == (ErrorCode.CANCELED, "not needed any more")
    assert (bench.tokens("a"), bench.tokens("b")) == (2, 8)
    assert bench.engine.kv.used == 0


def test_a_goal_may_be_canceled_before_its_first_step():
    bench = Bench()
    bench.submit(a_goal("a"))
    bench.scheduler.cancel("a")
    bench.drain()
    assert (bench.end("a").error_code, bench.end("a").error_msg) == (ErrorCode.CANCELED, "the goal was canceled")
    assert math.isnan(bench.end("a").report.ttft_s)


def test_to_cancel_what_has_ended_or_never_was_changes_nothing():
    bench = Bench()
    bench.submit(a_goal("a"))
    bench.drain()
    bench.scheduler.cancel("a")
    bench.scheduler.cancel("never was")
    bench.submit(a_goal("b"))
    bench.drain()
    assert [(end.goal_id, end.error_code) for end in bench.ends] == [("a", ErrorCode.NONE), ("b", ErrorCode.NONE)]


def hang_up(bench, goal_id, turns, **fields):
    """A goal whose client has had enough after so many tokens."""
    bench.submit(a_goal(goal_id, label="kind", max_tokens=40, submitted_s=bench.clock.now(), **fields))
    bench.turn(turns)
    bench.scheduler.cancel(goal_id)
    bench.scheduler.turn()


def test_where_most_clients_hang_up_in_time_answers_may_be_as_short_and_as_long_as_ever():
    bench = Bench(Fixed(everyone()), lengths={})
    lengths = bench.scheduler._experience.lengths
    for number in range(FEW):
        hang_up(bench, f"{number}", 7, slo=CONTROL)
    assert lengths.at_least("kind", 0, 40, 0.02) == 7
    assert lengths.at_most("kind", 0, 40, 0.02) == 40
    assert lengths.expected("kind", 0, 40) == Lengths_().expected("kind", 0, 40)
    for number in range(FEW, 3 * FEW):
        bench.submit(a_goal(f"{number}", label="kind", max_tokens=40))
    bench.drain()
    assert lengths.at_least("kind", 0, 40, 0.02) == 40, "most answers come to their end"


@pytest.mark.parametrize(
    ("fields", "turns"),
    [
        ({"slo": CONTROL}, 0),
        ({"slo": BestEffort(deadline_s=0.1)}, 30),
        ({"slo": BestEffort(tpot_ms=1.0)}, 4),
        ({"slo": BestEffort()}, 4),
    ],
    ids=["no token", "late", "slow", "no bound"],
)
def test_a_goal_that_is_canceled_for_another_reason_says_nothing_of_lengths(fields, turns):
    bench = Bench(Fixed(everyone()), lengths={})
    for number in range(2 * FEW):
        hang_up(bench, f"{number}", turns, **fields)
    assert bench.scheduler._experience.lengths.at_least("kind", 0, 40, 0.02) == 1


def test_a_goal_that_is_canceled_while_it_reasons_has_no_answer():
    bench, task = Bench(), a_task("a", CONTROL)
    task.token_times_s = [0.0, 0.01]
    assert bench.scheduler._had_enough(task, ErrorCode.CANCELED)
    assert not bench.scheduler._had_enough(task, ErrorCode.SUPERSEDED)
    task.is_reasoning = True
    assert not bench.scheduler._had_enough(task, ErrorCode.CANCELED)


def test_cancelling_every_goal_of_a_matrix_leaves_no_column_to_compute():
    policy = Fixed(everyone(10))
    bench = Bench(policy)
    bench.submit(a_goal("a"), a_goal("b"))
    bench.turn()
    bench.scheduler.cancel("a")
    bench.scheduler.cancel("b")
    assert not bench.scheduler.turn()
    assert len(bench.ends) == 2
    assert policy.ends == [("a", False), ("b", False)]


# ---- plans


def test_a_matrix_is_scanned_to_its_end_before_the_policy_is_asked_again():
    policy = Fixed(everyone(4))
    bench = Bench(policy)
    bench.submit(a_goal("a", max_tokens=100))
    bench.turn(4)
    assert policy.plans == 1
    bench.turn()
    assert policy.plans == 2


def test_arrival_and_cancellation_ask_for_a_new_plan():
    policy = Fixed(everyone(100))
    bench = Bench(policy)
    bench.submit(a_goal("a", max_tokens=100))
    bench.turn(2)
    bench.submit(a_goal("b", max_tokens=100))
    bench.turn(2)
    assert policy.plans == 2
    bench.scheduler.cancel("b")
    bench.turn(2)
    assert policy.plans == 3


def test_a_completion_asks_for_a_new_plan():
    policy = Fixed(everyone(100))
    bench = Bench(policy)
    bench.submit(a_goal("a", max_tokens=2), a_goal("b", max_tokens=100))
    bench.turn(3)
    assert policy.plans == 2
    assert policy.ends == [("a", True)]


def test_steps_that_take_longer_than_planned_ask_for_a_new_plan():
    policy = Fixed(everyone(100))
    bench = Bench(policy)
    bench.scheduler._pace = Pace(LatencyModel("optimist", (0.007,)))  # the engine takes 14 ms
    bench.submit(a_goal("a", max_tokens=100))
    bench.turn(10)
    assert 2 <= policy.plans <= 6  # after 10 ms of drift: every other step


def test_steps_that_take_what_was_planned_do_not():
    policy = Fixed(everyone(100))
    bench = Bench(policy)
    bench.submit(a_goal("a", max_tokens=100))
    bench.turn(50)
    assert policy.plans == 1


@pytest.mark.parametrize(("taken_s", "plans"), [(0.0135, 2), (0.0065, 2), (0.012, 1), (0.008, 1)])
def test_a_plan_is_thrown_away_after_10_ms_of_drift_that_are_a_quarter_of_it(taken_s, plans):
    policy = Fixed(everyone(100))
    bench = Bench(policy, LatencyModel("as it is", (taken_s,)))
    bench.scheduler._pace = Pace(LatencyModel("as planned", (0.010,)))
    bench.submit(a_goal("a", max_tokens=100))
    bench.turn(3)
    assert policy.plans == 1
    bench.turn()
    assert policy.plans == plans
    if plans == 1:
        bench.turn(20)
        assert policy.plans == 1


@pytest.mark.parametrize("matrix", [MaskMatrix(), MaskMatrix(((),))], ids=["no columns", "an empty column"])
def test_a_policy_without_an_answer_does_not_stop_the_world(matrix):
    bench = Bench(Fixed(lambda tasks: matrix))
    bench.submit(a_goal("a"), a_goal("b"))
    bench.drain()
    assert [end.goal_id for end in bench.ends] == ["a", "b"]


def test_the_policy_can_be_changed_while_goals_run():
    bench = Bench("orca")
    bench.submit(*(a_goal(f"g{i}", max_tokens=20) for i in range(5)))
    bench.turn(3)
    bench.scheduler.set_policy(make_policy("slice"))
    bench.turn(3)
    bench.scheduler.set_policy(make_policy("fastserve"))
    bench.drain()
    assert len(bench.ends) == 5
    assert all(bench.tokens(f"g{i}") == 20 for i in range(5))


def test_a_smaller_batch_holds_from_the_next_plan_on_and_none_exceeds_the_engine():
    bench = Bench("orca", max_sequences=3)
    bench.submit(*(a_goal(f"g{i}", max_tokens=20) for i in range(5)))
    bench.turn()
    assert len(bench.scheduler.matrix.rows) == 3
    bench.scheduler.set_max_batch(2)
    bench.turn()
    assert len(bench.scheduler.matrix.rows) == 2
    bench.scheduler.set_max_batch(99)
    bench.turn()
    assert len(bench.scheduler.matrix.rows) == 3


def test_a_prompt_longer_than_a_step_is_computed_in_chunks():
    bench = Bench(max_step_tokens=64)
    bench.submit(a_goal("a", prompt_tokens=150, max_tokens=4))
    bench.turn(2)
    assert bench.tokens("a") == 0
    bench.turn()
    assert bench.tokens("a") == 1
    bench.drain()
    assert bench.tokens("a") == 4


def test_prompts_share_a_step_in_their_order_and_everyone_has_a_token():
    bench = Bench(Fixed(everyone()), max_step_tokens=64)
    bench.submit(a_goal("a", prompt_tokens=50), a_goal("b", prompt_tokens=50), a_goal("c", prompt_tokens=50))
    bench.turn()
    assert [task.prompt_left for task in bench.scheduler.tasks] == [0, 37, 49]  # 50 + 13 + 1
    bench.turn()
    assert [task.prompt_left for task in bench.scheduler.tasks] == [0, 0, 23]  # 1 + 37 + 26


def test_a_step_holds_no_more_goals_than_tokens():
    bench = Bench(Fixed(everyone()), max_step_tokens=3)
    bench.submit(*(a_goal(f"g{i}") for i in range(5)))
    bench.turn()
    assert [bench.tokens(f"g{i}") for i in range(5)] == [1, 1, 1, 0, 0]


def test_what_the_engine_has_computed_already_is_not_computed_again_and_is_reported():
    bench = Bench(latency=LatencyModel("d", (0.010,), prompt_token_s=0.001))
    engine = bench.engine

    def found(tokens):
        engine._sequences["g"].prompt_left -= tokens
        return tokens

    opened = engine.open
    engine.open = lambda goal_id, copy_s: opened(goal_id, copy_s) + found(30)  # of a prompt that began alike
    engine.reuse = lambda goal_id: found(8) if goal_id == "g" else 0  # and that another goal has computed meanwhile
    bench.submit(a_goal("g", prompt_tokens=40, max_tokens=3))
    bench.drain()
    report = bench.end("g").report
    assert (report.prompt_tokens, report.cached_tokens) == (40, 38)
    assert report.ttft_s == pytest.approx(0.010 + 0.002)


def test_a_policy_is_told_what_would_be_left_to_compute_if_a_waiting_goal_were_opened_now():
    seen = []
    bench = Bench(Fixed(lambda tasks: seen.append([task.prompt_left for task in tasks]) or MaskMatrix(((next_cell(tasks[0]),),))))
    cached = {"first": 5, "second": 10}
    bench.engine.cached = cached.__getitem__
    bench.submit(a_goal("first", prompt_tokens=40), a_goal("second", prompt_tokens=40))
    bench.turn()
    cached["second"] = 39
    bench.turn()
    assert seen == [[35, 30], [5, 1]]  # the first is open: nothing was found for it, and 35 are computed


def test_the_oldest_goal_moves_on_where_there_is_no_room_for_those_that_the_policy_chose():
    bench = Bench(Fixed(lambda tasks: MaskMatrix(((next_cell(tasks[-1]),),))), context_tokens=100)
    bench.submit(a_goal("old", CONTROL, max_tokens=90))
    bench.turn()
    bench.submit(a_goal("new", QA, max_tokens=50))
    bench.turn(5)
    assert (bench.tokens("old"), bench.tokens("new")) == (6, 0)


def test_a_tokens_probability_is_passed_on():
    bench = Bench()
    step = bench.engine.step
    bench.engine.step = lambda column: [output._replace(logprobs=(TokenLogprob("x", -0.5),)) for output in step(column)]
    bench.submit(a_goal("g", max_tokens=1))
    bench.drain()
    (progress,) = (event for event in bench.events if isinstance(event, Progress))
    assert progress.logprobs == (TokenLogprob("x", -0.5),)


@pytest.mark.parametrize(("deadline_s", "copy_s"), [(0.4, 0.0386), (100.0, 0.1)])
def test_copies_of_kv_have_a_tenth_of_the_least_slack_of_the_real_time_goals(deadline_s, copy_s):
    bench = Bench(Fixed(everyone()))
    given = []
    opened = bench.engine.open
    bench.engine.open = lambda goal_id, copy_s: given.append((goal_id, copy_s)) or opened(goal_id, copy_s)
    bench.submit(a_goal("be"), a_goal("rt", RealTime(deadline_s=deadline_s), max_tokens=1), a_goal("rt2", RealTime(deadline_s=200.0)))
    bench.turn()  # one token takes 14 ms
    assert given == [(name, pytest.approx(copy_s)) for name in ("be", "rt", "rt2")]


@pytest.mark.parametrize(("copy_token_s", "copied"), [(0.0004, True), (0.0006, False)])
def test_kv_is_copied_only_where_that_is_quicker_than_to_compute_it_again(copy_token_s, copied):
    """A token of a prompt takes a millisecond; a copy goes out and comes back."""

    class Copying(StrictEngine):
        copy_token_s = property(lambda _: copy_token_s)

    bench = Bench(latency=replace(PAPER, prompt_token_s=0.001), lengths={"be": Lengths(20, 40)}, context_tokens=100)
    bench.engine.__class__ = Copying
    given = []
    evict, opened = bench.engine.evict, bench.engine.open
    bench.engine.evict = lambda goal_id, copy_s: given.append(("evict", goal_id, copy_s > 0.0)) or evict(goal_id, copy_s)
    bench.engine.open = lambda goal_id, copy_s: given.append(("open", goal_id, copy_s > 0.0)) or opened(goal_id, copy_s)
    bench.submit(a_goal("be", QA, max_tokens=40))
    bench.turn(11)
    bench.submit(a_goal("rt", CONTROL, prompt_tokens=20, max_tokens=60))
    bench.scheduler.set_policy(Fixed(lambda tasks: MaskMatrix(((next_cell(tasks[-1]),),))))
    bench.turn()
    assert given == [("open", "be", copied), ("evict", "be", copied), ("open", "rt", copied)]


def test_a_goal_that_gets_back_less_than_was_kept_of_it_is_planned_anew():
    """Its prompt was to be one token long; what is missing of it is no decode."""
    bench = Bench(Fixed(everyone()))
    bench.engine.cached = lambda _: 30  # though open() finds nothing
    bench.submit(a_goal("g", prompt_tokens=31))
    bench.turn()
    assert not bench.scheduler._matrix.columns
    bench.engine.cached = lambda _: 0
    bench.drain()
    assert bench.tokens("g") == 8


def test_snapshots_show_the_matrix_in_force():
    bench = Bench("slice")
    bench.submit(a_goal("a", CONTROL, max_tokens=100), a_goal("b", QA, max_tokens=100))
    bench.turn(60)
    snapshot = [event for event in bench.events if isinstance(event, Snapshot)][-1]
    assert (snapshot.policy, snapshot.running, snapshot.queued) == ("slice", 2, 0)
    assert snapshot.mask.goal_ids == ("a", "b")
    assert snapshot.mask.real_time == (True, False)
    assert snapshot.mask.cells[:, -1].tolist() == [DECODE, 0]  # packed to the left: only the faster one is in the cycle's last column
    assert snapshot.kv_used > 0


def test_a_snapshot_counts_what_happened_since_the_one_before():
    bench = Bench(Fixed(everyone(100)), LatencyModel("10 ms", (0.010,)))
    bench.submit(a_goal("a", max_tokens=1000), a_goal("b", max_tokens=1000))
    bench.turn(120)
    first, second = (event for event in bench.events if isinstance(event, Snapshot))
    assert (first.steps, second.steps) == (50, 100)  # each step takes 10 ms, a snapshot is due after 500
    for snapshot in (first, second):
        assert (snapshot.step_s, snapshot.step_predicted_s, snapshot.step_calibrated_s) == pytest.approx((0.010, 0.010, 0.010))
        assert snapshot.tokens_per_s == pytest.approx(200.0)
        assert (snapshot.policy, snapshot.queued, snapshot.running) == ("fixed", 0, 2)
    assert (second.kv_used, second.kv_cached, second.kv_parked_bytes, second.kv_total) == (2 * 101, 0, 0, 32768)  # a prompt token each


def test_kv_tokens_count_in_what_a_step_is_said_to_take():
    bench = Bench(Fixed(everyone(100)), LatencyModel("KV", (0.010,), prompt_token_s=0.001, kv_token_s=0.001))
    bench.submit(a_goal("a", prompt_tokens=20, max_tokens=1000))
    bench.turn(40)
    (snapshot, *_) = (event for event in bench.events if isinstance(event, Snapshot))
    assert snapshot.step_s > 0.030
    assert snapshot.step_calibrated_s == pytest.approx(snapshot.step_s)


def test_a_snapshot_of_an_idle_scheduler_has_no_step_to_tell_of():
    bench = Bench()
    bench.clock.advance(0.6)
    assert not bench.scheduler.turn()
    (snapshot,) = bench.events
    assert (snapshot.queued, snapshot.running, snapshot.steps, snapshot.tokens_per_s) == (0, 0, 0, 0.0)
    assert math.isnan(snapshot.step_s)
    assert math.isnan(snapshot.step_predicted_s)
    assert math.isnan(snapshot.step_calibrated_s)
    assert snapshot.mask.cells.shape == (0, 0)


def test_a_snapshot_shows_the_latest_steps_the_goals_that_took_part_and_when_their_next_token_is_due():
    bench = Bench(Fixed(everyone(100)), LatencyModel("10 ms", (0.010,)))
    bench.submit(
        a_goal("gone", QA, max_tokens=40),
        a_goal("late", RealTime(deadline_s=2.0), max_tokens=1000, label="drive"),
        a_goal("even", BestEffort(ttft_ms=700, tpot_ms=100), max_tokens=1000),
        a_goal("free", BestEffort(), max_tokens=1000),
    )
    bench.turn(50)
    (snapshot,) = (event for event in bench.events if isinstance(event, Snapshot))
    mask = snapshot.mask
    assert mask.goal_ids == ("gone", "late", "even", "free")
    assert mask.kinds == ("best_effort", "drive", "best_effort", "best_effort")
    assert mask.real_time == (False, True, False, False)
    assert mask.cursor == 50
    assert mask.cells[0, :41].tolist() == [1] + [DECODE] * 39 + [0]
    assert mask.cells[1, :51].tolist() == [1] + [DECODE] * 50
    assert math.isnan(mask.slack_s[0]), "it has ended"
    assert mask.slack_s[1:] == pytest.approx((1.5, 0.010 + 50 * 0.100 - 0.5, math.inf))


def test_a_snapshot_shows_no_more_than_the_latest_goals_and_steps():
    bench = Bench("orca", LatencyModel("1 ms", (0.001,)))
    bench.submit(*(a_goal(f"g{i}", max_tokens=600) for i in range(MOST_ROWS + 6)))
    bench.turn(500)
    (snapshot,) = (event for event in bench.events if isinstance(event, Snapshot))
    assert snapshot.mask.goal_ids == tuple(f"g{i}" for i in range(6, MOST_ROWS + 6))
    assert (snapshot.mask.cursor, snapshot.mask.cells.shape[0]) == (LONGEST_PAST, MOST_ROWS)
    assert (snapshot.running, snapshot.queued) == (16, MOST_ROWS - 10)


@pytest.mark.parametrize(
    ("slo", "before_the_first", "after_three"),
    [
        (BestEffort(), math.inf, math.inf),
        (RealTime(deadline_s=2.0), 3.0, 3.0),
        (RealTime(ttft_ms=500), 1.5, math.inf),
        (RealTime(ttft_ms=500, deadline_s=0.6), 1.5, 1.6),
        (BestEffort(ttft_ms=500, tpot_ms=100), 1.5, 1.2 + 0.3),
        (RealTime(tpot_ms=100, deadline_s=0.45), 1.45, 1.45),
    ],
)
def test_the_next_token_is_due_under_whichever_bound_comes_first(slo, before_the_first, after_three):
    task = a_task("t", slo, arrival_s=1.0)
    assert next_due_s(task) == pytest.approx(before_the_first)
    task.token_times_s = [1.2, 1.25, 1.3]
    assert next_due_s(task) == pytest.approx(after_three)


def test_nothing_is_predicted_for_a_goal_that_waits_for_another_nor_is_it_refused():
    bench = Bench(lengths={"a": Lengths(1, 3), "b": Lengths(1, 3)})
    bench.scheduler.set_admission(Admission.STRICT)
    bench.submit(a_goal("a"), a_goal("b", RealTime(tpot_ms=1), after=("a",)), a_goal("c", RealTime(tpot_ms=1)))
    bench.drain()
    assert {end.goal_id: end.error_code for end in bench.ends} == {
        "a": ErrorCode.NONE,
        "b": ErrorCode.NONE,
        "c": ErrorCode.INFEASIBLE,
    }
    assert bench.end("a").report.predicted_e2e_s > 0.0
    assert math.isnan(bench.end("b").report.predicted_e2e_s)


# ---- checks


def test_a_check_answers_and_leaves_nothing_in_the_engine():
    bench = Bench()
    bench.submit(a_goal("busy", max_tokens=50))
    bench.turn(2)
    bench.scheduler.check("q", a_goal("asked", RealTime(deadline_s=5.0), prompt_tokens=4))
    bench.turn()
    (answer,) = (event for event in bench.events if isinstance(event, Checked))
    assert answer.check_id == "q"
    assert answer.prediction.fits
    assert [task.goal_id for task in bench.scheduler.tasks] == ["busy"]
    assert set(bench.engine._sequences) == {"busy"}


def test_a_check_may_give_the_length_of_the_prompt_instead_of_the_prompt():
    bench = Bench(latency=LatencyModel("d", (0.010,), prompt_token_s=0.001))
    bench.engine.prepare = lambda _: pytest.fail("there is no prompt to prepare")
    bench.scheduler.check("q", a_goal("asked", RealTime(ttft_ms=1000)), 300)
    bench.turn()
    (answer,) = (event for event in bench.events if isinstance(event, Checked))
    assert answer.prediction.ttft_s == pytest.approx(0.310)


# ---- SLO misses


def test_a_goal_that_asks_for_it_ends_as_soon_as_its_slo_is_out_of_reach():
    bench = Bench()
    bench.clock.advance(1.0)
    bench.submit(
        a_goal("abort", RealTime(deadline_s=0.5, on_miss=OnMiss.ABORT), max_tokens=1000, submitted_s=1.0),
        a_goal("go on", RealTime(deadline_s=0.5), max_tokens=100, submitted_s=1.0),
    )
    bench.drain()
    assert bench.end("abort").error_code is ErrorCode.SLO_MISSED
    assert 10 < bench.tokens("abort") <= 20
    assert bench.end("abort").error_msg == f"the SLO is out of reach 0.513 s after the goal was sent, with {bench.tokens('abort')} tokens"
    assert bench.end("go on").error_code is ErrorCode.NONE
    assert not bench.end("go on").report.attained


def test_such_a_goal_does_not_wait_for_the_bound_to_pass():
    bench = Bench(latency=LatencyModel("d", (0.014,), prompt_token_s=0.001))
    soon = {"on_miss": OnMiss.ABORT}
    bench.submit(
        a_goal("first", BestEffort(), prompt_tokens=50, max_tokens=8),  # 64 ms
        a_goal("prompt", RealTime(ttft_ms=110, **soon), prompt_tokens=100),  # 114 ms alone
        a_goal("in time", RealTime(ttft_ms=120, **soon), prompt_tokens=100),
        a_goal("deadline", RealTime(deadline_s=0.013, **soon), max_tokens=1),
    )
    bench.scheduler.set_policy(Fixed(lambda tasks: MaskMatrix(((next_cell(max(tasks, key=lambda task: task.prompt_tokens)),),))))
    bench.turn()
    assert {end.goal_id: end.error_code for end in bench.ends} == dict.fromkeys(("prompt", "deadline"), ErrorCode.SLO_MISSED)
    assert bench.tokens("in time") == 1
    assert "out of reach 0.000 s after the goal was sent" in bench.end("deadline").error_msg


# ---- KV cells


def test_best_effort_goals_give_way_the_youngest_first_when_the_kv_cells_run_out():
    bench = Bench(lengths={f"be{i}": Lengths(20, 40) for i in range(3)}, context_tokens=200)
    bench.submit(*(a_goal(f"be{i}", QA, max_tokens=40) for i in range(3)))  # 60 of 200 cells each
    bench.turn(5)
    evicted = []
    evict = bench.engine.evict
    bench.engine.evict = lambda goal_id, copy_s: evicted.append((goal_id, copy_s)) or evict(goal_id, copy_s)
    bench.scheduler.set_policy(Fixed(lambda tasks: MaskMatrix(((next_cell(tasks[-1]),),))))
    bench.submit(a_goal("rt", RealTime(deadline_s=3.0), prompt_tokens=20, max_tokens=60))
    bench.turn()
    assert evicted == [("be2", pytest.approx(LONGEST_COPY_S))]
    bench.scheduler.set_policy(make_policy("orca"))
    bench.drain()
    assert len(bench.ends) == 4
    assert all(bench.tokens(f"be{i}") == 40 for i in range(3))  # an evicted goal loses no token


def test_what_an_evicted_goal_computes_again_is_planned():
    def plan(tasks):
        goals = {task.goal_id: task for task in tasks}
        if "rt" not in goals:
            return everyone()(tasks)
        return MaskMatrix(((next_cell(goals["rt"]),), (Cell("young", min(8, goals["young"].prompt_left)),)))

    bench = Bench(Fixed(plan), context_tokens=100)
    bench.submit(a_goal("old", prompt_tokens=30, max_tokens=20), a_goal("young", prompt_tokens=30, max_tokens=20))
    bench.turn()
    columns = []
    step = bench.engine.step
    bench.engine.step = lambda column: columns.append(column) or step(column)
    bench.submit(a_goal("rt", CONTROL, prompt_tokens=1, max_tokens=20))
    bench.turn(4)
    assert columns[1:] == [(Cell("rt"),), (Cell("young", 8),), (Cell("rt"),)]


@pytest.mark.parametrize(("adapter", "max_batch"), [("x", 16), ("", 1)], ids=["another adapter", "one row"])
def test_no_real_time_goal_gives_way_to_a_best_effort_one(adapter, max_batch):
    bench = Bench("slack", context_tokens=100)
    bench.scheduler.set_max_batch(max_batch)
    evicted = []
    evict = bench.engine.evict
    bench.engine.evict = lambda goal_id, copy_s: evicted.append(goal_id) or evict(goal_id, copy_s)
    bench.submit(a_goal("be", BestEffort(), max_tokens=60, adapter=adapter))  # owed steps from 0.7 s on, with no room for it
    bench.submit(*(a_goal(f"rt{i}", RealTime(deadline_s=20.0), max_tokens=60) for i in range(12)))
    bench.drain()
    assert set(evicted) <= {"be"}
    assert all(bench.end(f"rt{i}").report.attained for i in range(12))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_that_finds_no_room_is_tried_again_without_the_goal_that_can_wait_longest(policy):
    bench = Bench(policy, lengths={f"g{i}": Lengths(20, 24) for i in range(6)}, context_tokens=1000, cells=100)
    bench.submit(*(a_goal(f"g{i}", CONTROL if i == 5 else QA, max_tokens=24) for i in range(6)))  # 264 cells of 100
    bench.drain()
    assert all(end.error_code is ErrorCode.NONE for end in bench.ends)
    assert [bench.tokens(f"g{i}") for i in range(6)] == [24] * 6


def test_the_youngest_best_effort_goal_gives_way_when_a_step_finds_no_room():
    bench = Bench("orca", lengths={name: Lengths(20, 24) for name in ("old", "young", "urgent")}, context_tokens=1000, cells=64)
    evicted = []
    evict = bench.engine.evict
    bench.engine.evict = lambda goal_id, copy_s: evicted.append((goal_id, copy_s)) or evict(goal_id, copy_s)
    bench.submit(a_goal("old", QA, max_tokens=24), a_goal("young", QA, max_tokens=24), a_goal("urgent", CONTROL, max_tokens=24))
    bench.turn(2)  # 63 cells, and no room for 66
    assert evicted == [("young", 0.0)]
    assert [bench.tokens(name) for name in ("old", "young", "urgent")] == [2, 1, 2]


def test_a_goal_that_finds_no_room_alone_ends_with_the_numbers_and_the_next_is_served():
    bench = Bench("orca", lengths={"big": Lengths(90, 50), "small": Lengths(10, 5)}, context_tokens=1000, max_sequences=2, cells=100)
    bench.submit(a_goal("big", max_tokens=50))
    bench.turn(12)
    assert (bench.end("big").error_code, bench.end("big").error_msg) == (ErrorCode.OVERLOADED, "100 of 100 KV cells are used")
    bench.submit(a_goal("small", max_tokens=5))
    bench.drain()
    assert bench.end("small").error_code is ErrorCode.NONE


def test_a_long_goal_is_not_opened_where_the_cells_it_may_come_to_need_are_taken():
    bench = Bench("orca", lengths={"first": Lengths(20, 70), "second": Lengths(5, 5)}, context_tokens=100)
    bench.submit(a_goal("first", QA, max_tokens=70), a_goal("second", QA, max_tokens=6))  # 90 + 11 of 100 cells
    bench.turn(5)
    assert (bench.tokens("first"), bench.tokens("second")) == (5, 0)
    bench.drain()
    assert [end.goal_id for end in bench.ends] == ["first", "second"]


def test_nobody_is_evicted_in_vain():
    bench = Bench("orca", lengths={"be": Lengths(10, 30), "rt": Lengths(30, 50), "late": Lengths(20, 50)}, context_tokens=120)
    bench.submit(a_goal("be", QA, max_tokens=30), a_goal("rt", CONTROL, max_tokens=50))  # 40 + 80
    bench.turn()
    bench.engine.evict = lambda *_: pytest.fail("evicting would not make room enough")
    bench.submit(a_goal("late", QA, max_tokens=50))
    bench.turn(3)
    assert bench.tokens("late") == 0


def test_goals_beyond_the_number_of_sequences_wait_and_are_served():
    bench = Bench(max_sequences=2)
    bench.submit(*(a_goal(f"g{i}") for i in range(6)))
    bench.drain()
    assert len(bench.ends) == 6


# ---- threads


def a_live_scheduler(events):
    latency = LatencyModel("quick", (0.0005,))
    return Scheduler(PacedEngine(SimulatedEngine(latency), latency), make_policy("orca"), latency, events.extend)


def test_many_threads_may_submit_and_cancel_while_it_runs():
    events = []
    scheduler = a_live_scheduler(events)
    runner = threading.Thread(target=scheduler.run, daemon=True)
    runner.start()

    def client(name):
        for i in range(25):
            goal_id = f"{name}-{i}"
            scheduler.submit(a_goal(goal_id, max_tokens=5, submitted_s=time.monotonic()))
            if i % 3 == 0:
                scheduler.cancel(goal_id)

    clients = [threading.Thread(target=client, args=(name,), daemon=True) for name in "abcdefgh"]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(20)
    deadline = time.monotonic() + 20
    while sum(isinstance(event, Finished) for event in events) < 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    scheduler.stop()
    runner.join(5)
    assert not runner.is_alive()
    ended = [event.goal_id for event in events if isinstance(event, Finished)]
    assert sorted(ended) == sorted(f"{name}-{i}" for name in "abcdefgh" for i in range(25))


def test_it_computes_step_after_step_and_wakes_up_for_a_goal():
    events = []
    scheduler = a_live_scheduler(events)
    threading.Thread(target=scheduler.run, daemon=True).start()
    for i in range(3):
        time.sleep(0.05)  # it is idle by now
        began = time.monotonic()
        scheduler.submit(a_goal(f"g{i}", max_tokens=60, submitted_s=began))
        while sum(isinstance(event, Finished) for event in events) <= i:
            assert time.monotonic() - began < 10.0, "60 tokens of 0.5 ms"
            time.sleep(0.001)
    scheduler.stop()


def test_stop_ends_every_goal_and_says_so():
    events = []
    scheduler = a_live_scheduler(events)
    runner = threading.Thread(target=scheduler.run, daemon=True)
    runner.start()
    for i in range(3):
        scheduler.submit(a_goal(f"g{i}", max_tokens=30_000))
    time.sleep(0.05)
    scheduler.stop()
    runner.join(5)
    assert not runner.is_alive()
    assert {event.error_msg for event in events if isinstance(event, Finished)} == {
        "the server is shutting down; send the goal again when it is back"
    }
    ends = {event.goal_id: event.error_code for event in events if isinstance(event, Finished)}
    assert ends == {f"g{i}": ErrorCode.SHUTTING_DOWN for i in range(3)}


def test_a_policy_that_breaks_loses_no_goal(caplog):
    def breaks(_tasks):
        raise ZeroDivisionError("no step is that short")

    bench = Bench(Fixed(breaks), lengths={"a": Lengths(4, 3), "b": Lengths(4, 2)})
    bench.submit(a_goal("a"), a_goal("b"))
    bench.drain()
    assert [(end.goal_id, end.error_code) for end in bench.ends] == [("a", ErrorCode.NONE), ("b", ErrorCode.NONE)]
    assert caplog.text.count("could not plan") == 1, "not at each step"
