"""The loop that turns goals into steps: it takes arrivals and cancels in, asks the policy for a mask matrix, and scans its columns."""

from __future__ import annotations

import itertools
import logging
import math
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from slice_ros.goal import ErrorCode, FinishReason, GoalError, GoalRequest
from slice_ros.latency.model import LatencyModel, rows_of
from slice_ros.latency.pace import Pace
from slice_ros.mask import Cell, Column, MaskMatrix
from slice_ros.scheduling.admission import Admission, Prediction, predict
from slice_ros.scheduling.clock import Clock, MonotonicClock
from slice_ros.scheduling.dependencies import Dependencies
from slice_ros.scheduling.drafts import MAX_DRAFT
from slice_ros.scheduling.engine import Engine, KvFullError, Output
from slice_ros.scheduling.events import Checked, Event, Finished, MaskSnapshot, Progress, Snapshot
from slice_ros.scheduling.experience import Experience
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies.base import Limits, Policy, next_cell
from slice_ros.scheduling.reasoning import must_answer
from slice_ros.scheduling.residency import claim, copy_time, first_to_go, is_worth_copying, unclaimed, victims
from slice_ros.scheduling.task import SloReport, Task

logger = logging.getLogger(__name__)

SNAPSHOT_PERIOD_S = 0.5
COMPLAINT_S = 10.0
"""A policy that breaks is logged at most this often, and not at each of a thousand steps."""
DRIFT_SHARE = 0.25
"""A plan is thrown away when its steps took this share longer or shorter than it assumed, ..."""
DRIFT_S = 0.010
"""... and by at least this much."""
LONGEST_PAST = 64
"""Steps taken that a snapshot shows at most, beside those to come."""
MOST_ROWS = 64
"""Goals that a snapshot shows at most: the latest ones in its mask, and the first ones of those in hand."""


@dataclass(frozen=True, slots=True)
class _Submit:
    request: GoalRequest
    prompt_tokens: int
    lead: int


@dataclass(frozen=True, slots=True)
class _Refuse:
    goal_id: str


@dataclass(frozen=True, slots=True)
class _Cancel:
    goal_id: str
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class _Check:
    check_id: str
    request: GoalRequest
    prompt_tokens: int
    is_prepared: bool


@dataclass(frozen=True, slots=True)
class _SetPolicy:
    policy: Policy


class _Wake:
    """Makes a waiting scheduler look again."""


_Command = _Submit | _Refuse | _Cancel | _Check | _SetPolicy | _Wake


