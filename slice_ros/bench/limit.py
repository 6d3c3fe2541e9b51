"""The most goals that any schedule could keep of a stretch of traffic, were all lengths and arrivals known: a linear-programming bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from slice_ros.bench.workload import Arrival
from slice_ros.latency.model import LatencyModel

LIMIT = "limit"
"""What stands for a policy in the rows of the limit."""
MOST_ROUNDS = 200
"""Rounds in which violated constraints are added at most: with fewer constraints than there are the bound is weaker, but still one."""
A_ROUND = 20
"""The most violated ones that a round adds; with all of them, programmes become large before they become tight."""
TOLERANCE_S = 1e-6
"""Constraints that are violated by less are taken to hold."""
ROUNDING = 1e-9
"""Share of a bound by which a time may exceed it for the rounding of sums."""

WHOLE = 1e-6
"""A sum of goals that is short of a whole number by no more is taken to be that number."""

Floats = npt.NDArray[np.float64]


class LimitError(Exception):
    """The bound cannot be computed: SciPy is missing, or it does not hold for the device."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a goal needs of the device to be kept, at least. Times in seconds from the begin of the traffic.

    Args:
        release_s: before it nothing of the goal can be computed.
        first_due_s: when its first token has to be there.
        end_s: when the last token that anything is asked of has to be there.
        first_s: device time of its prompt and first token.
        all_s: device time of all until ``end_s``.
    """

    release_s: float
    first_due_s: float
    end_s: float
    first_s: float
    all_s: float


def most_kept(arrivals: Sequence[Arrival], latency: LatencyModel, max_batch: int = 16) -> int:
    """A number of goals that no schedule can exceed which meet every bound they ask for.

    *Shares.* A step with b rows takes l(b), and for each prompt chunk, prompt token and attended KV token what that costs. Give each
    row an equal share l(b) / b of the step, and what its own prompt and KV cost. A goal's shares lie in its own steps, these between
    its release and the end of its last token, and steps do not overlap. So of goals that are kept, those whose time from release to
    due end lies within [s, t] have shares of t - s at most together: as on one preemptive machine.

    *What a goal's shares are at least.* A kept goal that gets its tokens in n steps has a share l(b) / b in each. Those after the
    first last no longer together than the span G that may lie between its first and last token, and each lasts l(b) at least. So the
    points (l(b), l(b) / b) of these steps have a mean whose first coordinate is G / (n - 1) at most. No mean of such points lies
    below their lower convex hull, and no mean so far to the left below the hull's falling part, h, extended flat. So they cost (n -
    1) * h(G / (n - 1)) at least, and all n of them n * h(W / n), with W from release to due end; what the goal's own prompt and KV
    take is taken off G and W first. The larger one counts. The prompt costs a chunk, its tokens, and what each of these looks back on.
    More chunks cost no less: a chunk of c tokens behind b others looks back on c * a(b) + c^2 / 2, where a(b) of b tokens are within
    windows, and a grows by one a token at most.

    *Width.* Take out of a schedule all goals that are not kept and that none waits for, and let each step begin so much later that it
    takes no longer than the shortest one with as many rows as are left, or more. It ends when it did: every token comes when it did,
    nothing begins before its release, nothing takes longer. So l may be taken not to fall, and a step to be as wide at most as there
    are goals in hand that can be kept or are waited for: a goal's hull is that of widths up to the most there are at any moment of
    its own time. Those that may go on when nothing is due any more, as where only a first token is, count from their release on for
    ever.

    *The bound.* The most of sum(x), 0 <= x <= 1, so that for all s and t, over goals released at s or later, the sum of x * all_s of
    those with end_s <= t and of x * first_s of the others with first_due_s <= t is t - s at most. Any schedule's kept goals, with x =
    1, are one such x, so none keeps more. Nor does it with a part of the constraints: they are added as they are found violated. Goals
    are whole, so what is left of the sum beyond a whole number is left out.

    *What it does not know.* How many KV cells there are, and that who cannot be kept may not simply be left out where all have to end.

    Raises:
        LimitError: no SciPy, or the device's kernels take tiles of tokens, of which a row has no share of its own.
    """
    optimize = _scipy_optimize()
    if latency.tile:
        raise LimitError(f"there is no limit for device {latency.device!r}: its step times depend on tiles of {latency.tile} tokens")
    demands, free = demands_of(arrivals, latency, max_batch)
    return free + math.floor(_most(demands, optimize) + WHOLE)


def limit_of(arrivals: Sequence[Arrival], latency: LatencyModel, max_batch: int = 16) -> float:
    """The same as a share of the goals; NaN of none."""
    return min(1.0, most_kept(arrivals, latency, max_batch) / len(arrivals)) if arrivals else math.nan


def demands_of(arrivals: Sequence[Arrival], latency: LatencyModel, max_batch: int) -> tuple[list[Demand], int]:
    """What goals that can be kept at all need, and how many more there are that can be served at any time."""
    row_s = _row_s(latency, max_batch)
    needs = list(_needs(arrivals, latency, row_s))
    possible = [need for need in needs if need.is_possible(row_s[0])]
    widths = _widths(possible, [need for need in needs if need.stays or need.is_possible(row_s[0])], max_batch)
    hulls = {width: Hull(row_s[:width]) for width in set(widths)}
    bounded = [(need, width) for need, width in zip(possible, widths, strict=True) if need.end_s < math.inf]
    return [need.demand(hulls[width], row_s[0]) for need, width in bounded], len(possible) - len(bounded)


class Hull:
    """The least that a row costs whose steps last so long in the mean: the falling lower convex hull of (l(b), l(b) / b).

    Args:
        row_s: l(1), l(2), ..., not falling.
    """

    def __init__(self, row_s: Sequence[float]) -> None:
        points: list[tuple[float, float]] = []
        for rows, step_s in enumerate(row_s, 1):
            x, y = step_s, step_s / rows
            if points and y >= points[-1][1]:
                continue
            if points and x == points[-1][0]:
                points.pop()
            while len(points) > 1 and _is_above(points[-2], points[-1], (x, y)):
                points.pop()
            points.append((x, y))
        self._x, self._y = ([point[axis] for point in points] for axis in (0, 1))

    def __call__(self, mean_s: float) -> float:
        return float(np.interp(mean_s, self._x, self._y))


def _is_above(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether the middle point lies on or above the line through the others."""
    return (middle[1] - left[1]) * (right[0] - left[0]) >= (right[1] - left[1]) * (middle[0] - left[0])


