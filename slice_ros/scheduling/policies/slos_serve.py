"""SLOs-Serve: goals admitted by dynamic programming over what steps can compute by each prompt's deadline.

Chen et al., arXiv 2504.08784; its public code is ``csrc/adm_ctrl_scheduler.cc`` of SLOServe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from slice_ros.latency.model import LatencyModel, looked_back
from slice_ros.mask import Cell, MaskMatrix
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.policies.bounds import Pace, pace
from slice_ros.scheduling.residency import claim
from slice_ros.scheduling.task import Task

AT_ONCE = 8
"""Goals that are judged together at most; further ones are judged after them."""
SIMULATED_STEPS = 64
"""Steps that are looked ahead; beyond them, prompts are taken to be computed as fast as in these."""


class SlosServe:
    """Goals are accepted or declined when they come, for good; accepted ones are served by due time, others in what steps have left.

    - *Admission.* Those in hand and those that come, sorted by the due time of their first token. Those accepted before are accepted
      again; of the others every choice is followed (:func:`admit`), as long as the prompt tokens that steps can hold until a due time,
      beside the decodes of those accepted, cover the prompts. The choice with the most utility wins.
    - *Steps.* A step lasts until the next token is due, of all that were accepted, and no longer than the tightest TPOT. By due time,
      each takes a decode or as much of its prompt as fits.

    Put in its place: it knows no deadline, which counts as in :func:`~slice_ros.scheduling.policies.bounds.pace`. Its performance model
    takes a decode for a prompt token; here a decode costs a row of l(b). Speculative decoding and several replicas are left out. The public
    code is C++ and judges all that come at once together; here at most ``AT_ONCE``. The tightest TPOT is that of all in hand, declined ones
    included: by that of the accepted ones alone it keeps 0.44 of robot-mix at 2/s instead of 0.64.
    """

    name = "slos-serve"

    def __init__(self) -> None:
        self._lengths = Lengths()
        self._paces: dict[str, Pace] = {}
        self._accepted: set[str] = set()

    def plan(self, tasks: Sequence[Task], now: float, latency: LatencyModel, limits: Limits) -> MaskMatrix:
        newcomers = [task for task in tasks if task.goal_id not in self._paces]
        for task in newcomers:
            self._paces[task.goal_id] = pace(task, self._lengths.expected(task.kind, 0, task.max_tokens)[0])
        device = _Device(latency, limits, min((self._paces[task.goal_id].tpot_s for task in tasks), default=math.inf))
        bounded = [task for task in newcomers if self._paces[task.goal_id].is_bounded]
        for first in range(0, len(bounded), AT_ONCE):
            accepted = [task for task in tasks if task.goal_id in self._accepted]
            chosen = admit(accepted, bounded[first : first + AT_ONCE], self._paces, now, device, limits.cells)
            self._accepted.update(task.goal_id for task in chosen)
        return MaskMatrix((self._column(tasks, now, device, limits),))

    def ended(self, task: Task, *, completed: bool) -> None:
        self._paces.pop(task.goal_id, None)
        self._accepted.discard(task.goal_id)
        if completed:
            self._lengths.observe(task.kind, task.tokens, task.steps)

    def _column(self, tasks: Sequence[Task], now: float, device: _Device, limits: Limits) -> tuple[Cell, ...]:
        accepted = sorted((task for task in tasks if task.goal_id in self._accepted), key=lambda task: (self._due_s(task), task.order))
        declined = [task for task in tasks if task.goal_id not in self._accepted]
        length_s = min(self._due_s(accepted[0]) - now if accepted else math.inf, device.longest_s)
        column: list[Cell] = []
        tokens = chunks = 0
        kv_tokens = back = 0.0
        budget = limits.max_step_tokens
        for task in [*accepted, *declined]:
            if len(column) == limits.max_batch or budget < 1:
                break
            attended = device.latency.attended(task.kv_tokens)
            step_s = device.latency.step_s(len(column) + 1, tokens, chunks, kv_tokens + attended, back)
            chunk = 0
            if task.prompt_left:
                fitting = device.prompt_tokens(length_s - step_s, task.kv_tokens)
                chunk = min(task.prompt_left, budget, fitting if column else max(fitting, 1))
                if not chunk:
                    continue
            elif column and step_s > max(length_s, device.latency.step_s(len(column), tokens, chunks, kv_tokens, back)):
                continue
            column.append(Cell(task.goal_id, chunk))
            tokens, chunks, kv_tokens = tokens + chunk, chunks + (chunk > 0), kv_tokens + attended
            back += looked_back(chunk, attended)
            budget -= max(1, chunk)
        return tuple(column)

    def _due_s(self, task: Task) -> float:
        return self._paces[task.goal_id].due_s(task.tokens)


class _Device:
    """What steps can hold, and how long one may be.

    Args:
        tightest_s: the least TPOT of the goals in hand.
    """

    def __init__(self, latency: LatencyModel, limits: Limits, tightest_s: float) -> None:
        self.latency = latency
        self.limits = limits
        self.longest_s = min(tightest_s, latency.step_s(1, limits.max_step_tokens, 1))

    def prompt_tokens(self, time_s: float, kv_tokens: int = 0) -> int:
        """Prompt tokens of one chunk that fit into that time beyond its row, behind so many others."""
        left_s, most = time_s - self.latency.chunk_s, self.limits.max_step_tokens
        if left_s >= self.latency.prompt_tokens_s(most, kv_tokens):
            return most
        fitting = self.latency.prompt_tokens_in(max(left_s, 0.0), kv_tokens)
        return int(fitting + 1e-6) if fitting < math.inf else 0

    def until(self, time_s: float, decoders: Iterable[Pace]) -> int:
        """Prompt tokens that steps hold in that time, beside decoders that have each token when it is due.

        A step lasts until the next one is due, and takes all whose last one is due before its end.
        """
        due = sorted((its.tpot_s, its.tpot_s) for its in decoders if its.tpot_s < math.inf)
        at_s, tokens = 0.0, 0
        for _ in range(SIMULATED_STEPS):
            if at_s >= time_s:
                return tokens
            end_s = min(time_s, at_s + self.longest_s, due[0][0] if due else math.inf)
            taken = []
            while due and due[0][0] - due[0][1] < end_s:
                taken.append(heappop(due))
            if len(taken) > self.limits.max_batch or self.latency.step_s(len(taken)) > end_s - at_s:
                return tokens  # the decoders alone are too much
            if len(taken) < self.limits.max_batch:
                tokens += self.prompt_tokens(end_s - at_s - self.latency.step_s(len(taken) + 1))
            for due_s, tpot_s in taken:
                heappush(due, (due_s + tpot_s, tpot_s))
            at_s = end_s
        return int(tokens * time_s / at_s)


@dataclass(frozen=True, slots=True)
class _State:
    """Goals accepted so far, and what that leaves.

    Args:
        utility: of the new ones among them.
        cells: KV cells that these may come to hold.
        spare: prompt tokens that steps until ``at_s`` can hold beyond their prompts.
        at_s: due time of the last prompt that needed more than was spare.
    """

    utility: float
    cells: int
    spare: int
    at_s: float
    accepted: tuple[Task, ...]

    def is_no_worse_than(self, other: _State) -> bool:
        return self.utility >= other.utility and self.cells <= other.cells and self.spare >= other.spare and self.at_s <= other.at_s


def admit(
    accepted: Sequence[Task], newcomers: Sequence[Task], paces: Mapping[str, Pace], now: float, device: _Device, cells: int
) -> list[Task]:
    """The newcomers to accept: none if those accepted before cannot be kept with any choice.

    Of the choices with as many goals of each TPOT, those are kept that no other is at least as good as.
    """
    new = {task.goal_id for task in newcomers}
    cells -= sum(claim(task) for task in accepted)
    states = [_State(0.0, 0, 0, now, ())]
    for task in sorted([*accepted, *newcomers], key=lambda task: (paces[task.goal_id].first_due_s, task.order)):
        is_new = task.goal_id in new
        following = list(states) if is_new else []
        for state in states:
            if (after := _accept(state, task, paces, device, is_new=is_new)) and after.cells <= cells:
                following.append(after)
        states = _best(following, paces)
    if not states:
        return []
    return [task for task in max(states, key=lambda state: state.utility).accepted if task.goal_id in new]


def _accept(state: _State, task: Task, paces: Mapping[str, Pace], device: _Device, *, is_new: bool) -> _State | None:
    """The state with that task accepted, or ``None`` if its prompt would be late."""
    prompt_left = 0 if task.is_decoding else task.prompt_left
    spare, at_s, due_s = state.spare - prompt_left, state.at_s, paces[task.goal_id].first_due_s
    if spare < 0 and due_s < math.inf:
        spare += device.until(due_s - at_s, [paces[other.goal_id] for other in state.accepted])
        at_s = max(at_s, due_s)
        if spare < 0:
            return None
    spare = max(spare, 0)  # nobody waits for a prompt that is never due
    if not is_new:
        return _State(state.utility, state.cells, spare, at_s, (*state.accepted, task))
    return _State(state.utility + task.slo.weight, state.cells + claim(task), spare, at_s, (*state.accepted, task))


def _best(states: Sequence[_State], paces: Mapping[str, Pace]) -> list[_State]:
    """Those that no other one with as many goals of each TPOT is at least as good as."""
    fronts: dict[tuple[float, ...], list[_State]] = {}
    for state in states:
        front = fronts.setdefault(tuple(sorted(paces[task.goal_id].tpot_s for task in state.accepted)), [])
        if not any(other.is_no_worse_than(state) for other in front):
            front[:] = [other for other in front if not state.is_no_worse_than(other)] + [state]
    return [state for front in fronts.values() for state in front]
