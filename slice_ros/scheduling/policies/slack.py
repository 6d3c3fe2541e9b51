"""The default policy: mask matrices driven by the slack of every task, with room kept for the real-time goals to come."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, Column, MaskMatrix
from slice_ros.scheduling.drafts import Drafts
from slice_ros.scheduling.experience import Experience
from slice_ros.scheduling.load import Traffic
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies.base import Limits, narrowed
from slice_ros.scheduling.policies.drafting import Row, draft_lengths
from slice_ros.scheduling.policies.laxity import laxity_s, too_early
from slice_ros.scheduling.policies.promises import keepable, select, sparing_rows, step_s_by_rows, token_s_by_width
from slice_ros.scheduling.policies.slip import Slip
from slice_ros.scheduling.residency import Room, held_back
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
OVERHEAD = 0.1
"""Steps take so much of others' prompts that what a step costs without them, ``l(1)`` and a chunk, is this share of it, ..."""
DEAREST_OVERHEAD = 0.3
"""... or this one, where real-time goals to come could not wait for it: shorter steps still would cost others much and help them little."""
SHARE = 0.5
"""Share of what a real-time task can wait that the prompt of a later one may take in one step."""
TOGETHER = 1.25
"""Real-time tasks keep time for steps of as many rows as take so many times one row's, instead of for steps of their own."""
SHORTEST_CHUNK = 16
"""Prompts are not cut to pieces shorter than this, in tokens, ..."""
WHOLE_TOKENS = 64
"""... and where looking back takes time, so that those of a step are a multiple of this: kernels for attention compute so many tokens at a
time, and fewer take no less (llama.cpp's on a CPU: 63 tokens behind 512 others took 171 ms, 64 took 81)."""
SPARE_SHARE = 0.02
"""Share of the time that goes to the oldest task that nothing was promised to, of each class, ..."""
PUT_OFF_STEPS = 10
"""... later, if real-time tasks have no time for it, until so many steps are owed."""
ROUNDING = 1e-12
"""Share by which a sum may be off for its rounding."""

Rows = list[tuple[Outlook, int]]
"""The tasks of a step, each with the prompt tokens it computes."""


