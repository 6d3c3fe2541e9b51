"""What holds for every policy, or for every plan of the default one, whatever happens."""

import random

import pytest
from builders import Bench, RealTime, a_goal, a_task
from hypothesis import given, settings
from hypothesis import strategies as st

from slice_ros.engines.simulated import Lengths
from slice_ros.goal import ErrorCode
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.events import Finished, Progress
from slice_ros.scheduling.policies import POLICIES, Limits, PolicyError, make_policy
from slice_ros.scheduling.policies.slice import Slice, cycle_time_s
from slice_ros.slo import BestEffort, OnMiss, ServiceClass, Slo

NOW_S = 100.0


def a_latency(rng):
    table = tuple(rng.uniform(0.001, 0.1) for _ in range(rng.randint(1, 20)))
    return LatencyModel("random", table, rng.choice((0.0, 0.03)), rng.choice((0.0, 0.0005, 0.005)), rng.choice((0.0, 1e-6)))


def an_slo(rng):
    ttft_s, tpot_s, deadline_s = (rng.choice((None, rng.uniform(0.01, 5.0))) for _ in range(3))
    if ttft_s is not None and deadline_s is not None:
        ttft_s = min(ttft_s, deadline_s)
    is_bounded = not ttft_s is tpot_s is deadline_s is None
    service_class = rng.choice(list(ServiceClass)) if is_bounded else ServiceClass.BEST_EFFORT
    return Slo(service_class, ttft_s, tpot_s, deadline_s, rng.choice((None, rng.uniform(0.1, 100.0))))


def tasks_in_hand(rng, count):
    tasks = []
    for order in range(1, count + 1):
        arrival_s = NOW_S - rng.uniform(0.0, 3.0)
        task = a_task(f"{order}", an_slo(rng), order=order, max_tokens=rng.randint(2, 50), arrival_s=arrival_s)
        task.prompt_tokens = task.prompt_left = rng.randint(1, 300)
        if rng.random() < 0.5:
            task.prompt_left = rng.choice((0, 0, 5))  # 5: it was evicted, and has to compute its prompt again
            task.token_times_s = [arrival_s + 0.01 * k for k in range(rng.randint(1, task.max_tokens - 1))]
        tasks.append(task)
    return tasks


@st.composite
def situations(draw):
    """What a policy plans for: tasks, a latency model, limits."""
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    limits = Limits(rng.randint(1, 20), rng.choice((1, 7, 64, 512)))
    return tasks_in_hand(rng, draw(st.integers(1, 24))), a_latency(rng), limits


@st.composite
def tight_situations(draw):
    """Real-time tasks that are due within a few steps, beside others that would join them: rows are cheap."""
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    slope, prompt_token_s = rng.uniform(0.0, 0.3), rng.choice((0.0, 0.0005))
    table = tuple(0.010 * (1.0 + slope * (rows - 1)) for rows in range(1, 17))
    latency = LatencyModel("cheap rows", table, rng.choice((0.0, 0.003)), prompt_token_s, rng.choice((0.0, 1e-6)))
    tasks = []
    for order in range(1, rng.randint(3, 9)):
        age_s, prompt_tokens, tokens = rng.uniform(0.01, 1.0), rng.randint(1, 40), rng.randint(1, 20)
        due_s = rng.uniform(1.0, 6.0) * latency.step_s(1, prompt_tokens, 1)
        slo = BestEffort()
        if rng.random() < 0.5:
            slo = rng.choice((
                Slo(ServiceClass.REAL_TIME, ttft_s=age_s + due_s),
                Slo(ServiceClass.REAL_TIME, tpot_s=(age_s + due_s) / tokens),
                Slo(ServiceClass.REAL_TIME, deadline_s=age_s + due_s),
            ))  # fmt: skip
        task = a_task(f"{order}", slo, order=order, max_tokens=50, prompt_tokens=prompt_tokens, arrival_s=NOW_S - age_s)
        if slo.tpot_s is not None or (slo.ttft_s is None and rng.random() < 0.5):
            task.prompt_left, task.token_times_s = 0, [NOW_S - age_s + 1e-4 * k for k in range(tokens)]
        tasks.append(task)
    return tasks, latency, Limits()


