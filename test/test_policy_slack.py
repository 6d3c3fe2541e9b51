"""The default policy, against examples worked out by hand (l(1), l(2), l(3) = 14, 27, 38 ms unless said otherwise)."""

import math

import pytest
from builders import CONTROL, PAPER, QA, VOICE, Bench, RealTime, a_goal, a_task

from slice_ros.bench.optimum import Instance, attained, most_attained, random_instance
from slice_ros.bench.simulate import attainment, simulate
from slice_ros.bench.workload import GoalClass, Uniform, Workload
from slice_ros.engines.simulated import Lengths as TrueLengths
from slice_ros.goal import ErrorCode
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.lengths import FEW, Lengths
from slice_ros.scheduling.load import MEMORY_S, PRIOR_GOALS, PRIOR_S, Load, Traffic
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies import DEFAULT_POLICY, Limits, make_policy
from slice_ros.scheduling.policies.promises import select
from slice_ros.scheduling.policies.slack import PUT_OFF_STEPS, SPARE_SHARE, Slack, best_width, mark_pressed
from slice_ros.slo import BestEffort, OnMiss

LIMITS = Limits()
FLAT = LatencyModel("flat", (0.020,))
SAW_TOOTH = LatencyModel("four are as fast as one", (0.026, 0.027, 0.033, 0.026, 0.036))
PER_TOKEN = LatencyModel("prompts cost by the token", (0.010, 0.019), prompt_token_s=0.001)


def ids(matrix, column=0):
    return [cell.goal_id for cell in matrix.columns[column]]


def running(task, times_s):
    """The task, with its prompt computed and its tokens produced at these times."""
    task.prompt_left = 0
    task.token_times_s = list(times_s)
    return task


def outlook(task, now=0.0, latency=PAPER, lengths=None):
    return Outlook.of(task, now, latency, lengths or Lengths())


def taught_lengths(**lengths):
    known = Lengths()
    for kind, tokens in lengths.items():
        for _ in range(FEW):
            known.observe(kind, tokens)
    return known


def taught(policy, **lengths):
    """The policy, having seen answers of these lengths by kind."""
    for kind, tokens in lengths.items():
        task = a_task("past", max_tokens=1000)
        task.kind = kind
        task.token_times_s = [0.0] * tokens
        for _ in range(FEW):
            policy.ended(task, completed=True)
    return policy


def test_it_is_the_default():
    assert isinstance(make_policy(DEFAULT_POLICY), Slack)


# ---- what a task needs


def test_tokens_are_due_together_up_to_the_length_that_answers_reach():
    lengths = Lengths()
    for tokens in range(11, 21):  # 11 to 20; of real-time answers, hardly any falls short of 11
        lengths.observe("test", tokens)
    task = running(a_task("c", RealTime(tpot_ms=100)), [1.0, 1.1])
    job = outlook(task, now=1.2, lengths=lengths)
    assert (job.short, job.long) == (11, 21)  # one more than those known outlasts them by as much as they lie apart
    assert job.due_s == pytest.approx(1.0 + 10 * 0.100)
    assert job.latest_s == pytest.approx(2.0 - 9 * 0.014)  # nine more tokens, alone
    assert job.expected == pytest.approx(16.0)
    assert job.end_s == pytest.approx(1.0 + 15.0 * 0.100)
    assert job.work_s == pytest.approx(14.0 * 0.014)


def test_beyond_that_length_tokens_are_due_one_by_one():
    lengths = Lengths()
    lengths.observe("test", 2)
    task = running(a_task("c", RealTime(tpot_ms=100)), [1.0, 1.1, 1.2])
    job = outlook(task, now=1.2, lengths=lengths)
    assert job.due_s == pytest.approx(1.3)
    job.advance(0, 1.25)
    assert job.due_s == pytest.approx(1.4)


def test_a_deadline_and_a_ttft_make_a_task_due_whichever_is_first():
    job = outlook(a_task("c", RealTime(ttft_ms=400, deadline_s=1.0), max_tokens=4, arrival_s=2.0), now=2.1)
    assert job.due_s == pytest.approx(2.4)
    job.advance(1, 2.2)
    assert job.due_s == pytest.approx(3.0)


def test_hope_is_lost_when_the_rest_cannot_come_in_time_alone():
    lengths = taught_lengths(test=10)
    task = a_task("c", RealTime(deadline_s=1.0))
    assert outlook(task, now=0.859, lengths=lengths).hope_s > 0.859  # 10 tokens take 140 ms
    assert outlook(task, now=0.861, lengths=lengths).hope_s < 0.861


