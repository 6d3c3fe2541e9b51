"""QoServe, first called Niyama: chunks as long as decoders have slack, prompts by deadline and work, late ones relegated.

Goel et al., arXiv 2503.22562, ASPLOS 2026; its public code is ``deadline_scheduler.py`` of sarathi-serve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, MaskMatrix
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.policies.base import Limits, next_cell
from slice_ros.scheduling.policies.bounds import Pace, pace
from slice_ros.scheduling.task import Task

STEP_TOKENS: tuple[int, ...] = (128, *range(256, 2049, 256), 2552)
"""What a step may hold, decodes and prompt tokens together, where the engine's steps hold as much."""
MARGIN = 1.2
"""Steps are taken to last so many times as long as predicted."""
ALPHA_S = 0.008
"""A prompt's deadline counts as later by this for each token that is left of it: short ones go first among equals."""
DECAY = 0.995
"""Share that a step leaves of the throughput of prompts known before."""


class QoServe:
    """Every task past its prompt decodes in every step; the rest of the step is prompt chunks.

    - *Dynamic chunking.* A step holds the most tokens, of ``STEP_TOKENS``, with which it is predicted to end within the least slack of
      those that decode: the task's first due time, or when its first token came if that was later, + TPOT * (tokens + 1) - now.
    - *Hybrid prioritization.* Prompts in order of due time + ``ALPHA_S`` * prompt tokens left.
    - *Eager relegation.* A prompt that is not begun and cannot be in time, at the throughput of prompts so far, goes behind all others.

    Put in its place: a deadline counts as in :func:`~slice_ros.scheduling.policies.bounds.pace`, with the length that answers of its kind
    had in the mean instead of one that is configured; the first throughput is the latency model's instead of an A100's. The public code
    knows no importance, the paper relegates what an application calls unimportant first: best-effort prompts that are not begun are
    relegated if a real-time one behind them would be late otherwise. The code takes shorter steps when memory runs out, as it cannot
    evict; here the scheduler does.
    """

    name = "qoserve"

    def __init__(self) -> None:
        self._lengths = Lengths()
        self._paces: dict[str, Pace] = {}
        self._relegated: set[str] = set()
        self._throughput = 0.0
        self._planned_at_s = 0.0
        self._planned_tokens = 0

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:
        for task in tasks:
            if task.goal_id not in self._paces:
                self._paces[task.goal_id] = pace(task, self._lengths.expected(task.kind, 0, task.max_tokens)[0])
        self._observe(now, latency)
        decoding = sorted((task for task in tasks if _decodes(task)), key=self._token_due_s)[: limits.max_batch]
        prompts = [task for task in tasks if not _decodes(task)]
        left = self._step_tokens(decoding, now, latency, limits) - len(decoding) if prompts else 0
        column = [next_cell(task) for task in decoding]
        queue = self._queue(prompts, now)
        while queue and left > 0 and len(column) < limits.max_batch:
            _, _, task = heappop(queue)
            if self._is_late(task, task.prompt_left, now):
                self._relegated.add(task.goal_id)
                heappush(queue, (self._rank(task), task.order, task))
                continue
            chunk = min(task.prompt_left, left)
            column.append(Cell(task.goal_id, chunk))
            left -= chunk
        self._planned_tokens = sum(cell.prompt_tokens for cell in column[len(decoding) :])
        return MaskMatrix((tuple(column),))

    def ended(self, task: Task, *, completed: bool) -> None:
        self._paces.pop(task.goal_id, None)
        self._relegated.discard(task.goal_id)
        if completed:
            self._lengths.observe(task.kind, task.tokens, task.steps)

    def _observe(self, now: float, latency: LatencyModel) -> None:
        """Follow the throughput of prompts, in tokens a second."""
        if not self._throughput:
            self._throughput = STEP_TOKENS[-1] / latency.step_s(1, STEP_TOKENS[-1], 1)
        if self._planned_tokens and now > self._planned_at_s:
            self._throughput += (1.0 - DECAY) * (self._planned_tokens / (now - self._planned_at_s) - self._throughput)
        self._planned_at_s, self._planned_tokens = now, 0

    def _token_due_s(self, task: Task) -> float:
        its = self._paces[task.goal_id]
        first_s = task.token_times_s[0] if task.token_times_s else task.arrival_s
        begin_s = first_s if its.first_due_s == math.inf else max(first_s, its.first_due_s)
        return begin_s + its.tpot_s * (task.tokens + 1)

    def _step_tokens(self, decoding: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> int:
        """Tokens that fit into the least slack; the fewest there are if none do."""
        slack_s = min((self._token_due_s(task) for task in decoding), default=math.inf) - now
        rows, kv_tokens = len(decoding), sum(latency.attended(task.kv_tokens) for task in decoding)
        fitting = STEP_TOKENS[0]
        for tokens in STEP_TOKENS:
            if MARGIN * latency.step_s(rows + 1, max(0, tokens - rows), 1, kv_tokens) <= slack_s:
                fitting = tokens
        return max(min(fitting, limits.max_step_tokens), len(decoding) + (not decoding))

    def _queue(self, prompts: Sequence[Task], now: float) -> list[tuple[tuple[bool, float], int, Task]]:
        """Prompts by rank, a heap, best-effort ones relegated that real-time ones have no time for."""
        ahead = 0
        unimportant: list[Task] = []
        for task in sorted(prompts, key=self._rank):
            if task.is_real_time:
                while unimportant and self._is_late(task, ahead + task.prompt_left, now):
                    relegated = unimportant.pop()
                    ahead -= relegated.prompt_left
                    self._relegated.add(relegated.goal_id)
            elif task.started_s is None and task.goal_id not in self._relegated:
                unimportant.append(task)
            ahead += task.prompt_left
        queue = [(self._rank(task), task.order, task) for task in prompts]
        heapify(queue)
        return queue

    def _is_late(self, task: Task, tokens: int, now: float) -> bool:
        """Whether a prompt that is neither begun nor relegated would be late if so many prompt tokens come before its end."""
        begun = task.started_s is not None or task.goal_id in self._relegated
        return not begun and now + tokens / self._throughput > self._paces[task.goal_id].first_due_s

    def _rank(self, task: Task) -> tuple[bool, float]:
        return task.goal_id in self._relegated, self._paces[task.goal_id].first_due_s + ALPHA_S * task.prompt_left


def _decodes(task: Task) -> bool:
    """Whether its prompt is computed."""
    return not task.prompt_left or task.is_decoding