@dataclass(frozen=True, slots=True)
class _Need:
    """What a goal asks for and what is its own in any schedule; seconds, moments from the begin of the traffic.

    Args:
        steps: that bring tokens of which anything is asked.
        prompt_s: of its prompt, in one chunk.
        kv_s: of attended KV tokens, in all these steps.
        span_s: from its first to its last token at most.
        stays: it may be in steps after ``end_s``, too.
    """

    release_s: float
    first_due_s: float
    end_s: float
    steps: int
    prompt_s: float
    kv_s: float
    span_s: float
    stays: bool

    def is_possible(self, shortest_s: float) -> bool:
        """Whether it can be kept if it has the device for itself."""
        alone_s, rest_s = self.prompt_s + self.kv_s + self.steps * shortest_s, (self.steps - 1) * shortest_s + self.kv_s
        return (
            _fits(alone_s, self.end_s - self.release_s)
            and _fits(rest_s, self.span_s)
            and _fits(self.prompt_s + shortest_s, self.first_due_s - self.release_s)
        )

    def demand(self, hull: Hull, shortest_s: float) -> Demand:
        rest, serial_s, window_s = self.steps - 1, self.prompt_s + self.kv_s, self.end_s - self.release_s
        first_s = hull(self.first_due_s - self.release_s - self.prompt_s)
        rows_s = self.steps * hull((window_s - serial_s) / self.steps)
        if rest:
            span_s = min(self.span_s, window_s - self.prompt_s - shortest_s) - self.kv_s
            rows_s = max(rows_s, first_s + rest * hull(span_s / rest))
        first_s += self.prompt_s
        return Demand(self.release_s, self.first_due_s, self.end_s, first_s, max(first_s, rows_s + serial_s))


def _fits(time_s: float, bound_s: float) -> bool:
    return time_s <= bound_s * (1.0 + ROUNDING) + TOLERANCE_S


def _row_s(latency: LatencyModel, max_batch: int) -> list[float]:
    """Item b - 1: the shortest step with b rows or more."""
    steps_s = [latency.step_s(rows) for rows in range(max_batch, 0, -1)]
    return list(accumulate(steps_s, min))[::-1]