class Scheduler:
    """One thread calls :meth:`run` (or :meth:`turn`); any thread may submit and cancel.

    Args:
        engine: computes the steps.
        policy: decides who takes part in them.
        latency: predicts them, as calibrated; the steps themselves refine it.
        emit: receives the events of one turn, in order; called on the scheduler's thread, must not block.
        clock: tells the time.
        max_batch: goals in one step at most.
        max_draft: tokens guessed ahead for one goal in a step, at most.
        admission: what becomes of goals whose SLO cannot be met.
    """

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        latency: LatencyModel,
        emit: Callable[[list[Event]], None],
        *,
        clock: Clock | None = None,
        max_batch: int = 16,
        max_draft: int = MAX_DRAFT,
        admission: Admission = Admission.ALWAYS,
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._pace = Pace(latency)
        self._emit = emit
        self._clock = clock or MonotonicClock()
        info = engine.info
        self._limits = Limits(
            min(max_batch, info.max_sequences),
            info.max_step_tokens,
            engine.kv.total,
            info.max_sequences,
            max_draft if info.can_draft else 0,
        )
        self._admission = admission
        self._experience = Experience()
        self._dependencies = Dependencies()
        self._inbox: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._stopped = False
        self._tasks: dict[str, Task] = {}
        self._reasoning: dict[str, Task] = {}
        """Those whose reasoning is to end in time, while it goes on."""
        self._arrivals = 0
        self._matrix = MaskMatrix()
        self._planned: frozenset[str] = frozenset()
        """Ids of the goals of the latest plan."""
        self._cursor = 0
        self._planned_with = latency
        self._complains_again_s = -math.inf
        self._planned_s = 0.0
        self._taken_s = 0.0
        self._events: list[Event] = []
        self._meter = _Meter(self._clock.now())
        self._past: list[tuple[Column, list[Task]]] = []

    # ---- any thread

    def submit(self, request: GoalRequest) -> None:
        """Queue a goal.

        Raises:
            GoalError: it cannot be served; no event follows.
        """
        try:
            if request.model not in ("", self._engine.info.model):
                what = f"model is {request.model[:80]!r}; this server has {self._engine.info.model}"
                raise GoalError(ErrorCode.INVALID_GOAL, what)
            prompt_tokens = self._engine.prepare(request)
            lead = self._engine.lead(request.goal_id)
        except Exception:
            self.refuse(request.goal_id)
            raise
        self._inbox.put(_Submit(request.fitted(prompt_tokens, self._engine.info.goal_tokens), prompt_tokens, lead))

    def refuse(self, goal_id: str) -> None:
        """Remember a goal that has ended before it was submitted as one that failed: what comes after it fails as well."""
        self._inbox.put(_Refuse(goal_id))

    def cancel(self, goal_id: str, code: ErrorCode = ErrorCode.CANCELED, message: str = "the goal was canceled") -> None:
        """End a goal with that error; one that has ended or is unknown is left as it is."""
        self._inbox.put(_Cancel(goal_id, code, message))

    def check(self, check_id: str, request: GoalRequest, prompt_tokens: int = 0) -> None:
        """Ask what a goal could expect if it were submitted now; a ``Checked`` event with that id answers.

        Args:
            prompt_tokens: length of its prompt; 0 = count the prompt's own.

        Raises:
            GoalError: the prompt cannot be counted; no event follows.
        """
        is_prepared = not prompt_tokens
        prompt_tokens = prompt_tokens or self._engine.prepare(request)
        self._inbox.put(_Check(check_id, request.fitted(prompt_tokens, self._engine.info.goal_tokens), prompt_tokens, is_prepared))

    def set_policy(self, policy: Policy) -> None:
        """Plan with another policy from the next step on; goals go on as they are."""
        self._inbox.put(_SetPolicy(policy))

    def set_max_batch(self, max_batch: int) -> None:
        """Let at most so many goals take part in a step, from the next plan on."""
        self._limits = replace(self._limits, max_batch=min(max_batch, self._engine.info.max_sequences))

    def set_max_draft(self, max_draft: int) -> None:
        """Guess at most so many tokens ahead for a goal, from the next plan on."""
        self._limits = replace(self._limits, max_draft=max_draft if self._engine.info.can_draft else 0)

    def set_admission(self, admission: Admission) -> None:
        """Judge goals that arrive from now on otherwise."""
        self._admission = admission

    def stop(self) -> None:
        """Make :meth:`run` end every goal with SHUTTING_DOWN and return."""
        self._stopped = True
        self._inbox.put(_Wake())

    # ---- the scheduler's thread

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        while not self._stopped:
            if not self.turn():
                try:
                    command = self._inbox.get(timeout=SNAPSHOT_PERIOD_S)
                except queue.Empty:
                    continue
                self._handle(command)
        self._take_inbox()
        for task in list(self._tasks.values()):
            self._end(task, error=GoalError(ErrorCode.SHUTTING_DOWN, "the server is shutting down; send the goal again when it is back"))
        self._flush()

    def turn(self) -> bool:
        """Take in what has arrived and compute one step; false when there is nothing to do."""
        self._take_inbox()
        self._end_lost()
        worked = bool(self._tasks)
        if worked:
            self._step(self._next_column())
        now = self._clock.now()
        if now >= self._meter.due_s:
            self._events.append(self._snapshot(now))
        self._flush()
        return worked

    @property
    def tasks(self) -> Sequence[Task]:
        """The goals in hand, in order of arrival."""
        return tuple(self._tasks.values())

    @property
    def matrix(self) -> MaskMatrix:
        """The matrix in force."""
        return self._matrix

    def _flush(self) -> None:
        if self._events:
            self._emit(self._events)
            self._events = []

    def _take_inbox(self) -> None:
        while not self._inbox.empty():
            self._handle(self._inbox.get())

    def _handle(self, command: _Command) -> None:
        if isinstance(command, _Submit):
            self._accept(command)
        elif isinstance(command, _Refuse):
            if command.goal_id not in self._tasks:
                self._dependencies.ended(command.goal_id, succeeded=False)
        elif isinstance(command, _Cancel):
            if task_ := self._tasks.get(command.goal_id):
                self._end(task_, error=GoalError(command.code, command.message))
        elif isinstance(command, _Check):
            task = Task.of(command.request, command.prompt_tokens, self._arrivals + 1)
            if command.is_prepared:
                self._look_up(task)
                self._engine.close(task.goal_id)
            prediction = self._predict(task)
            self._events.append(Checked(command.check_id, prediction))
        elif isinstance(command, _SetPolicy):
            self._policy = command.policy
            self._replan()

    def _accept(self, submitted: _Submit) -> None:
        """Make a task of a goal, or end it at once."""
        request = submitted.request
        task = Task.of(request, submitted.prompt_tokens, self._arrivals + 1, submitted.lead)
        self._look_up(task)
        try:
            task.chain_due_s = task.budget_due_s = self._dependencies.add(request, self._tasks)
            if not self._dependencies.is_waiting(task.goal_id):  # when one that waits will start, nobody knows
                self._admit(task)
        except GoalError as error:
            self._engine.close(task.goal_id)
            self._dependencies.ended(task.goal_id, succeeded=False)
            self._events.append(Finished(task.goal_id, None, error.code, error.message, task.report(completed=False)))
            return
        self._arrivals += 1
        self._tasks[task.goal_id] = task
        if task.reasons_in_time:
            self._reasoning[task.goal_id] = task
        self._experience.arrived(task, self._pace.latency)
        self._replan()

    def _admit(self, task: Task) -> None:
        """Note what a new goal can expect.

        Raises:
            GoalError: INFEASIBLE, if admission is strict and its SLO cannot be met, or not without harm to real-time goals in hand.
        """
        prediction = self._predict(task)
        task.predicted_ttft_s, task.predicted_tpot_s, task.predicted_e2e_s = prediction.ttft_s, prediction.tpot_s, prediction.e2e_s
        if self._admission is Admission.STRICT and not prediction.fits:
            raise GoalError(ErrorCode.INFEASIBLE, prediction.reason)

    def _look_up(self, task: Task) -> None:
        """Note how much of a task that is not open would have to be computed if it were opened now."""
        task.prompt_left = task.known_tokens - self._engine.cached(task.goal_id)

    def _take_over(self, task: Task) -> None:
        """Let an open task have what others have computed of its prompt since."""
        reused = self._engine.reuse(task.goal_id)
        task.prompt_left -= reused
        if not task.tokens:
            task.cached_tokens = min(task.prompt_tokens, task.cached_tokens + reused)

    def _predict(self, task: Task) -> Prediction:
        return predict(task, self._ready(), self._clock.now(), self._pace.latency, self._limits, self._experience)

    def _ready(self) -> list[Task]:
        """The goals in hand that wait for no other."""
        tasks = list(self._tasks.values())
        return [task for task in tasks if not self._dependencies.is_waiting(task.goal_id)] if self._dependencies.any_waiting else tasks

    def _end_lost(self) -> None:
        now = self._clock.now()
        for task in [task for task in self._tasks.values() if task.ends_on_miss and task.is_lost(self._next_token_s(task, now))]:
            what = f"the SLO is out of reach {now - task.arrival_s:.3f} s after the goal was sent, with {task.tokens} tokens"
            self._end(task, error=GoalError(ErrorCode.SLO_MISSED, what))

    def _next_token_s(self, task: Task, now: float) -> float:
        """When a task has its next token at the earliest: if it has all steps from now on for itself."""
        if not task.is_open:  # others may have computed of its prompt since
            self._look_up(task)
        elif task.prompt_left > 1:
            self._take_over(task)
        return now + self._pace.latency.column_s((next_cell(task),), [task.kv_tokens])

    def _end(self, task: Task, *, reason: FinishReason | None = None, error: GoalError | None = None) -> None:
        """End a goal, and with an error all that wait for it."""
        ends = [(task, error)]
        while ends:
            task, error = ends.pop()
            if self._tasks.pop(task.goal_id, None) is None:
                continue
            self._reasoning.pop(task.goal_id, None)
            self._engine.close(task.goal_id)
            task.hung_up = error is not None and self._had_enough(task, error.code)
            self._policy.ended(task, completed=error is None)
            self._experience.ended(task, completed=error is None)
            code, message = (ErrorCode.NONE, "") if error is None else (error.code, error.message)
            self._events.append(Finished(task.goal_id, reason, code, message, task.report(completed=error is None)))
            stranded, failure = self._dependencies.ended(task.goal_id, succeeded=error is None)
            ends.extend((self._tasks[goal_id], failure) for goal_id in reversed(stranded))
        self._replan()

    def _had_enough(self, task: Task, code: ErrorCode) -> bool:
        """Whether whoever sent a goal hung up with some of its answer while all its bounds were kept."""
        if code is not ErrorCode.CANCELED or not task.tokens or task.is_reasoning or not task.slo.has_bound:
            return False
        return task.report(completed=True).attained and self._clock.now() <= task.due_end_s

    # ---- planning

    def _replan(self) -> None:
        self._matrix = MaskMatrix()

    def _next_column(self) -> Column:
        drift_s = abs(self._taken_s - self._planned_s)
        if self._cursor >= len(self._matrix) or drift_s > max(DRIFT_S, DRIFT_SHARE * self._planned_s):
            self._replan()
        if not self._matrix.columns:
            self._plan()
        while self._cursor < len(self._matrix):
            column = self._resolve(self._matrix.columns[self._cursor])
            self._cursor += 1
            if column:
                return column
        self._replan()  # there is no room for anybody in it: the oldest goal that has its place moves on
        ready = self._ready()
        return self._resolve((next_cell(next((task for task in ready if task.is_open), ready[0])),))

    def _plan(self) -> None:
        tasks = self._ready()
        for task in tasks:
            if not task.is_open:
                self._look_up(task)
        self._dependencies.split_budgets(self._tasks, self._clock.now(), self._pace.latency)
        try:
            matrix = self._policy.plan(tasks, self._clock.now(), self._pace.latency, self._limits)
        except Exception:
            matrix = MaskMatrix()
            if self._clock.now() >= self._complains_again_s:
                self._complains_again_s = self._clock.now() + COMPLAINT_S
                logger.exception("policy %s could not plan; the oldest goal takes the next step", self._policy.name)
        matrix = matrix.split({task.goal_id: task.adapter for task in tasks})
        self._matrix = matrix if matrix.columns else MaskMatrix(((next_cell(tasks[0]),),))
        self._planned = frozenset(self._matrix.rows)
        self._cursor = 0
        self._planned_with = self._pace.latency
        self._planned_s = self._taken_s = 0.0

    def _resolve(self, planned: Column) -> Column:
        """What the column comes to: goals that have ended left out, prompts cut to what is left and fits, KV room made, drafts guessed."""
        planned = planned[: self._limits.max_step_tokens]
        if all(
            not (n or drafted) and (task := self._tasks.get(goal_id)) and task.is_open and not task.prompt_left
            for goal_id, n, _, drafted in planned
        ):
            return planned  # nothing but decodes
        budget = self._limits.max_step_tokens - len(planned)  # every cell has one token for sure; longer prompts share the rest
        members = {cell.goal_id for cell in planned}
        copy_until_s = self._copy_until_s(planned)
        column: list[Cell] = []
        for goal_id, prompt_tokens, _, most_drafted in planned:
            task = self._tasks.get(goal_id)
            if task is None or not (task.is_open or self._open(task, members, copy_until_s)):
                continue
            if task.prompt_left > 1:
                self._take_over(task)
            chunk = min(prompt_tokens or task.prompt_left, task.prompt_left, budget + 1)
            if chunk > 1:
                chunk = self._engine.stride(goal_id, chunk)
            budget -= max(0, chunk - 1)
            drafted = self._draft(task, min(most_drafted, budget)) if most_drafted and chunk == task.prompt_left else 0
            column.append(Cell(goal_id, chunk, task.is_decoding and chunk > 0, drafted))
            budget -= drafted
        return tuple(column)

    def _draft(self, task: Task, most: int) -> int:
        drafted = self._engine.draft(task.goal_id, most) if most else 0
        if not drafted:
            task.drafts.miss()
        return drafted

    def _copy_until_s(self, column: Column) -> float:
        """Until when goals of the column that are not open may have KV copied, their own or that of those who give way."""
        now = self._clock.now()
        if all(task.is_open for cell in column if (task := self._tasks.get(cell.goal_id))):
            return now
        real_time = (task for task in self._tasks.values() if task.is_real_time)
        return now + copy_time((Outlook.of(task, now, self._pace.latency, self._experience.lengths) for task in real_time), now)

    def _open(self, task: Task, members: set[str], copy_until_s: float) -> bool:
        """Give a task its place in the KV cache, if need be at the cost of tasks that take no part in this step."""
        holders = [other for other in self._tasks.values() if other.is_open]
        giving_way = victims(holders, members, task, self._clock.now(), self._planned)
        if self._unclaimed([holder for holder in holders if holder not in giving_way]) < claim(task):
            return False  # in vain: cells that they share with those who stay would not be free
        while not self._has_place(task, holders):
            if not giving_way:
                return False
            victim = giving_way.pop(0)
            self._evict(victim, copy_until_s)
            holders.remove(victim)
        cached = self._engine.open(task.goal_id, self._copy_s(task.known_tokens, copy_until_s))
        if task.started_s is None:
            task.cached_tokens = min(cached, task.prompt_tokens)
        planned_left = task.prompt_left
        task.prompt_left = task.known_tokens - cached
        if task.prompt_left > planned_left:
            self._replan()  # of what was kept in host memory, less was copied back
        task.is_open = True
        return True

    def _evict(self, task: Task, copy_until_s: float) -> None:
        self._engine.evict(task.goal_id, self._copy_s(task.kv_tokens, copy_until_s))
        self._look_up(task)
        task.is_open = task.is_decoding = False
        self._replan()  # where it was to decode, all its tokens would be computed

    def _copy_s(self, tokens: int, until_s: float) -> float:
        """How long a copy of the KV of so many tokens may take."""
        if not is_worth_copying(tokens, self._engine.copy_token_s, self._pace.latency):
            return 0.0
        return max(0.0, until_s - self._clock.now())

    def _has_place(self, task: Task, holders: Sequence[Task]) -> bool:
        return self._unclaimed(holders) >= claim(task) and len(holders) < self._engine.info.max_sequences

    def _unclaimed(self, holders: Sequence[Task]) -> int:
        return unclaimed(self._engine.kv.total, self._engine.held([task.goal_id for task in holders]), holders)

    # ---- stepping

    def _step(self, column: Column) -> None:
        began = self._clock.now()
        if self._reasoning:
            self._conclude(began)
        while True:
            try:
                outputs = self._engine.step(column)
                break
            except KvFullError as error:
                column = self._give_way(column, error)
                if not column:
                    return
                began = self._clock.now()
        tasks, calibrated = [self._tasks[cell.goal_id] for cell in column], self._pace.calibrated
        kv_tokens = [task.kv_tokens for task in tasks]
        calibrated_s = calibrated.column_s(column, kv_tokens)
        predicted_s = calibrated_s if self._planned_with is calibrated else self._planned_with.column_s(column, kv_tokens)
        for task, (_, prompt_tokens, *_) in zip(tasks, column, strict=True):
            task.prompt_left -= prompt_tokens
            task.computed_tokens += max(1, prompt_tokens)
            if task.started_s is None:
                task.started_s = began
        self._past.append((column, tasks))
        now = self._clock.now()
        self._planned_s += predicted_s
        self._taken_s += now - began
        rows = rows_of(column)
        self._meter.add(now - began, predicted_s, calibrated_s, rows - len(column), outputs)
        rows_s = calibrated.step_s(rows, kv_tokens=sum(calibrated.all_attended(kv_tokens)))
        self._pace.observe(rows_s, max(0.0, calibrated_s - rows_s), now - began)
        drafted = {cell.goal_id: cell.drafted for cell in column} if rows > len(column) else None
        for goal_id, text, tokens, pending, finish, logprobs, failure, calls, right, saved, reasoning, is_reasoning in outputs:
            task = self._tasks[goal_id]
            if drafted:
                task.drafts.add(drafted[goal_id], right, saved)
            if failure is not None:
                self._end(task, error=failure)
                continue
            task.token_times_s.extend([now] * tokens)
            task.steps += 1
            task.prompt_left = pending if pending > 1 else 0
            task.is_decoding = True
            if is_reasoning or task.is_reasoning:
                task.is_reasoning, task.reasoned = is_reasoning, task.tokens
                if not is_reasoning:
                    self._reasoning.pop(goal_id, None)
            self._events.append(Progress(goal_id, text, task.report(completed=finish is not None), logprobs, calls, reasoning))
            if finish is not None:
                self._end(task, reason=finish)

    def _conclude(self, now: float) -> None:
        """Have goals whose reasoning ends in time begin their answers, where it is time to."""
        others = min(len(self._tasks), self._limits.max_batch) - 1
        for task in list(self._reasoning.values()):
            if must_answer(task, now, others, self._pace.latency, self._experience.lengths):
                self._engine.conclude(task.goal_id)
                del self._reasoning[task.goal_id]

    def _give_way(self, column: Column, error: KvFullError) -> Column:
        """What is left of a column for which there are too few KV cells, after one goal was evicted; a goal that is alone ends."""
        holders = [task for task in self._tasks.values() if task.is_open]
        if len(holders) == 1:
            self._end(holders[0], error=GoalError(ErrorCode.OVERLOADED, str(error)))
            return ()
        victim = first_to_go(holders, [cell.goal_id for cell in column])
        self._evict(victim, -math.inf)
        return tuple(cell for cell in column if cell.goal_id != victim.goal_id)

    def _snapshot(self, now: float) -> Snapshot:
        meter, kv = self._meter, self._engine.kv
        self._meter = _Meter(now, meter.steps)
        past = self._past[-LONGEST_PAST:]
        self._past = []
        shown = MaskMatrix((*(column for column, _ in past), *self._matrix.columns[self._cursor :]))
        known = self._tasks | {task.goal_id: task for _, tasks in past for task in tasks}
        rows = sorted(known.values(), key=lambda task: task.order)[-MOST_ROWS:]  # also who waits or is left out
        ids = tuple(task.goal_id for task in rows)
        mask = MaskSnapshot(
            ids,
            tuple(task.kind for task in rows),
            tuple(task.is_real_time for task in rows),
            tuple(next_due_s(task) - now if task.goal_id in self._tasks else math.nan for task in rows),
            shown.to_array(ids),
            len(past),
        )
        running = sum(task.started_s is not None for task in self._tasks.values())
        elapsed_s = max(now - meter.since_s, 1e-9)
        steps = meter.steps - meter.steps_before
        return Snapshot(
            self._policy.name,
            len(self._tasks) - running,
            running,
            meter.steps,
            meter.taken_s / steps if steps else math.nan,
            meter.predicted_s / steps if steps else math.nan,
            meter.calibrated_s / steps if steps else math.nan,
            meter.tokens / elapsed_s,
            meter.tokens / meter.shares if meter.shares else math.nan,
            meter.drafted / steps if steps else math.nan,
            meter.right / meter.drafted if meter.drafted else math.nan,
            kv.used,
            kv.cached,
            kv.parked_bytes,
            kv.total,
            mask,
            self._pace.latency,
            self._limits,
            tuple(task.state(now) for task in itertools.islice(self._tasks.values(), MOST_ROWS)),
        )