class Slack:
    """Real-time tasks first, by due time; of the best-effort ones those whose SLO can be kept beside them; the others in spare time.

    Where little real-time work is to be expected, real-time tasks wait for promised best-effort ones that could not wait for them, if
    these are due before them. Its state is what it has learnt (answer lengths by kind, real-time traffic, how far promises slip) and the
    time it owes to the oldest spare tasks.
    """

    name = "slack"

    def __init__(self) -> None:
        self._experience = Experience()
        self._latest_order = 0
        self._lost: set[str] = set()
        self._slip = Slip()
        self._debts = (_Debt(ServiceClass.REAL_TIME), _Debt(ServiceClass.BEST_EFFORT))

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:
        waiting = waiting_for(tasks)
        self._learn_arrivals(sorted([*tasks, *waiting.values()], key=lambda task: task.order) if waiting else tasks, latency)
        traffic = self._experience.load.traffic(now)
        held = held_back(tasks, now, limits.max_batch, limits.cells)
        room = Room(tasks, now, limits.cells, limits.sequences, held)
        narrow = narrowed(limits, tasks)
        promised, to_come, spare = self._divide(tasks, waiting, traffic, room, now, latency, narrow)
        promised = [job for job in promised if job.task.goal_id not in held]
        in_room = _those_in_room([job for job in spare if job.task.goal_id not in held], room, limits.max_batch)
        in_room = in_room or ([] if promised else spare[:1])
        real_time = [job for job in promised if job.is_real_time]
        beside = _beside(real_time, [*promised, *in_room], limits)
        laxity = laxity_s([*real_time, *to_come], traffic, now, latency, narrow, beside)
        early = too_early(real_time, now, latency, narrow)
        promised = [job for job in promised if job not in early]
        owed_s = latency.step_s(1, SHORTEST_CHUNK, 1)
        owed = [job for debt in self._debts if (job := debt.creditor(spare, now, latency, put_off=laxity < owed_s))]
        laxity -= owed_s * len(owed)
        mark_pressed(promised, laxity, now)
        columns = build_columns(promised, in_room, owed, laxity, now, latency, limits, self._experience.drafts)
        for debt in self._debts:
            debt.note(columns[0])
        return MaskMatrix(columns)

    def ended(self, task: Task, *, completed: bool) -> None:
        self._lost.discard(task.goal_id)
        self._slip.ended(task)
        self._experience.ended(task, completed=completed)

    def _learn_arrivals(self, tasks: Sequence[Task], latency: LatencyModel) -> None:
        for task in reversed(tasks):
            if task.order <= self._latest_order:
                break
            self._experience.arrived(task, latency)
        self._latest_order = max(self._latest_order, tasks[-1].order)

    def _divide(
        self,
        tasks: Sequence[Task],
        waiting: Mapping[str, Task],
        traffic: Traffic,
        room: Room,
        now: float,
        latency: LatencyModel,
        limits: Limits,
    ) -> tuple[list[Outlook], list[Outlook], list[Outlook]]:
        """The tasks whose SLO a plan keeps, the real-time ones of those that wait for others of which it can be kept as well, and the other
        tasks in the order in which they may have the time that is left.
        """
        real_time: list[Outlook] = []
        candidates: list[Outlook] = []
        unbounded: list[Outlook] = []
        hopeless: list[Outlook] = []
        for task in tasks:
            if task.goal_id in self._lost or task.is_lost(now):
                self._lost.add(task.goal_id)
                job = Outlook.bare(task, latency)
                job.is_hopeless = True
            else:
                job = Outlook.of(task, now, latency, self._experience.lengths)
                job.is_hopeless = job.hope_s < now
            if job.is_hopeless:
                hopeless.append(job)
            elif task.is_real_time:
                real_time.append(job)
            elif job.end_s == math.inf:
                unbounded.append(job)
            else:
                candidates.append(job)
        to_come = [Outlook.of(task, now, latency, self._experience.lengths) for task in waiting.values() if task.is_real_time]
        slip = self._slip.share(traffic.share(token_s_by_width(latency, limits)[-1]))
        kept = keepable([*real_time, *to_come], now, latency, limits, slip)
        to_come = [job for job in kept if job.task.goal_id in waiting]
        promised = [job for job in kept if job.task.goal_id not in waiting]
        self._slip.promised(promised)
        for job in promised:
            if not job.task.is_open:
                room.take(job.task)
        chosen = select(candidates, traffic, now, latency, limits, room)
        if len(chosen) < len(candidates):
            for job in chosen:
                job.is_crowded = job.task.slo.tpot_s is None
        promised += chosen
        for job in promised:
            job.is_promised = True
        spare = [
            *(job for job in real_time if not job.is_promised),
            *unbounded,
            *(job for job in candidates if not job.is_promised),
            *sorted(hopeless, key=lambda job: not job.is_real_time),
        ]
        return promised, to_come, spare


def waiting_for(tasks: Sequence[Task]) -> Mapping[str, Task]:
    """All that wait for one of the tasks, directly or in a chain, by goal ID."""
    found: dict[str, Task] = {}
    front = [follower for task in tasks for follower in task.followers]
    while front:
        task = front.pop()
        if task.goal_id not in found:
            found[task.goal_id] = task
            front += task.followers
    return found


def _beside(real_time: Sequence[Outlook], jobs: Sequence[Outlook], limits: Limits) -> int:
    """How many others may take part in the steps of the real-time tasks; as many as fit while there are none of these."""
    if not real_time:
        return limits.max_batch
    adapters = {job.task.adapter for job in real_time}
    return sum(not job.is_real_time and job.task.adapter in adapters for job in jobs)