def test_hope_moves_on_with_each_token():
    job = outlook(a_task("c", RealTime(deadline_s=1.0), prompt_tokens=10), latency=PER_TOKEN)
    before_s = job.hope_s
    job.advance(4, 0.1)
    assert job.hope_s == pytest.approx(before_s + 4 * 0.001)  # four of ten prompt tokens
    job.advance(6, 0.2)
    assert job.hope_s == pytest.approx(before_s + 10 * 0.001 + 0.010)  # the others, and the first token


def test_each_piece_of_a_prompt_has_its_fixed_cost():
    latency = LatencyModel("both", (0.010,), chunk_s=0.004, prompt_token_s=0.001)
    job = outlook(a_task("c", RealTime(ttft_ms=500), prompt_tokens=10), latency=latency)
    assert job.latest_s == pytest.approx(0.5 - 0.010 - 0.004 - 10 * 0.001)
    job.advance(5, 0.1)
    assert job.latest_s == pytest.approx(0.5 - 0.010 - 0.004 - 5 * 0.001)


def test_a_long_answer_may_catch_up_where_a_short_one_cannot():
    lengths = Lengths()
    for tokens in (3, 40):
        lengths.observe("test", tokens)
    task = running(a_task("v", BestEffort(tpot_ms=100), max_tokens=40), [0.0, 0.5])  # 2 tokens; the third was due at 0.2
    job = outlook(task, now=0.6, lengths=lengths)
    assert job.latest_s < 0.6 < job.hope_s


# ---- what is learnt


def test_lengths_are_learnt_by_kind_and_depend_on_how_far_the_answer_is():
    lengths = taught_lengths(chat=30)
    assert lengths.expected("chat", 0, 100) == (30.0, 0.0)
    assert lengths.expected("chat", 10, 20)[0] == 20  # its own max_tokens
    assert lengths.expected("other", 0, 100)[0] == pytest.approx(62.5)  # unknown: a quarter, half, three quarters or all of max_tokens
    assert lengths.expected("other", 60, 100)[0] == pytest.approx(87.5)


def test_while_few_are_known_one_more_answer_is_taken_to_be_as_long_as_it_may():
    lengths = Lengths()
    for tokens in (10, 20, 60):
        lengths.observe("chat", tokens)
    assert lengths.expected("chat", 0, 110)[0] == pytest.approx(50)
    assert lengths.expected("chat", 60, 110)[0] == 110
    assert lengths.at_most("chat", 0, 110, 0.02) == 110


def test_one_more_answer_outlasts_many_by_as_much_as_they_lie_apart():
    lengths = Lengths()
    for tokens in (10, 20, 30, 40, 50):
        lengths.observe("chat", tokens)
    assert lengths.expected("chat", 0, 110)[0] == pytest.approx(35)
    assert lengths.expected("chat", 40, 110)[0] == pytest.approx(55)
    assert lengths.expected("chat", 50, 110)[0] == 60
    assert lengths.expected("chat", 70, 110)[0] == 80
    assert (lengths.at_most("chat", 0, 110, 0.02), lengths.at_most("chat", 50, 55, 0.02)) == (60, 55)
    for _ in range(9):
        for tokens in (10, 20, 30, 40, 50):
            lengths.observe("chat", tokens)
    assert lengths.at_most("chat", 0, 110, 0.02) == 50  # of fifty-one, one is no more than a fiftieth


def test_load_is_the_rate_of_what_arrives_and_is_forgotten():
    load = Load()
    for second in range(200):
        load.observe(float(second), 10, 0.030, 0.5, 0.4)
    traffic = load.traffic(200.0)
    assert traffic.rate == pytest.approx(10, rel=0.03)
    assert traffic.fastest == pytest.approx(20)
    assert traffic.prompt_share == pytest.approx(0.030, rel=0.03)
    assert load.traffic(200.0 + 10 * MEMORY_S).rate < 0.01


def test_one_arrival_tells_no_rate_and_many_tell_one_at_once():
    load = Load()
    load.observe(5.0, 10, 0.030, 0.5, 0.4)
    assert load.traffic(5.0).rate == pytest.approx(10 / PRIOR_S, rel=0.1)
    assert load.traffic(5.0).goals_hz == pytest.approx(1 / PRIOR_S, rel=0.1)
    assert load.traffic(5.0).slack_s == 0.4
    assert load.traffic(5.0).share(token_s=0.020) == pytest.approx((0.2 + 0.03) / PRIOR_S, rel=0.1)
    for _ in range(49):
        load.observe(5.1, 10, 0.030, 0.5, 0.4)
    prior_s = PRIOR_S * 0.5 ** (49 / PRIOR_GOALS)
    assert load.traffic(5.1).rate == pytest.approx(500 / (0.1 + prior_s), rel=0.01)
    few = Load()
    for _ in range(4):
        few.observe(5.1, 10, 0.030, 0.5, 0.4)
    assert few.traffic(5.1).rate < 1.5 * 40 / PRIOR_S, "four at once may be all there are"