class _Meter:
    """Counts steps from one snapshot to the next."""

    def __init__(self, since_s: float, steps: int = 0) -> None:
        self.since_s = since_s
        self.due_s = since_s + SNAPSHOT_PERIOD_S
        self.steps_before = steps
        self.steps = steps
        self.taken_s = 0.0
        self.predicted_s = 0.0
        self.calibrated_s = 0.0
        self.tokens = 0
        self.shares = 0
        self.drafted = 0
        self.right = 0

    def add(self, taken_s: float, predicted_s: float, calibrated_s: float, drafted: int, outputs: Sequence[Output]) -> None:
        self.steps += 1
        self.taken_s += taken_s
        self.predicted_s += predicted_s
        self.calibrated_s += calibrated_s
        self.tokens += sum([output.tokens for output in outputs])
        self.shares += len(outputs)
        if drafted:
            self.drafted += drafted
            self.right += sum([output.right for output in outputs])


def next_due_s(task: Task) -> float:
    """When a task's next token is due under its SLO; infinite without a bound that says so."""
    slo = task.slo
    due_s = task.due_end_s
    if not task.token_times_s:
        return min(due_s, task.first_due_s)
    return min(due_s, math.inf if slo.tpot_s is None else task.token_times_s[0] + slo.tpot_s * task.tokens)


def failed(request: GoalRequest, error: GoalError) -> Finished:
    """The end of a goal that never became a task."""
    return Finished(request.goal_id, None, error.code, error.message, no_token_yet(request))


def no_token_yet(request: GoalRequest) -> SloReport:
    """What a goal has experienced that has no token: bounds that it did not ask for are kept."""
    return Task.of(request, 0, 0).report(completed=False)