def test_policies_and_limits_that_cannot_be_are_told():
    with pytest.raises(
        PolicyError, match="there is no policy 'fifo'; there are: slack, slice, orca, fastserve, priority, qoserve, slos-serve, jitserve"
    ):
        make_policy("fifo")
    with pytest.raises(PolicyError, match="max_step_tokens is 0; it must be 1 or more"):
        Limits(max_step_tokens=0)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=100, deadline=None)
@given(situation=situations())
def test_every_matrix_can_be_carried_out(policy, situation):
    tasks, latency, limits = situation
    matrix = make_policy(policy).plan(tasks, NOW_S, latency, limits)
    left = {task.goal_id: task.prompt_left for task in tasks}
    assert len(matrix) >= 1
    assert set(matrix.rows) <= set(left)
    for column in matrix:
        assert 1 <= len(column) <= limits.max_batch
        assert len({cell.goal_id for cell in column}) == len(column)
        if policy == "slack":  # the others leave it to the scheduler to cut prompts
            assert sum(max(1, cell.prompt_tokens) for cell in column) <= limits.max_step_tokens
            for cell in column:
                assert (cell.prompt_tokens > 0) == (left[cell.goal_id] > 0), "a prompt first, then decodes"
                assert cell.prompt_tokens <= left[cell.goal_id]
                left[cell.goal_id] -= cell.prompt_tokens


@settings(max_examples=600, deadline=None)
@given(situation=situations() | tight_situations())
def test_a_row_of_less_urgency_makes_no_real_time_row_late(situation):
    """In every column: what comes after a real-time row that gets its token in time leaves it in time, or makes the step no longer."""
    tasks, latency, limits = situation
    matrix = make_policy("slack").plan(tasks, NOW_S, latency, limits)
    rows = {task.goal_id: Row(task) for task in tasks}
    now = NOW_S
    for column in matrix:
        steps_s = [latency.column_s(column[:n], [rows[cell.goal_id].kv_tokens for cell in column[:n]]) for n in range(len(column) + 1)]
        for place, cell in enumerate(column):
            row = rows[cell.goal_id]
            alone_s = latency.column_s((cell,), [row.kv_tokens])
            if not row.task.is_real_time or cell.prompt_tokens < row.prompt_left or now + alone_s > row.due_s:
                continue
            for n in range(place + 2, len(column) + 1):
                assert steps_s[n] <= max(steps_s[n - 1], row.due_s - now) + 1e-9 + latency.kv_token_s * KV_MOST
        now += steps_s[-1]
        for cell in column:
            rows[cell.goal_id].advance(cell.prompt_tokens, now)


KV_MOST = 1000
"""More KV tokens than a row has in these tests: that steps become longer by those of the plan itself is not planned for."""


class Row:
    """A task on its way through a matrix."""

    def __init__(self, task):
        self.task, self.prompt_left, self.kv_tokens, self.tokens = task, task.prompt_left, task.kv_tokens, task.tokens
        self.first_s = task.token_times_s[0] if task.tokens else None

    @property
    def due_s(self):
        """When its next token is due, whatever comes after it: nothing is known of answers' lengths."""
        slo, dues = self.task.slo, [self.task.due_end_s]
        if self.first_s is None and slo.ttft_s is not None:
            dues.append(self.task.arrival_s + slo.ttft_s)
        if self.first_s is not None and slo.tpot_s is not None:
            dues.append(self.first_s + slo.tpot_s * self.tokens)
        return min(dues)

    def advance(self, prompt_tokens, now):
        self.kv_tokens += max(1, prompt_tokens)
        self.prompt_left -= prompt_tokens
        if not self.prompt_left:
            self.tokens += 1
            self.first_s = now if self.first_s is None else self.first_s


@settings(max_examples=200, deadline=None)
@given(situation=situations(), cycle_s=st.floats(0.1, 3.0), ratio=st.floats(0.1, 2.0))
def test_what_slice_selects_fits_its_cycle(situation, cycle_s, ratio):
    tasks, latency, limits = situation
    selected = Slice(cycle_s, ratio).select(tasks, latency, limits)
    rates = [rate for _, rate in selected]
    assert rates == sorted(rates, reverse=True)
    assert len(selected) == 1 or cycle_time_s(rates, latency) <= cycle_s * ratio + 1e-9