def mark_pressed(promised: Sequence[Outlook], laxity: float, now: float) -> None:
    """Find the best-effort tasks that could not wait for the real-time work in hand, those due first, while that can wait for them."""
    work_s = sum(job.needed_s for job in promised if job.is_real_time)
    for job in sorted((job for job in promised if not job.is_real_time), key=lambda job: job.due_s):
        soon_s = job.due_s - job.latest_s
        if work_s and job.latest_s - now < work_s and soon_s <= laxity:
            job.is_pressed = True
            laxity -= soon_s


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

    def creditor(self, spare: Sequence[Outlook], now: float, latency: LatencyModel, *, put_off: bool = False) -> Outlook | None:
        """The oldest, once it is owed the time of a step, or of ``PUT_OFF_STEPS`` if that can be put off."""
        self._pay(latency)
        since_s, self._at_s = self._at_s, now
        tasks = [job for job in spare if job.task.slo.service_class is self._service_class]
        if not tasks:
            self._owed_s = 0.0
            return None
        oldest = min(tasks, key=lambda job: job.task.order)
        self._owed_s += SPARE_SHARE * max(0.0, now - max(since_s, oldest.task.arrival_s))
        if self._owed_s < latency.step_s(1) * (PUT_OFF_STEPS if put_off else 1):
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
    laxity_s: float,
    now: float,
    latency: LatencyModel,
    limits: Limits,
    drafts: Drafts | None = None,
) -> tuple[Column, ...]:
    """The coming steps, the tasks advanced from one to the next as the latency model predicts; ``owed`` takes part in the first.

    Args:
        laxity_s: for how long the real-time tasks can do without the device.
        drafts: what is known of those.
    """
    columns: list[Column] = []
    row_s = step_s_by_rows(latency, limits)
    promised = sorted(promised, key=_urgency)[: 2 * limits.max_batch]  # nobody else's turn comes within the horizon
    turns: Counter[str] = Counter()
    at_s = now
    while len(columns) < COLUMNS and at_s <= now + HORIZON_S:
        in_turn = sorted(spare, key=lambda job: turns[job.task.adapter])
        rows = choose_rows([*promised, *in_turn], at_s, laxity_s, row_s, latency, limits)
        for job in owed if not columns else ():
            rows = _with_row(rows, job, at_s, laxity_s, latency, limits)
        turns[rows[0][0].task.adapter] += 1
        drafted = drafts_of(rows, promised, at_s, laxity_s, drafts, latency, limits) if drafts and limits.max_draft else [0] * len(rows)
        column = tuple([Cell(job.task.goal_id, chunk, drafted=tokens) for (job, chunk), tokens in zip(rows, drafted, strict=True)])
        step_s = latency.column_s(column, [job.kv_tokens for job, _ in rows])
        at_s += step_s
        laxity_s -= step_s - _real_time_work_s(rows, row_s, latency)
        for job, chunk in rows:
            is_first = not job.tokens
            job.advance(chunk, at_s)
            if is_first and job.tokens and job.is_promised and job.is_real_time:
                laxity_s = min(laxity_s, job.latest_s - at_s)  # its pace counts from now on
        columns.append(column)
        promised.sort(key=_urgency)
    return tuple(columns)


def _real_time_work_s(rows: Rows, row_s: Sequence[float], latency: LatencyModel) -> float:
    """What of the step is work of the promised real-time rows in it."""
    real_time = [(job, chunk) for job, chunk in rows if job.is_promised and job.is_real_time]
    return row_s[len(real_time)] + sum(_own_s(job, chunk, latency) for job, chunk in real_time)


def _own_s(job: Outlook, chunk: int, latency: LatencyModel) -> float:
    """What a row adds to a step by itself, however many others are in it."""
    return latency.kv_s(job.kv_tokens) + (latency.prompt_s(chunk, job.kv_tokens) if chunk else 0.0)


def _urgency(job: Outlook) -> tuple[bool, float]:
    return not (job.is_real_time or job.is_pressed), job.due_s