def _needs(arrivals: Sequence[Arrival], latency: LatencyModel, row_s: Sequence[float]) -> Iterator[_Need]:
    waited_for = {goal_id for arrival in arrivals for goal_id in arrival.request.after}
    ends_s: dict[str, float] = {}
    chains_due_s: dict[str, float] = {}
    for arrival in arrivals:
        request, slo = arrival.request, arrival.request.slo
        release_s = max([arrival.time_s, *(ends_s[goal_id] for goal_id in request.after if goal_id in ends_s)])
        tokens, gain = min(arrival.lengths.output_tokens, request.max_tokens), 1 + arrival.lengths.forced
        steps = all_steps = math.ceil(tokens / gain)
        prompt_s = _least_prompt_s(arrival.lengths.prompt_tokens, latency)
        kv_s = sum(latency.kv_s(arrival.lengths.prompt_tokens + gain * (step - (gain > 1))) for step in range(1, steps))
        ends_s[request.goal_id] = release_s + prompt_s + kv_s + steps * row_s[0]
        span_s = math.inf if slo.tpot_s is None else (tokens - 1) * slo.tpot_s
        chain_due_s = arrival.time_s + (request.chain_deadline_s or math.inf)
        chain_due_s = min([chain_due_s, *(chains_due_s.get(goal_id, math.inf) for goal_id in request.after)])
        chains_due_s[request.goal_id] = chain_due_s
        end_s = min(arrival.time_s + (slo.deadline_s or math.inf), chain_due_s)
        first_due_s = arrival.time_s + (slo.ttft_s or math.inf)
        if end_s == math.inf and slo.tpot_s is None:
            steps, kv_s, end_s = 1, 0.0, first_due_s
        first_due_s = min(first_due_s, end_s - kv_s - (steps - 1) * row_s[0])
        end_s = min(end_s, first_due_s + (span_s if steps > 1 else 0.0))
        stays = steps < all_steps or request.goal_id in waited_for
        yield _Need(release_s, first_due_s, end_s, steps, prompt_s, kv_s, span_s, stays)


def _least_prompt_s(tokens: int, latency: LatencyModel) -> float:
    """Time of a prompt's tokens, each of which looks back on those before it that are within windows, and of one chunk."""
    beyond = max(0, tokens - latency.window)
    return latency.prompt_s(tokens) - latency.prompt_kv_token_s * 0.5 * latency.windowed * beyond**2


def _widths(needs: Sequence[_Need], present: Sequence[_Need], max_batch: int) -> list[int]:
    """For each of them, how many of those present there are at most at once, at any moment of its own time."""
    if not needs:
        return []
    comings, goings = [(need.release_s, 1) for need in present], [(need.end_s, -1) for need in present if not need.stays]
    events = sorted(comings + goings, key=_by_time)
    times_s = np.array([time_s for time_s, _ in events])
    counts = np.cumsum([change for _, change in events])
    spans = ((np.searchsorted(times_s, need.release_s), np.searchsorted(times_s, need.end_s, side="right")) for need in needs)
    return [int(min(max_batch, counts[first:last].max())) for first, last in spans]


def _by_time(event: tuple[float, int]) -> tuple[float, int]:
    """At one time those that come before those that go."""
    return event[0], -event[1]


def _most(demands: Sequence[Demand], optimize: Any) -> float:
    """The optimum of the linear programme, by cutting planes."""
    if not demands:
        return 0.0
    table: Mapping[str, Floats] = {name: np.array([getattr(d, name) for d in demands]) for name in Demand.__dataclass_fields__}
    kept = np.ones(len(demands))
    rows: list[Floats] = []
    lengths_s: list[float] = []
    for _ in range(MOST_ROUNDS):
        violated = list(_violated(table, kept))
        if not violated:
            break
        violated.sort(key=lambda cut: -cut[0])
        for _, row, length_s in violated[:A_ROUND]:
            rows.append(row)
            lengths_s.append(length_s)
        solution = optimize.linprog(-np.ones(len(demands)), A_ub=np.array(rows), b_ub=np.array(lengths_s), bounds=(0.0, 1.0))
        if solution.x is None:
            raise LimitError(f"the linear programme of {len(demands)} goals was not solved: {solution.message}")
        kept = solution.x
    return float(kept.sum())


def _violated(table: Mapping[str, Floats], kept: Floats) -> Iterator[tuple[float, Floats, float]]:
    """For each release, the end of the interval from it that is too short by most, if any is: by how much, coefficients and length."""
    first_s, rest_s = table["first_s"], table["all_s"] - table["first_s"]
    ends_s = np.concatenate([table["first_due_s"], table["end_s"]])
    work_s = np.concatenate([first_s * kept, rest_s * kept])
    order = np.argsort(ends_s, kind="stable")
    for from_s in np.unique(table["release_s"]):
        inside = table["release_s"] >= from_s
        its = order[np.tile(inside, 2)[order]]
        excess_s = np.cumsum(work_s[its]) - (ends_s[its] - from_s)
        worst = int(np.argmax(excess_s))
        if excess_s[worst] > TOLERANCE_S:
            until_s = ends_s[its[worst]]
            due = first_s * (table["first_due_s"] <= until_s) + rest_s * (table["end_s"] <= until_s)
            yield float(excess_s[worst]), np.where(inside, due, 0.0), float(until_s - from_s)


def _scipy_optimize() -> Any:
    try:
        from scipy import optimize
    except ImportError:
        raise LimitError("the limit needs SciPy; install it with: pip install 'slice_ros[limit]'") from None
    return optimize


def check_scipy() -> None:
    """See that limits can be computed.

    Raises:
        LimitError: they cannot.
    """
    _scipy_optimize()