def test_the_first_seconds_of_fast_traffic_are_told_from_its_many_arrivals():
    load = Load()
    for number in range(100):
        load.observe(0.01 * number, 10, 0.001, 0.5, 0.4)
    assert load.traffic(1.0).goals_hz == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("slo", [CONTROL, BestEffort()], ids=["real-time", "best effort"])
def test_the_first_goal_after_a_quiet_night_is_served(slo):
    bench = Bench("slack")
    bench.submit(a_goal("evening", CONTROL))
    bench.drain()
    bench.clock.advance(12 * 3600.0)
    bench.submit(a_goal("morning", slo, submitted_s=bench.clock.now()))
    bench.drain()
    assert bench.end("morning").error_code is ErrorCode.NONE


# ---- who takes part


def test_where_a_row_costs_a_step_real_time_runs_alone():
    tasks = [a_task("chat", VOICE, order=1), a_task("control", CONTROL, order=2), a_task("log", BestEffort(), order=3)]
    matrix = Slack().plan(tasks, 0.0, PAPER, LIMITS)  # worth per second: 1 / 14 > (1 + 0.5) / 27 > (1 + 0.5 + 0.1) / 38
    assert {tuple(ids(matrix, j)) for j in range(len(matrix))} == {("control",)}


def test_where_a_row_costs_nothing_all_run_together():
    tasks = [a_task("chat", VOICE, order=1), a_task("control", CONTROL, order=2), a_task("log", BestEffort(), order=3)]
    assert ids(Slack().plan(tasks, 0.0, FLAT, LIMITS)) == ["control", "chat", "log"]


def test_a_step_is_filled_to_the_next_sweet_spot():
    tasks = [a_task("control", CONTROL, order=1)] + [a_task(f"log {i}", BestEffort(), order=i + 2) for i in range(4)]
    assert len(ids(Slack().plan(tasks, 0.0, SAW_TOOTH, LIMITS))) == 4


def test_width_is_the_most_worth_per_second():
    assert best_width([1.0, 0.9], PAPER, LIMITS) == 1  # 1 / 14 = 0.0714 > 1.9 / 27 = 0.0704
    assert best_width([0.5] * 4, PAPER, LIMITS) == 4  # 0.5 / 14 < 1 / 27 < 1.5 / 38 < 2 / 50


def test_of_real_time_tasks_the_one_due_first_comes_first():
    tasks = [a_task("late", CONTROL, order=1, arrival_s=0.0), a_task("early", RealTime(deadline_s=0.5), order=2, arrival_s=0.1)]
    assert ids(Slack().plan(tasks, 0.1, PAPER, LIMITS)) == ["early"]


def test_free_rows_wait_when_a_real_time_task_has_no_slack_for_them():
    latency = LatencyModel("cheap second row", (0.010, 0.014))
    policy = taught(Slack(), test=10)
    lax = running(a_task("control", RealTime(deadline_s=1.0), max_tokens=10), [0.01])
    chat = running(a_task("chat", BestEffort(tpot_ms=200), max_tokens=10, order=1), [0.01])
    assert ids(policy.plan([lax, chat], 0.1, latency, LIMITS)) == ["control", "chat"]
    tight = running(a_task("control", RealTime(deadline_s=0.192), max_tokens=10), [0.01])  # nine tokens take 90 ms: 2 ms of slack
    assert ids(policy.plan([tight, chat], 0.1, latency, LIMITS)) == ["control"]


def test_slack_is_followed_through_the_columns():
    latency = LatencyModel("cheap second row", (0.010, 0.014))
    policy = taught(Slack(), test=10)
    control = running(a_task("control", RealTime(deadline_s=0.201), max_tokens=10), [0.01])  # 11 ms of slack: two steps of 4 ms more
    chat = running(a_task("chat", BestEffort(tpot_ms=200), max_tokens=10, order=1), [0.01])
    matrix = policy.plan([control, chat], 0.1, latency, LIMITS)
    assert [len(column) for column in matrix] == [2, 2, 1, 1, 1, 1]