def choose_rows(
    jobs: Sequence[Outlook], now: float, laxity_s: float, row_s: Sequence[float], latency: LatencyModel, limits: Limits
) -> Rows:
    """The first of the tasks, as many as give the most worth per second, ``sum of the rows' worth / l(rows)``.

    Where one more row costs as much as a step of its own, urgent tasks run alone; where it costs little, all run together. Prompts and
    KV tokens do not count in that, as they take their time in any step, but for those of hopeless tasks, which need none. A row that would
    make the step longer than the slack of a promised row before it is left out, or its prompt is cut, but for the first row. So is one
    that is not real-time and would add more to the real-time rows' part of the step than ``laxity_s``.

    Args:
        jobs: in order of urgency, spare ones last.
        laxity_s: for how long the real-time tasks can do without the device.
        row_s: item b is l(b).
    """
    rows: Rows = []
    best_rows, best, worth, real_time_worth, most_worth = 0, 0.0, 0.0, 1.0, 1.0
    soonest_s = min([_rest_s(job) for job in jobs if job.is_crowded], default=0.0)
    serial_s = step_s = real_time_s = others_prompts_s = hopeless_s = 0.0
    any_real_time = any(job.is_promised and job.is_real_time for job in jobs)
    slack_s, budget, alone_s = math.inf, limits.max_step_tokens, max(laxity_s, (row_s[1] + latency.chunk_s) / DEAREST_OVERHEAD)
    together, sparing = _rows_together(row_s, len(jobs)) if any_real_time else 1, sparing_rows(latency, limits, len(jobs))
    for job in jobs:
        if (from_here := _worth_from_here(job)) < most_worth and not _may_pay(from_here, worth, best, len(rows), row_s):
            break
        most_worth = from_here
        if rows and job.task.adapter != rows[0][0].task.adapter:
            continue  # its turn comes in another step
        decode_s = row_s[len(rows) + 1]
        is_real_time = job.is_promised and job.is_real_time
        must = not rows and (is_real_time or not any_real_time)
        own_s = latency.kv_s(job.kv_tokens)
        if is_real_time:  # what is decoding has but forced tokens left of its prompt
            most_s, prompts_s = slack_s, math.inf if job.task.is_decoding else SHARE * (slack_s - step_s)
        else:
            most_s = min(slack_s, real_time_s + laxity_s if any_real_time else alone_s)
            prompts_s = (_worthwhile_s(job, row_s, latency) if job.prompt_left else 0.0) - others_prompts_s
        most_s = max(most_s, step_s)  # what makes the step no longer than it is does no harm
        chunk, share = 0, 1.0
        if job.prompt_left:
            room_s = min(most_s - decode_s - serial_s - own_s - latency.chunk_s, prompts_s)
            if not (chunk := _chunk(job, budget, room_s, latency, must=must, before=_prompt_tokens(rows))):
                continue
            share = 1.0 if not is_real_time and _pays(job, len(rows), row_s) else chunk / job.prompt_left
            own_s += latency.prompt_s(chunk, job.kv_tokens)
        elif not must and decode_s + serial_s + own_s > most_s:
            continue
        rows.append((job, chunk))
        serial_s += own_s
        budget -= max(1, chunk)
        before_s, step_s = step_s, decode_s + serial_s
        if is_real_time:
            real_time_s += step_s - before_s
            worth += share * real_time_worth
            real_time_worth *= URGENCY_DECAY
        else:
            others_prompts_s += latency.prompt_s(chunk, job.kv_tokens) if chunk else 0.0
            hopeless_s += own_s if job.is_hopeless else 0.0
            worth += share * _others_worth(job, soonest_s)
        if job.is_promised:
            slack_s = min(slack_s, _slack_s(job, now, row_s, together, sparing) + own_s)
        if worth >= best * (decode_s + hopeless_s):
            best_rows, best = len(rows), worth / (decode_s + hopeless_s)
        if len(rows) == limits.max_batch or budget < 1:
            break
    return rows[:best_rows]


def _worth_from_here(job: Outlook) -> float:
    """What it and those after it, in order of urgency, are worth each at most."""
    if not job.is_promised:
        return SPARE_WORTH
    return 1.0 if job.is_real_time or job.is_pressed else BEST_EFFORT_WORTH


