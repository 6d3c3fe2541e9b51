"""The default policy: mask matrices driven by the slack of every task, with room kept for the real-time goals to come."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, Column, MaskMatrix
from slice_ros.scheduling.experience import Experience
from slice_ros.scheduling.load import Traffic
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies.base import Limits, narrowed
from slice_ros.scheduling.policies.promises import Promises, keepable, select, step_s_by_rows, token_s_by_width
from slice_ros.scheduling.residency import Room
from slice_ros.scheduling.task import Task
from slice_ros.slo import ServiceClass

COLUMNS = 6
"""A matrix has this many columns at most, ..."""
HORIZON_S = 0.3
"""... and begins none later than this from now."""
URGENCY_DECAY = 0.9
"""A real-time row's worth in a column, relative to the real-time row due before it."""
BEST_EFFORT_WORTH = 0.5
"""A chosen best-effort row's worth, relative to the most urgent real-time row."""
SPARE_WORTH = 0.1
"""The same for a row that nothing was promised to."""
REACTION = 0.5
"""No step takes longer than this share of the least slack with which real-time goals have arrived: the next one has to wait for its end."""
LITTLE_LOAD = 0.05
"""Real-time tasks let others go first while none has to be left out, and those to come should take less than this share of the time, ..."""
PRESSED = 2.0
"""... but only promised ones that could not wait for this many times the real-time work in hand."""
SHORTEST_CHUNK = 16
"""Prompts are not cut to pieces shorter than this, in tokens."""
SPARE_SHARE = 0.02
"""Share of the time that goes to the oldest task that nothing was promised to, of each class."""


class Slack:
    """Real-time tasks first, by due time; of the best-effort ones those whose SLO can be kept beside them; the others in spare time.

    Where little real-time work is to be expected, real-time tasks wait for promised best-effort ones that could not wait for them, if
    these are due before them. Its state is what it has learnt (answer lengths by kind, real-time traffic) and the time it owes to the
    oldest spare tasks.
    """

    name = "slack"

    def __init__(self) -> None:
        self._experience = Experience()
        self._latest_order = 0
        self._lost: set[str] = set()
        self._debts = (_Debt(ServiceClass.REAL_TIME), _Debt(ServiceClass.BEST_EFFORT))

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:
        self._learn_arrivals(tasks, latency)
        traffic = self._experience.load.traffic(now)
        room = Room(tasks, now, limits.cells, limits.sequences)
        promised, spare = self._divide(tasks, traffic, room, now, latency, limits)
        owed = [job for debt in self._debts if (job := debt.creditor(spare, now, latency))]
        in_room = _those_in_room(spare, room, limits.max_batch) or ([] if promised else spare[:1])
        columns = build_columns(promised, in_room, owed, traffic.slack_s * REACTION, now, latency, limits)
        for debt in self._debts:
            debt.note(columns[0])
        return MaskMatrix(columns)

    def ended(self, task: Task, *, completed: bool) -> None:
        self._lost.discard(task.goal_id)
        self._experience.ended(task, completed=completed)

    def _learn_arrivals(self, tasks: Sequence[Task], latency: LatencyModel) -> None:
        for task in reversed(tasks):
            if task.order <= self._latest_order:
                break
            self._experience.arrived(task, latency)
        self._latest_order = max(self._latest_order, tasks[-1].order)

    def _divide(
        self, tasks: Sequence[Task], traffic: Traffic, room: Room, now: float, latency: LatencyModel, limits: Limits
    ) -> tuple[list[Outlook], list[Outlook]]:
        """The tasks whose SLO a plan keeps, and the others in the order in which they may have the time that is left."""
        real_time: list[Outlook] = []
        candidates: list[Outlook] = []
        unbounded: list[Outlook] = []
        hopeless: list[Outlook] = []
        for task in tasks:
            if task.goal_id in self._lost or task.is_lost(now):
                self._lost.add(task.goal_id)
                hopeless.append(Outlook.bare(task, latency))
                continue
            job = Outlook.of(task, now, latency, self._experience.lengths)
            if job.hope_s < now:
                hopeless.append(job)
            elif task.is_real_time:
                real_time.append(job)
            elif job.end_s == math.inf:
                unbounded.append(job)
            else:
                candidates.append(job)
        limits = narrowed(limits, tasks)
        promised = keepable(real_time, now, latency, limits)
        any_left_out = len(promised) < len(real_time)
        for job in promised:
            if not job.task.is_open:
                room.take(job.task)
        promised += select(candidates, traffic, now, latency, limits, room)
        for job in promised:
            job.is_promised = True
        if not any_left_out and traffic.share(token_s_by_width(latency, limits)[-1]) < LITTLE_LOAD:
            mark_pressed(promised, Promises(traffic, now, latency, limits), now)
        spare = [
            *(job for job in real_time if not job.is_promised),
            *unbounded,
            *(job for job in candidates if not job.is_promised),
            *sorted(hopeless, key=lambda job: not job.is_real_time),
        ]
        return promised, spare