def test_promises_are_made_while_they_fit_cheapest_first():
    # Four chats of 10 tokens/s beside real-time goals of 20 tokens/s, at most 12.5 of them for one goal: at a mean width of w rows a
    # token takes l(w) / w. With three chats w = 50 / 12.5 = 4: 50 * 12.5 = 625 ms a second; with four w = 4.8: 60 * 12.36 = 742 ms.
    lengths = Lengths()
    lengths.observe("test", 100)
    chats = [outlook(a_task(f"{i}", BestEffort(tpot_ms=100), max_tokens=100, order=i), lengths=lengths) for i in range(6)]
    for chat in chats:
        chat.end_s = 10.0
    traffic = Traffic(rate=20.0, fastest=12.5, prompt_share=0.0, variance=0.0)
    assert len(select(chats, traffic, 0.0, PAPER, LIMITS)) == 6  # 80 tokens/s of 11.9 ms (w = 6.4: 83 ms for 7) = 0.95
    busy = Traffic(rate=40.0, fastest=12.5, prompt_share=0.0, variance=0.0)
    assert len(select(chats, busy, 0.0, PAPER, LIMITS)) == 4  # 80 tokens/s again
    unsure = Traffic(rate=40.0, fastest=12.5, prompt_share=0.0, variance=800.0)  # deviation of 9 tokens/s over 10 s: 1.5 of it is 0.16
    assert len(select(chats, unsure, 0.0, PAPER, LIMITS)) == 2
    short = outlook(a_task("short", BestEffort(tpot_ms=100), max_tokens=50, order=9))
    short.end_s = 5.0
    assert select([*chats, short], unsure, 0.0, PAPER, LIMITS)[0] is short


def _reports(*lacking_due):
    """Best-effort tasks with a deadline alone, of whose answers of 100 tokens so many are lacking, due in so many seconds."""
    return [
        running(a_task(f"lacks {lacking}", BestEffort(deadline_s=due_s + 10.0), max_tokens=100, order=i), [9.0] * (100 - lacking))
        for i, (lacking, due_s) in enumerate(lacking_due)
    ]


def test_where_not_all_without_a_pace_can_be_kept_one_that_is_nearly_done_is_brought_to_its_end():
    policy = taught(Slack(), test=100)
    assert ids(policy.plan(_reports((10, 1.5), (60, 2.0)), 10.0, PAPER, LIMITS)) == ["lacks 10", "lacks 60"]
    assert ids(policy.plan(_reports((10, 1.5), (60, 2.0), (99, 1.6)), 10.0, PAPER, LIMITS)) == ["lacks 10"]


def test_a_first_token_that_is_due_is_promised_and_what_follows_has_the_time_that_is_left():
    quick = a_task("quick", BestEffort(ttft_ms=100), order=2, max_tokens=100)
    tasks = [a_task("log", BestEffort(), order=1), quick]
    assert outlook(quick).end_s == pytest.approx(0.1)
    assert Slack().plan(tasks, 0.0, PAPER, LIMITS).rows[0] == "quick"
    running(quick, [0.014])
    assert Slack().plan(tasks, 0.014, PAPER, LIMITS).rows[0] == "log"


def test_a_first_token_is_not_promised_where_there_is_no_time_for_it():
    quick = [outlook(a_task(f"{i}", BestEffort(ttft_ms=40), order=i)) for i in range(5)]
    assert len(select(quick, Traffic(), 0.0, PAPER, LIMITS)) == 3  # l(3) = 38 ms


@pytest.mark.parametrize("rate_hz", [0.6, 0.9, 1.2])
def test_no_policy_does_better_where_some_goals_wait_for_their_first_token_only(rate_hz):
    lengths = Uniform(40, 120), Uniform(32, 128)
    classes = GoalClass("voice", 0.5, VOICE, *lengths), GoalClass("quick", 0.5, BestEffort(ttft_ms=500), *lengths)
    arrivals = Workload("first tokens", classes).traffic(rate_hz, 60.0, seed=0)
    latency = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4")
    reached = {name: attainment(simulate(arrivals, make_policy(name), latency)) for name in ("slack", "slice", "orca")}
    assert reached["slack"] >= max(reached.values()) - 0.01


def test_a_hopeless_task_steps_back_but_is_served_when_nobody_else_is_there():
    late = running(a_task("late", VOICE, order=1, max_tokens=100), [0.5, 40.0])
    chat = a_task("chat", VOICE, order=2, arrival_s=40.0)
    matrix = taught(Slack(), test=20).plan([late, chat], 40.1, PAPER, LIMITS)
    assert matrix.rows == ("chat",)
    assert Slack().plan([late], 40.1, PAPER, LIMITS).rows == ("late",)


def test_a_real_time_task_that_can_only_be_late_steps_back_before_it_is():
    tight = a_task("tight", RealTime(deadline_s=0.5), order=1)
    chat = a_task("chat", VOICE, order=2)
    policy = taught(Slack(), test=10)  # 140 ms
    assert policy.plan([tight, chat], 0.35, PAPER, LIMITS).rows == ("tight",)
    assert policy.plan([tight, chat], 0.37, PAPER, LIMITS).rows == ("chat",)