@settings(max_examples=200, deadline=None)
@given(situation=situations())
def test_no_selected_task_is_without_a_column(situation):
    tasks, latency, limits = situation
    selected = make_policy("slice").select(tasks, latency, limits)
    assert {task.goal_id for task, _ in selected} == set(make_policy("slice").plan(tasks, NOW_S, latency, limits).rows)


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(sorted(POLICIES)),
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    victim=st.integers(0, 5),
    after=st.integers(0, 30),
    forced=st.integers(0, 3),
)
def test_canceling_a_goal_leaves_the_tokens_of_the_others_as_they_are(policy, lengths, victim, after, forced):
    slos = [RealTime(deadline_s=0.3), BestEffort(ttft_ms=200, tpot_ms=50), BestEffort()]

    def tokens(*, cancel):
        bench = Bench(policy, lengths={f"{i}": Lengths(1, n, forced) for i, n in enumerate(lengths)})
        step = bench.engine.step

        def told_apart(column):
            """Every token says whose it is, and which one."""
            positions = {goal_id: sequence.tokens for goal_id, sequence in bench.engine._sequences.items()}
            return [output._replace(text=f"{output.goal_id}/{positions[output.goal_id]}") for output in step(column)]

        bench.engine.step = told_apart
        bench.submit(*(a_goal(f"{i}", slos[i % 3], max_tokens=12) for i in range(len(lengths))))
        bench.turn(after)
        if cancel:
            bench.scheduler.cancel(f"{victim}")
        bench.drain()
        return {
            f"{i}": [event.text for event in bench.events if isinstance(event, Progress) and event.goal_id == f"{i}"]
            for i in range(len(lengths))
            if i != victim
        }

    left = tokens(cancel=True)
    assert left == tokens(cancel=False)
    assert left == {f"{i}": [f"{i}/{k}" for k in range(0, n, 1 + forced)] for i, n in enumerate(lengths) if i != victim}


def test_random_events_leave_no_goal_behind(caplog, request):
    """Submissions, chains, cancels, checks, changes of policy, steps, in any order: every goal ends exactly once."""
    rng = random.Random(0)
    slos = [
        RealTime(deadline_s=0.2),
        RealTime(ttft_ms=50, on_miss=OnMiss.ABORT),
        BestEffort(tpot_ms=20),
        BestEffort(),
        BestEffort(ttft_ms=40, deadline_s=0.1, on_miss=OnMiss.ABORT),
    ]
    for sequence in range(request.config.getoption("--sequences")):
        lengths = {f"{i}": Lengths(rng.randint(1, 4), rng.randint(1, 9), rng.randrange(5)) for i in range(8 * rng.randrange(2))}
        context_tokens = rng.choice((16, 1000))
        bench = Bench(rng.choice(sorted(POLICIES)), lengths=lengths, max_sequences=rng.choice((2, 16)), context_tokens=context_tokens)
        sent = 0
        for _ in range(rng.randint(1, 8)):
            match rng.randrange(6):
                case 0 | 1:
                    names = (f"{rng.randrange(-1, sent + 1)}",) if rng.random() < 0.3 else ()
                    tokens = rng.randint(1, 8)
                    goal = a_goal(f"{sent}", rng.choice(slos), max_tokens=tokens, prompt_tokens=rng.randint(1, 4), after=names,
                                  submitted_s=bench.clock.now(), chain_deadline_s=rng.choice((None, 0.1)))  # fmt: skip
                    bench.submit(goal)
                    sent += 1
                case 2:
                    bench.scheduler.cancel(f"{rng.randrange(sent + 1)}")
                case 3:
                    bench.scheduler.set_policy(make_policy(rng.choice(sorted(POLICIES))))
                case 4:
                    bench.scheduler.check("q", a_goal("q", rng.choice(slos)), 3)
                case _:
                    bench.turn(rng.randint(1, 3))
        bench.drain()
        ends = [event.goal_id for event in bench.events if isinstance(event, Finished)]
        assert sorted(ends) == sorted(f"{i}" for i in range(sent)), f"sequence {sequence}"
        assert not bench.scheduler.tasks
        assert all(event.error_code is not ErrorCode.INTERNAL for event in bench.ends)
        assert not caplog.records, "the scheduler saves itself from a policy that fails, and says so"