def mark_pressed(promised: Sequence[Outlook], promises: Promises, now: float) -> None:
    """Find the best-effort tasks that could not wait for the real-time ones, if all of these can be kept beside them, with caution."""
    real_time = [job for job in promised if job.is_real_time and job.end_s < math.inf]
    work_s = sum(job.needed_s for job in real_time)
    pressed = [job for job in promised if not job.is_real_time and job.latest_s - now < PRESSED * work_s]
    if real_time and pressed and all(promises.take(job) for job in (*real_time, *pressed)):
        for job in pressed:
            job.is_pressed = True


def _those_in_room(spare: Sequence[Outlook], room: Room, most: int) -> list[Outlook]:
    """The first of the tasks that nobody has to give way for."""
    chosen: list[Outlook] = []
    for job in spare:
        if len(chosen) == most:
            break
        if room.has(job.task):
            chosen.append(job)
            if not job.task.is_open:
                room.take(job.task)
    return chosen


class _Debt:
    """Time owed to the spare tasks of one class: ``SPARE_SHARE`` of the time that passes while there are any, paid to the oldest."""

    def __init__(self, service_class: ServiceClass) -> None:
        self._service_class = service_class
        self._owed_s = 0.0
        self._at_s = math.inf
        self._creditor: Task | None = None
        self._cell: Cell | None = None
        self._computed_before = 0

    def creditor(self, spare: Sequence[Outlook], now: float, latency: LatencyModel) -> Outlook | None:
        """The oldest, once it is owed the time of a step."""
        self._pay(latency)
        since_s, self._at_s = self._at_s, now
        tasks = [job for job in spare if job.task.slo.service_class is self._service_class]
        if not tasks:
            self._owed_s = 0.0
            return None
        oldest = min(tasks, key=lambda job: job.task.order)
        self._owed_s += SPARE_SHARE * max(0.0, now - max(since_s, oldest.task.arrival_s))
        if self._owed_s < latency.step_s(1):
            return None
        self._creditor, self._computed_before = oldest.task, oldest.task.computed_tokens
        return oldest

    def note(self, column: Column) -> None:
        """Remember what the creditor is to get in the coming step."""
        if self._creditor is not None:
            self._cell = next((cell for cell in column if cell.goal_id == self._creditor.goal_id), None)

    def _pay(self, latency: LatencyModel) -> None:
        """Take what the creditor got of that off the debt: nothing, if there were no KV cells for it."""
        if self._creditor is not None and self._cell is not None:
            computed = self._creditor.computed_tokens - self._computed_before
            if computed:
                self._owed_s -= latency.column_s((self._cell._replace(prompt_tokens=min(self._cell.prompt_tokens, computed)),))
        self._creditor = self._cell = None


def build_columns(
    promised: list[Outlook],
    spare: Sequence[Outlook],
    owed: Sequence[Outlook],
    longest_s: float,
    now: float,
    latency: LatencyModel,
    limits: Limits,
) -> tuple[Column, ...]:
    """The coming steps, the tasks advanced from one to the next as the latency model predicts; ``owed`` takes part in the first."""
    columns: list[Column] = []
    row_s = step_s_by_rows(latency, limits)
    promised = sorted(promised, key=_urgency)[: 2 * limits.max_batch]  # nobody else's turn comes within the horizon
    turns: Counter[str] = Counter()
    at_s = now
    while len(columns) < COLUMNS and at_s <= now + HORIZON_S:
        in_turn = sorted(spare, key=lambda job: turns[job.task.adapter])
        rows = choose_rows(chain(promised, in_turn), at_s, longest_s, row_s, latency, limits)
        for job in owed if not columns else ():
            rows = _with_row(rows, job, at_s, longest_s, latency, limits)
        turns[rows[0][0].task.adapter] += 1
        column = tuple([Cell(job.task.goal_id, chunk) for job, chunk in rows])
        at_s += latency.column_s(column, sum([job.kv_tokens for job, _ in rows]))
        for job, chunk in rows:
            job.advance(chunk, at_s)
        columns.append(column)
        promised.sort(key=_urgency)
    return tuple(columns)


def _urgency(job: Outlook) -> tuple[bool, float]:
    return not (job.is_real_time or job.is_pressed), job.due_s


Rows = list[tuple[Outlook, int]]
"""The tasks of a step, each with the prompt tokens it computes."""