def test_a_hopeless_task_that_asked_for_it_is_ended():
    bench = Bench("slack")
    bench.submit(a_goal("late", BestEffort(ttft_ms=10, on_miss=OnMiss.ABORT)))
    bench.drain()
    assert bench.end("late").error_code is ErrorCode.SLO_MISSED


def test_the_worked_example_of_the_documentation():
    """docs/policy.md, section A worked example."""
    policy = taught(Slack(), control=4, chat=20)

    def chat(goal_id, order, first_s):
        task = running(
            a_task(goal_id, BestEffort(ttft_ms=1000, tpot_ms=100), order=order, max_tokens=20), [first_s + 0.01 * k for k in range(5)]
        )
        task.kind = "chat"
        return task

    anna, ben, dora = chat("anna", 1, -0.5), chat("ben", 2, -1.0), chat("dora", 3, -1.8)
    control = a_task("control", CONTROL, order=4)
    control.kind = "control"
    tasks = [anna, ben, dora, control]

    jobs = {task.goal_id: Outlook.of(task, 0.0, PAPER, policy._experience.lengths) for task in tasks}
    assert {name: round(job.due_s, 3) for name, job in jobs.items()} == {"anna": 1.4, "ben": 0.9, "dora": 0.1, "control": 1.5}
    assert {name: round(job.latest_s, 3) for name, job in jobs.items()} == {"anna": 1.19, "ben": 0.69, "dora": -0.11, "control": 1.444}

    first = policy.plan(tasks, 0.0, PAPER, LIMITS)
    assert [ids(first, j) for j in range(len(first))] == [["control"]] * 6
    control.token_times_s = [0.014, 0.028, 0.042, 0.056]
    policy.ended(control, completed=True)
    second = policy.plan(tasks[:3], 0.056, PAPER, LIMITS)
    assert [ids(second, j) for j in range(len(second))] == [["ben", "anna"]] * 6
    control.token_times_s = []
    assert ids(taught(Slack(), control=4, chat=20).plan(tasks, 0.0, FLAT, LIMITS)) == ["control", "ben", "anna", "dora"]


def test_an_arrival_is_counted_once_however_often_plans_are_made():
    policy = Slack()
    tasks = [a_task("a", CONTROL, order=1), a_task("b", CONTROL, order=2)]
    policy.plan(tasks, 0.0, PAPER, LIMITS)
    once = policy._experience.load.traffic(0.0)
    assert once.rate > 0.0
    policy.plan(tasks, 0.0, PAPER, LIMITS)
    assert policy._experience.load.traffic(0.0) == once
    policy.plan([*tasks, a_task("c", CONTROL, order=3)], 0.0, PAPER, LIMITS)
    assert policy._experience.load.traffic(0.0).rate == pytest.approx(1.5 * once.rate, rel=0.1)


# ---- real-time tasks that wait for others


def _beside_one_that_waits(prompt_tokens, deadline_s):
    """Prompt tokens that a best-effort goal is given while a real-time one with as many has yet to wait for another's last token."""
    first, then = a_task("first", RealTime(deadline_s=9.0), order=1), a_task("then", RealTime(deadline_s=deadline_s), order=2)
    running(first, [0.0] * 9).max_tokens = 10
    then.prompt_tokens = then.prompt_left = prompt_tokens
    then.max_tokens, first.followers = 2, [then]
    policy = Slack()
    policy._latest_order = 2  # neither is news
    latency = LatencyModel("rows cost nothing", (0.010,), prompt_token_s=0.001)
    columns = policy.plan([first, a_task("chat", QA, prompt_tokens=500, order=3)], 0.0, latency, LIMITS).columns
    return sum(cell.prompt_tokens for column in columns for cell in column if cell.goal_id == "chat")


def test_others_have_what_a_real_time_task_that_waits_leaves():
    """Its prompt and two tokens, of which one is beside the one before: 0.92 s, which leave 80 ms of a second, and more of two."""
    assert 60 <= _beside_one_that_waits(900, 1.0) <= 80
    assert _beside_one_that_waits(900, 2.0) > 200
    assert _beside_one_that_waits(1100, 1.0) > 200, "what cannot be in time is left nothing"


def test_a_task_that_waits_is_an_arrival():
    first, then = a_task("first", CONTROL, order=1), a_task("then", CONTROL, order=2)
    policy, both = Slack(), Slack()
    first.followers = [then]
    policy.plan([first], 0.0, PAPER, LIMITS)
    first.followers = ()
    both.plan([first, then], 0.0, PAPER, LIMITS)
    assert policy._experience.load.traffic(0.0) == both._experience.load.traffic(0.0)


# ---- real-time tasks that could wait, and best-effort ones that could not


