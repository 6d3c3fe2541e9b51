"""The default policy: mask matrices driven by the slack of every task, with room kept for the real-time goals to come."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain

from slice_ros.experience import Experience
from slice_ros.latency import LatencyModel
from slice_ros.load import Traffic
from slice_ros.mask import Cell, Column, MaskMatrix
from slice_ros.outlook import Outlook
from slice_ros.policies.base import Limits
from slice_ros.task import Task

COLUMNS = 6
"""A matrix has this many columns at most, ..."""
HORIZON_S = 0.3
"""... and begins none later than this from now."""
CAUTION = 1.5
"""Standard deviations of the work to come that a promise leaves room for."""
LENGTH_DEVIATION = 0.5
"""Standard deviation of what is left of an answer, as a share of its mean."""
URGENCY_DECAY = 0.9
"""A real-time row's worth in a column, relative to the real-time row due before it."""
BEST_EFFORT_WORTH = 0.5
"""A chosen best-effort row's worth, relative to the most urgent real-time row."""
SPARE_WORTH = 0.1
"""The same for a row that nothing was promised to."""
REACTION = 0.5
"""No step takes longer than this share of the least slack with which real-time goals have arrived: the next one has to wait for its end."""
SHORTEST_CHUNK = 16
"""Prompts are not cut to pieces shorter than this, in tokens."""
SPARE_SHARE = 0.02
"""Share of the time that goes to the oldest task that nothing was promised to."""


class Slack:
    """Real-time tasks first, by due time; of the best-effort ones those whose SLO can be kept beside them; the others in spare time.

    Its state is what it has learnt (answer lengths by kind, real-time traffic) and the time it owes to the oldest spare task.
    """

    name = "slack"

    def __init__(self) -> None:
        self._experience = Experience()
        self._latest_order = 0
        self._lost: set[str] = set()
        self._owed_s = 0.0
        self._owed_at_s = 0.0

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:
        self._learn_arrivals(tasks, latency)
        traffic = self._experience.load.traffic(now)
        promised, spare = self._divide(tasks, traffic, now, latency, limits)
        owed = self._oldest_if_owed(spare, now, latency)
        columns = build_columns(promised, spare[: limits.max_batch], owed, traffic.slack_s * REACTION, now, latency, limits)
        if owed is not None:
            self._owed_s -= sum(latency.column_s((cell,)) for cell in columns[0] if cell.goal_id == owed.task.goal_id)
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
        self, tasks: Sequence[Task], traffic: Traffic, now: float, latency: LatencyModel, limits: Limits
    ) -> tuple[list[Outlook], list[Outlook]]:
        """The tasks whose SLO a plan keeps, and the others in the order in which they may have the time that is left."""
        promised: list[Outlook] = []
        candidates: list[Outlook] = []
        unbounded: list[Outlook] = []
        hopeless: list[Outlook] = []
        for task in tasks:
            if task.goal_id in self._lost or task.is_lost(now):
                self._lost.add(task.goal_id)
                hopeless.append(Outlook.bare(task))
                continue
            job = Outlook.of(task, now, latency, self._experience.lengths)
            if job.is_hopeless:
                hopeless.append(job)
            elif task.is_real_time:
                promised.append(job)
            elif job.end_s == math.inf:
                unbounded.append(job)
            else:
                candidates.append(job)
        promised += select(candidates, traffic, now, latency, limits)
        for job in promised:
            job.is_promised = True
        return promised, [*unbounded, *(job for job in candidates if not job.is_promised), *hopeless]

    def _oldest_if_owed(self, spare: Sequence[Outlook], now: float, latency: LatencyModel) -> Outlook | None:
        """The oldest spare task, if the time owed to it has come to the length of a step."""
        elapsed_s, self._owed_at_s = now - self._owed_at_s, now
        if not spare:
            self._owed_s = 0.0
            return None
        self._owed_s += SPARE_SHARE * elapsed_s
        return min(spare, key=lambda job: job.task.order) if self._owed_s >= latency.step_s(1) else None


def select(jobs: Sequence[Outlook], traffic: Traffic, now: float, latency: LatencyModel, limits: Limits) -> list[Outlook]:
    """The best-effort tasks whose SLO can be kept beside the real-time traffic, those with the most utility per second of work first.

    Task i needs v_i tokens/s until its end is due. At an average width of w rows a token takes l(w) / w, and as a task takes at most one
    token a column, w is at most sum(v) / max(v). So all together need the share ``sum(v) * min over w of l(w) / w`` of the time, plus
    that of their prompts. It has to fit with ``CAUTION`` standard deviations to spare, for lengths and arrivals are only expected.
    """
    token_s = _token_s_by_width(latency, limits)
    rate, fastest, serial_share, length_variance = traffic.rate, traffic.fastest, traffic.prompt_share, 0.0
    taken: list[Outlook] = []
    for job in sorted(jobs, key=lambda job: job.work_s / job.task.slo.weight):
        window_s = max(job.end_s - now, latency.step_s(1))
        v = (job.expected - job.tokens) / window_s
        pace = max(fastest, v)
        cost_s = token_s[min(int((rate + v) / pace), limits.max_batch)]
        serial = serial_share + (job.prompt_s / window_s) + v * job.kv_tokens * latency.kv_token_s
        lengths = length_variance + (LENGTH_DEVIATION * v) ** 2
        deviation = cost_s * math.sqrt(lengths + traffic.variance / max(window_s, 1.0))
        if (rate + v) * cost_s + serial + CAUTION * deviation <= 1.0:
            taken.append(job)
            rate, fastest, serial_share, length_variance = rate + v, pace, serial, lengths
    return taken