def choose_rows(
    jobs: Iterable[Outlook], now: float, longest_s: float, row_s: Sequence[float], latency: LatencyModel, limits: Limits
) -> Rows:
    """The first of the tasks, as many as give the most worth per second, ``sum of the rows' worth / l(rows)``.

    Where one more row costs as much as a step of its own, urgent tasks run alone; where it costs little, all run together. Prompts and
    KV tokens do not count in that, as they take their time in any step. A row that would make the step longer than ``longest_s`` or the
    slack of a promised row before it is left out, or its prompt is cut, but for the first row; real-time decodes heed the slack alone.

    Args:
        jobs: in order of urgency.
        longest_s: how long the step may be.
        row_s: item b is l(b).
    """
    rows: Rows = []
    best_rows, best, worth, real_time_worth = 0, 0.0, 0.0, 1.0
    serial_s = step_s = 0.0
    slack_s = math.inf
    budget = limits.max_step_tokens
    for job in jobs:
        if rows and job.task.adapter != rows[0][0].task.adapter:
            continue  # its turn comes in another step
        decode_s = row_s[len(rows) + 1]
        is_real_time = job.is_promised and job.is_real_time
        own_s = latency.kv_token_s * job.kv_tokens
        most_s = slack_s if is_real_time and (not job.prompt_left or job.task.is_decoding) else min(longest_s, slack_s)
        most_s = max(most_s, step_s)  # what makes the step no longer than it is does no harm
        chunk, share = 0, 1.0
        if job.prompt_left:
            room_s = most_s - decode_s - serial_s - own_s - latency.chunk_s
            chunk = _chunk(min(job.prompt_left, budget), room_s, latency, must=not rows)
            if not chunk:
                continue
            share = chunk / job.prompt_left
            own_s += latency.prompt_s(chunk)
        elif rows and decode_s + serial_s + own_s > most_s:
            continue
        rows.append((job, chunk))
        serial_s += own_s
        budget -= max(1, chunk)
        if is_real_time:
            worth += share * real_time_worth
            real_time_worth *= URGENCY_DECAY
        else:
            worth += share * (BEST_EFFORT_WORTH if job.is_promised else SPARE_WORTH)
        if job.is_promised:
            start_s = job.latest_s if is_real_time and job.latest_s >= now else job.hope_s
            slack_s = min(slack_s, start_s - now + row_s[1] + own_s)
        step_s = decode_s + serial_s
        if worth >= best * decode_s:
            best_rows, best = len(rows), worth / decode_s
        if len(rows) == limits.max_batch or budget < 1:
            break
    return rows[:best_rows]


def best_width(worths: Sequence[float], latency: LatencyModel, limits: Limits) -> int:
    """How many rows give the most worth per second, if ``worths`` are those of the rows in order; see :func:`choose_rows`."""
    width, best, total = 1, 0.0, 0.0
    for rows, worth in enumerate(worths[: limits.max_batch], 1):
        total += worth
        if total >= best * latency.step_s(rows):
            width, best = rows, total / latency.step_s(rows)
    return width


def _chunk(tokens: int, room_s: float, latency: LatencyModel, *, must: bool) -> int:
    """How many of the prompt tokens to compute in a step that has so much time for them; 0 if it is not worth while."""
    if latency.prompt_token_s * tokens <= room_s:
        return tokens
    if latency.prompt_token_s <= 0.0:  # a flat cost is paid once, or again for each chunk
        return tokens if must else 0
    fitting = min(int(max(room_s, 0.0) / latency.prompt_token_s), tokens)
    if fitting >= SHORTEST_CHUNK:
        return fitting
    return min(tokens, SHORTEST_CHUNK) if must else 0


def _with_row(rows: Rows, job: Outlook, now: float, longest_s: float, latency: LatencyModel, limits: Limits) -> Rows:
    """The rows and one more, in place of the last one if there is no room, its prompt cut to what the others' slack allows.

    One of another adapter has the step for itself: the others come after it, as it could be left out again if it came after them.
    """
    if any(job is other for other, _ in rows):
        return rows
    slack_s = min((other.latest_s - now for other, _ in rows if other.is_promised and other.is_real_time), default=math.inf)
    rows = rows[: limits.max_batch - 1] if job.task.adapter == rows[0][0].task.adapter else []
    budget = limits.max_step_tokens - sum(max(1, chunk) for _, chunk in rows)
    if budget < 1:
        return rows
    if not job.prompt_left:
        return [*rows, (job, 0)]
    tokens = sum(chunk for _, chunk in rows)
    step_s = latency.step_s(len(rows) + 1, tokens, 1 + sum(chunk > 0 for _, chunk in rows))
    return [*rows, (job, _chunk(min(job.prompt_left, budget), min(longest_s, slack_s) - step_s, latency, must=True))]