def _control_and_a_tight_one(policy, deadline_s, now=0.0):
    """Control has 10 tokens to go, 140 ms, and 1.5 s for them; the other one 5, 70 ms."""
    control = a_task("control", CONTROL, max_tokens=10, order=9, arrival_s=now)
    tight = a_task("tight", BestEffort(deadline_s=deadline_s), max_tokens=5, order=10, arrival_s=now)
    control.kind, tight.kind = "control", "tight"
    return policy.plan([control, tight], now, PAPER, LIMITS).rows


def test_a_real_time_task_waits_for_one_that_could_not_wait_for_its_work():
    assert _control_and_a_tight_one(taught(Slack(), control=10, tight=5), 0.20)[0] == "tight"  # 130 ms of slack
    assert _control_and_a_tight_one(taught(Slack(), control=10, tight=5), 0.22)[0] == "control"  # 150 ms


def test_a_real_time_task_waits_for_none_that_is_due_after_it():
    policy = taught(Slack(), control=10, tight=5)
    control = a_task("control", RealTime(deadline_s=0.25), max_tokens=10, order=1)
    tight = a_task("tight", BestEffort(deadline_s=0.26), max_tokens=5, order=2)
    control.kind, tight.kind = "control", "tight"
    assert policy.plan([control, tight], 0.0, PAPER, LIMITS).rows[0] == "control"


@pytest.mark.parametrize(("laxity_s", "pressed"), [(0.069, []), (0.071, ["soon"]), (0.141, ["soon", "later"])])
def test_a_real_time_task_waits_for_as_many_as_it_has_time_for(laxity_s, pressed):
    """Each of the others has 70 ms of work to do, and could wait for less than the 140 ms that control takes."""
    lengths = taught_lengths(control=10, tight=5)
    control = a_task("control", CONTROL, max_tokens=10, order=1)
    later, soon = (a_task(name, BestEffort(deadline_s=due_s), max_tokens=5) for name, due_s in (("later", 0.20), ("soon", 0.19)))
    control.kind, later.kind, soon.kind = "control", "tight", "tight"
    jobs = [outlook(task, lengths=lengths) for task in (control, later, soon)]
    mark_pressed(jobs, laxity_s, 0.0)
    assert [job.task.goal_id for job in sorted(jobs, key=lambda job: job.due_s) if job.is_pressed] == pressed


def test_nobody_is_pressed_where_there_is_no_real_time_task():
    """Not even one that is late unless its answer is long: due times decide among best-effort tasks."""
    job = outlook(a_task("behind", BestEffort(deadline_s=2.0), max_tokens=5), now=0.2, lengths=taught_lengths(test=5))
    job.latest_s, job.hope_s = 0.1, 0.9
    mark_pressed([job], math.inf, 0.2)
    assert not job.is_pressed


def test_a_real_time_task_that_nothing_is_due_of_any_more_presses_nobody():
    """Nor is it asked whether it fits, as no time is its last."""
    policy = taught(Slack(), test=5)
    begun = running(a_task("begun", RealTime(ttft_ms=100), order=1), [0.0])
    tight = a_task("tight", BestEffort(deadline_s=0.15), max_tokens=5, order=2)
    control = a_task("control", CONTROL, max_tokens=5, order=3)
    assert policy.plan([begun, tight], 0.0, PAPER, LIMITS).rows[0] == "begun"
    assert policy.plan([begun, tight, control], 0.0, PAPER, LIMITS).rows[0] == "tight"


@pytest.mark.parametrize(("every_s", "first"), [(0.15, "control"), (4.0, "tight")])
def test_real_time_tasks_wait_for_nobody_where_many_more_are_expected(every_s, first):
    """140 ms of work every 150 ms leave no time; every four seconds they take 0.035 of it."""
    policy = taught(Slack(), control=10, tight=5)
    for number in range(20):
        past = a_task("past", CONTROL, max_tokens=10, order=number, arrival_s=every_s * number)
        past.kind = "control"
        policy.plan([past], past.arrival_s, PAPER, LIMITS)
        policy.ended(past, completed=False)
    assert _control_and_a_tight_one(policy, 0.20, now=every_s * 20)[0] == first


# ---- prompts


def test_a_long_prompt_is_cut_to_what_a_running_real_time_task_can_wait():
    policy = taught(Slack(), test=10)
    control = running(a_task("control", RealTime(deadline_s=0.260), max_tokens=10), [0.01])  # nine tokens take 90 ms: 70 ms of slack
    chat = a_task("chat", RealTime(ttft_ms=2000), prompt_tokens=500, order=1)
    matrix = policy.plan([control, chat], 0.1, LatencyModel("flat rows", (0.010, 0.010), prompt_token_s=0.001), LIMITS)
    spent_s = sum(0.010 + 0.001 * sum(cell.prompt_tokens for cell in column) for column in matrix)
    control_tokens = sum(cell.goal_id == "control" for column in matrix for cell in column)
    assert 0 < sum(cell.prompt_tokens for column in matrix for cell in column) <= 70
    assert 0.1 + spent_s + (9 - control_tokens) * 0.010 <= 0.260 + 1e-9