def _may_pay(each: float, worth: float, best: float, rows: int, row_s: Sequence[float]) -> bool:
    """Whether more rows that are worth so much each, at most, may bring a step to the best worth per second."""
    enough = best * (1.0 - ROUNDING)
    return any(worth + each * (more - rows) >= enough * row_s[more] for more in range(rows + 1, len(row_s)))


def _others_worth(job: Outlook, soonest_s: float) -> float:
    """A row's worth that is not real-time; of crowded tasks, one that needs n times as much as the soonest done has 1 / sqrt(n) of it."""
    if not job.is_promised:
        return SPARE_WORTH
    return BEST_EFFORT_WORTH * (math.sqrt(soonest_s / _rest_s(job)) if job.is_crowded else 1.0)


def _rest_s(job: Outlook) -> float:
    """What a task still needs, in time; also where a plan has brought it further than that."""
    return max(job.needed_s, job.token_s)


def _worthwhile_s(job: Outlook, row_s: Sequence[float], latency: LatencyModel) -> float:
    """How much of others' prompts, in time, makes what a step with a chunk of this one takes in any case ``OVERHEAD`` of them."""
    return (row_s[1] + latency.chunk_s + latency.prompt_kv_token_s * WHOLE_TOKENS * latency.attended(job.kv_tokens)) / OVERHEAD


def _pays(job: Outlook, rows: int, row_s: Sequence[float]) -> bool:
    """Whether decoding beside so many rows will save more, at their time for a token, than the task's prompt takes."""
    return rows > 0 and job.expected * (row_s[rows] * (rows + 1) / rows - row_s[rows + 1]) >= job.prompt_s


def drafts_of(
    rows: Rows, promised: Sequence[Outlook], now: float, laxity_s: float, drafts: Drafts, latency: LatencyModel, limits: Limits
) -> list[int]:
    """How many tokens to guess for each row of a step.

    Guesses may all be wrong: even then the step is no longer than what the slack of each promised task allows, and those of rows that are
    not real-time take no more than the laxity.
    """
    if len(rows) >= len(latency.decode_s):
        return [0] * len(rows)  # none goes beyond the rows whose time was measured
    row_s = latency.step_s(1)
    alone_s = {id(job): row_s + _own_s(job, chunk, latency) for job, chunk in rows}
    slack_s = min((_start_s(job, now) - now + alone_s.get(id(job), 0.0) for job in promised), default=math.inf)
    chunks = [chunk for _, chunk in rows if chunk]
    column = tuple([Cell(job.task.goal_id, chunk) for job, chunk in rows])
    step_s = latency.column_s(column, [job.kv_tokens for job, _ in rows])
    others_s = step_s + laxity_s
    if not any(job.is_real_time for job in promised):
        others_s = max(others_s, (row_s + latency.chunk_s) / DEAREST_OVERHEAD)
    candidates: list[Row | None] = []
    worth, real_time_worth = 0.0, 1.0
    for job, chunk in rows:
        is_real_time = job.is_promised and job.is_real_time
        own = real_time_worth if is_real_time else BEST_EFFORT_WORTH if job.is_promised else SPARE_WORTH
        if is_real_time:
            real_time_worth *= URGENCY_DECAY
        worth += own
        most = min(limits.max_draft, int(job.task.max_tokens - job.tokens) - 1)
        if chunk < job.prompt_left or most < 1:
            candidates.append(None)
            continue
        prospect = drafts.prospect(job.task.kind, job.task.drafts)
        candidates.append(Row(own, prospect, most, slack_s if is_real_time else min(slack_s, others_s)))
    return draft_lengths(candidates, worth, step_s, sum(chunks), len(chunks), latency)


def _rows_together(row_s: Sequence[float], most: int) -> int:
    """How many rows a step may have at little cost to one of them."""
    rows = 1
    while rows < min(most, len(row_s) - 1) and row_s[rows + 1] <= TOGETHER * row_s[1]:
        rows += 1
    return rows