def build_columns(
    promised: list[Outlook],
    spare: Sequence[Outlook],
    owed: Outlook | None,
    longest_s: float,
    now: float,
    latency: LatencyModel,
    limits: Limits,
) -> tuple[Column, ...]:
    """The coming steps, the tasks advanced from one to the next as the latency model predicts; ``owed`` takes part in the first."""
    columns: list[Column] = []
    row_s = _step_s_by_rows(latency, limits)
    promised = sorted(promised, key=_urgency)[: 2 * limits.max_batch]  # nobody else's turn comes within the horizon
    at_s = now
    while len(columns) < COLUMNS and at_s <= now + HORIZON_S:
        rows = choose_rows(chain(promised, spare), longest_s, row_s, latency, limits)
        if owed is not None and not columns:
            rows = _with_row(rows, owed, longest_s, latency, limits)
        column = tuple([Cell(job.task.goal_id, chunk) for job, chunk in rows])
        at_s += latency.column_s(column, sum([job.kv_tokens for job, _ in rows]))
        for job, chunk in rows:
            job.advance(chunk, at_s)
        columns.append(column)
        promised.sort(key=_urgency)
    return tuple(columns)


def _urgency(job: Outlook) -> tuple[bool, float]:
    return not job.is_real_time, job.due_s


Rows = list[tuple[Outlook, int]]
"""The tasks of a step, each with the prompt tokens it computes."""


def choose_rows(jobs: Iterable[Outlook], longest_s: float, row_s: Sequence[float], latency: LatencyModel, limits: Limits) -> Rows:
    """The first of the tasks, as many as give the most worth per second, ``sum of the rows' worth / l(rows)``.

    Where one more row costs as much as a step of its own, urgent tasks run alone; where it costs little, all run together. Prompts and
    KV tokens do not count in that, as they take their time in any step. A row that would make the step longer than ``longest_s`` or the
    slack of a real-time row is left out, or its prompt is cut, but for the first row and real-time decodes.

    Args:
        jobs: in order of urgency.
        longest_s: how long the step may be.
        row_s: item b is l(b).
    """
    rows: Rows = []
    best_rows, best, worth, real_time_worth = 0, 0.0, 0.0, 1.0
    allowed_s, serial_s = longest_s, 0.0
    budget = limits.max_step_tokens
    for job in jobs:
        decode_s = row_s[len(rows) + 1]
        is_real_time = job.is_promised and job.is_real_time
        own_s = latency.kv_token_s * job.kv_tokens
        chunk, share = 0, 1.0
        if job.prompt_left:
            room_s = longest_s - decode_s - serial_s - own_s - latency.chunk_s
            chunk = _chunk(min(job.prompt_left, budget), room_s, latency, must=not rows)
            if not chunk:
                continue
            share = chunk / job.prompt_left
            own_s += latency.prompt_s(chunk)
        elif rows and not is_real_time and decode_s + serial_s + own_s > longest_s:
            continue
        rows.append((job, chunk))
        serial_s += own_s
        budget -= max(1, chunk)
        if is_real_time:
            worth += share * real_time_worth
            real_time_worth *= URGENCY_DECAY
            allowed_s = min(allowed_s, job.slack_s + row_s[1] + own_s)
        else:
            worth += share * (BEST_EFFORT_WORTH if job.is_promised else SPARE_WORTH)
        longest_s = max(allowed_s, decode_s + serial_s)  # what makes the step no longer than it is does no harm
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


def _with_row(rows: Rows, job: Outlook, longest_s: float, latency: LatencyModel, limits: Limits) -> Rows:
    """The rows and one more, in place of the last one if there is no room, its prompt cut to what the others' slack allows."""
    if any(job is other for other, _ in rows):
        return rows
    rows = rows[: limits.max_batch - 1]
    budget = limits.max_step_tokens - sum(max(1, chunk) for _, chunk in rows)
    if budget < 1:
        return rows
    if not job.prompt_left:
        return [*rows, (job, 0)]
    tokens = sum(chunk for _, chunk in rows)
    step_s = latency.step_s(len(rows) + 1, tokens, 1 + sum(chunk > 0 for _, chunk in rows))
    slack_s = min((other.slack_s for other, _ in rows if other.is_promised and other.is_real_time), default=math.inf)
    return [*rows, (job, _chunk(min(job.prompt_left, budget), min(longest_s, slack_s) - step_s, latency, must=True))]


def _step_s_by_rows(latency: LatencyModel, limits: Limits) -> list[float]:
    """Item b: l(b), up to the batch limit."""
    return [latency.step_s(rows) for rows in range(limits.max_batch + 1)]


def _token_s_by_width(latency: LatencyModel, limits: Limits) -> list[float]:
    """Item w: time of a token in the best steps of up to w rows, ``min of l(b) / b``; item 0 as item 1."""
    step_s = _step_s_by_rows(latency, limits)
    costs = [step_s[1]]
    for rows in range(1, limits.max_batch + 1):
        costs.append(min(costs[-1], step_s[rows] / rows))
    return costs