def test_a_prompt_alone_is_cut_to_what_real_time_goals_like_those_before_could_wait():
    policy = Slack()
    past = a_task("past", RealTime(ttft_ms=220), prompt_tokens=10, order=1)  # 10 + 10 ms of work: 200 ms of slack
    policy.plan([past], 0.0, PER_TOKEN, LIMITS)
    past.token_times_s.append(0.02)
    policy.ended(past, completed=True)
    (cell,) = policy.plan([a_task("chat", VOICE, prompt_tokens=500, order=2)], 0.1, PER_TOKEN, LIMITS).columns[0]
    assert 98 <= cell.prompt_tokens <= 100  # 10 ms are 0.1 of 100: less than the 200 that they could wait


def test_a_prompt_of_flat_cost_is_never_cut():
    latency = LatencyModel("flat prompts", (0.010, 0.010), chunk_s=0.030)
    policy = Slack()
    past = a_task("past", RealTime(ttft_ms=60), order=1)  # 40 ms of work: 20 ms of slack, so steps should take 10 ms
    policy.plan([past], 0.0, latency, LIMITS)
    policy.ended(past, completed=False)
    matrix = policy.plan([a_task("chat", VOICE, prompt_tokens=500, order=2)], 0.1, latency, LIMITS)
    assert matrix.columns[0][0].prompt_tokens == 500


# ---- starvation


@pytest.mark.parametrize("adapter", ["", "x"], ids=["same adapter", "another adapter"])
def test_a_task_without_bounds_ends_although_real_time_goals_take_all_the_time(adapter):
    """The bound: with w seconds of work in its own steps, PUT_OFF_STEPS more, and no older one waiting, it ends within w / SPARE_SHARE."""
    bench = Bench("slack", lengths={"log": TrueLengths(1, 10)})
    bench.submit(a_goal("log", BestEffort(), max_tokens=10, adapter=adapter))
    work_s, sent = (10 + PUT_OFF_STEPS) * 0.014, 0
    while not bench.ends or all(end.goal_id != "log" for end in bench.ends):
        while sent * 0.010 <= bench.clock.now():  # a new goal of ten tokens every 10 ms: fourteen times what fits
            bench.submit(a_goal(f"c{sent}", CONTROL, max_tokens=10, submitted_s=bench.clock.now()))
            sent += 1
        bench.turn()
        assert bench.clock.now() < 60.0, "it starves"
    assert 1.0 < bench.clock.now() <= work_s / SPARE_SHARE + 1.0  # + a plan's horizon, + the step for which it waits
    assert sum(end.report.attained for end in bench.ends) > 30


def test_what_is_owed_is_paid_with_what_was_computed_not_with_what_was_planned():
    log, control = running(a_task("log", BestEffort(), order=1), [0.0]), a_task("control", RealTime(deadline_s=100.0), order=2)
    policy = Slack()
    policy.plan([log, control], 0.0, PAPER, LIMITS)
    for _ in range(5):  # 20 ms are owed, and there is no room for it
        assert ids(policy.plan([log, control], 1.0, PAPER, LIMITS)) == ["control", "log"]
    log.computed_tokens += 1
    assert ids(policy.plan([log, control], 1.0, PAPER, LIMITS)) == ["control"]


def test_spare_tasks_of_each_class_have_their_own_fiftieth_of_the_time():
    control = running(a_task("control", RealTime(deadline_s=1000.0), max_tokens=900, order=1), [0.0])
    late = running(a_task("late", RealTime(deadline_s=0.1), max_tokens=900, order=2, arrival_s=-1.0), [0.0])
    log = running(a_task("log", BestEffort(), max_tokens=900, order=3), [0.0])
    policy, served = Slack(), []
    for step in range(700):  # 9.8 s, of which a row alone takes 14 ms: 14 times for each
        column = ids(policy.plan([control, late, log], 0.014 * step, PAPER, LIMITS))
        for task in (control, late, log):
            task.computed_tokens += task.goal_id in column
        served += column
    assert served.count("control") == 700
    for name in ("late", "log"):
        assert 13 <= served.count(name) + PUT_OFF_STEPS - 1 <= 14, "control's kind is taken to need all the time there is"