def _slack_s(job: Outlook, now: float, row_s: Sequence[float], together: int, sparing: int) -> float:
    """How long a step may be for a promised task in it.

    While a real-time one has time for steps of ``together`` rows, it keeps that. A best-effort one does not ask for less than ``sparing``
    rows: where these cost little more than one, to bring one task to its end alone would make many late.
    """
    if job.is_real_time and job.latest_s >= now:
        slack_s = job.latest_s - now - (row_s[together] - row_s[1]) * job.latest_steps
        if slack_s >= 0.0:
            return slack_s + row_s[together]
    alone_s = _start_s(job, now) - now + row_s[1]
    return alone_s if job.is_real_time else max(alone_s, row_s[sparing])


def _start_s(job: Outlook, now: float) -> float:
    """Until when a promised task may be kept waiting by those after it: as cautiously as there still is time for."""
    if job.last_s < now:
        return job.hope_s
    return job.latest_s if job.latest_s >= now else job.last_s


def best_width(worths: Sequence[float], latency: LatencyModel, limits: Limits) -> int:
    """How many rows give the most worth per second, if ``worths`` are those of the rows in order; see :func:`choose_rows`."""
    width, best, total = 1, 0.0, 0.0
    for rows, worth in enumerate(worths[: limits.max_batch], 1):
        total += worth
        if total >= best * latency.step_s(rows):
            width, best = rows, total / latency.step_s(rows)
    return width


def _prompt_tokens(rows: Rows) -> int:
    """Those of a step that look back as prompts do; a single one does as a decode does."""
    return sum([chunk for _, chunk in rows if chunk > 1])


def _chunk(job: Outlook, budget: int, room_s: float, latency: LatencyModel, *, must: bool, before: int = 0) -> int:
    """How many of a task's prompt tokens to compute in a step that has so much time for them; 0 if it is not worth while.

    Args:
        budget: tokens that the step still holds.
        before: those of other prompts that it has.
    """
    tokens = min(job.prompt_left, budget)
    if latency.prompt_tokens_s(tokens, job.kv_tokens) <= room_s:
        return tokens
    most = latency.prompt_tokens_in(max(room_s, 0.0), job.kv_tokens)
    if most == math.inf:  # a flat cost is paid once, or again for each chunk
        return tokens if must else 0
    fitting = min(int(most), tokens)
    whole = fitting - (before + fitting) % WHOLE_TOKENS
    if latency.prompt_kv_token_s and whole >= SHORTEST_CHUNK:
        return whole
    if fitting >= SHORTEST_CHUNK:
        return fitting
    return min(tokens, SHORTEST_CHUNK) if must else 0


def _with_row(rows: Rows, job: Outlook, now: float, laxity_s: float, latency: LatencyModel, limits: Limits) -> Rows:
    """The rows and one more, in place of the last one if there is no room, its prompt cut to what the others' slack allows.

    Nor is the prompt's part longer than makes a step's overhead small.

    One of another adapter has the step for itself: the others come after it, as it could be left out again if it came after them. So has
    one that would make the step longer by more than a step of its own takes.
    """
    if any(job is other for other, _ in rows):
        return rows
    slack_s = min((other.latest_s - now for other, _ in rows if other.is_promised and other.is_real_time), default=math.inf)
    rows = rows[: limits.max_batch - 1] if job.task.adapter == rows[0][0].task.adapter else []
    if latency.step_s(len(rows) + 1) - latency.step_s(len(rows)) > latency.step_s(1):
        rows = []
    budget = limits.max_step_tokens - sum(max(1, chunk) for _, chunk in rows)
    if budget < 1:
        return rows
    if not job.prompt_left:
        return [*rows, (job, 0)]
    tokens = sum(chunk for _, chunk in rows)
    step_s = latency.step_s(len(rows) + 1, tokens, 1 + sum(chunk > 0 for _, chunk in rows))
    room_s = min(min(laxity_s, slack_s) - step_s, _worthwhile_s(job, step_s_by_rows(latency, limits), latency))
    return [*rows, (job, _chunk(job, budget, room_s, latency, must=True, before=_prompt_tokens(rows)))]