def test_a_real_time_goal_that_is_late_is_not_last_of_all():
    late = running(a_task("late", RealTime(deadline_s=1.0), order=9), [0.5])
    old = running(a_task("old", BestEffort(ttft_ms=100), order=1), [0.6])
    assert Slack().plan([old, late], 2.0, PAPER, Limits(max_batch=1)).rows == ("late",)


# ---- room in the KV cache


def test_goals_that_nobody_has_to_give_way_for_are_begun():
    chats = [running(a_task(f"chat{i}", VOICE, max_tokens=40, order=i), [0.0]) for i in (1, 2)]
    for chat in chats:
        chat.is_open = True
    new, log, control = (a_task(name, slo, max_tokens=40, order=order) for name, slo, order in (
        ("new", VOICE, 3), ("log", BestEffort(), 4), ("control", CONTROL, 5),
    ))  # fmt: skip
    wide = LatencyModel("rows cost nothing", (0.020,) * 8)
    rows = Slack().plan([*chats, new, log], 0.0, wide, Limits(cells=125)).rows
    assert set(rows) == {"chat1", "chat2", "new"}, "then the cells are claimed"
    assert set(Slack().plan([*chats, new, log], 0.0, wide, Limits(cells=100)).rows) == {"chat1", "chat2"}
    assert set(Slack().plan([*chats, new, log], 0.0, wide, Limits(sequences=2)).rows) == {"chat1", "chat2"}
    assert set(Slack().plan([*chats, new, log, control], 0.0, wide, Limits(cells=100)).rows) == {"chat1", "chat2", "control"}
    assert Slack().plan([log], 0.0, wide, Limits(cells=10)).rows == ("log",), "a plan is never empty"


def test_more_chats_than_there_are_cells_for_are_served_one_after_the_other_and_not_in_turns():
    """Three have room at a time, so that none gives way and computes its prompt again."""
    bench = Bench("slack", LatencyModel("by the token", (0.010, 0.011, 0.012, 0.013), prompt_token_s=0.001), context_tokens=200)
    evictions, evict = [], bench.engine.evict
    bench.engine.evict = lambda goal_id, copy_s=math.inf: evictions.append(goal_id) or evict(goal_id, copy_s)
    bench.submit(*(a_goal(f"{i}", BestEffort(ttft_ms=3000, tpot_ms=80), prompt_tokens=20, max_tokens=40) for i in range(24)))
    bench.drain()
    assert len(bench.ends) == 24
    assert sum(end.report.attained for end in bench.ends) >= 18
    assert not evictions


# ---- how good it is


def test_it_attains_nearly_what_any_schedule_could():
    mixed = [random_instance(seed) for seed in range(60)]
    assert mean_share(instance.of_one_class() for instance in mixed) >= 0.95
    assert mean_share(mixed) >= 0.93, "what real-time goals take costs some of the others"


def mean_share(instances):
    """Of what the best schedule attains that knows what is to come and never stands still."""
    shares = [attained(instance, Slack()) / most for instance in instances if (most := most_attained(instance, waits=False))]
    assert max(shares) <= 1.0
    return sum(shares) / len(shares)


def test_the_best_schedule_knows_of_tpot_arrivals_and_prompts():
    latency = LatencyModel("rows cost a step", (0.010, 0.020), prompt_token_s=0.001)

    def most(*goals, prompt_tokens=1):
        return most_attained(Instance(goals, (prompt_tokens,) * len(goals), latency))

    def even(goal_id, tpot_ms, **fields):
        return a_goal(goal_id, BestEffort(tpot_ms=tpot_ms, deadline_s=1.0), max_tokens=3, **fields)

    assert most(even("a", 20), even("b", 20)) == 2  # one after the other
    due = BestEffort(deadline_s=0.035)
    assert most(a_goal("a", due, max_tokens=3)) == 1  # 31 ms
    assert most(a_goal("a", due, max_tokens=3), prompt_tokens=6) == 0  # 36 ms
    assert most(even("a", 9)) == 0
    assert most(a_goal("a", due, max_tokens=3), a_goal("b", due, max_tokens=3)) == 1
    assert most(a_goal("a", due, max_tokens=3), a_goal("b", due, max_tokens=3, submitted_s=0.028)) == 2
    patient, tight = a_goal("a", BestEffort(deadline_s=0.1), max_tokens=1), BestEffort(deadline_s=0.0115)
    late = Instance((patient, a_goal("b", tight, max_tokens=1, submitted_s=0.001)), (1, 1), latency)
    assert most_attained(late) == 2, "the device stands still for a millisecond"
    assert most_attained(late, waits=False) == 1


def test_infinite_slack_is_no_number_to_sort_by():
    assert outlook(a_task("log", BestEffort())).due_s == math.inf
