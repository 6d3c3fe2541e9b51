"""The most that any schedule could attain in a small instance, by exhaustive search: a yardstick for policies."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, replace

from slice_ros.bench.simulate import simulate
from slice_ros.bench.workload import Arrival
from slice_ros.engines.simulated import Lengths
from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.lengths import FEW
from slice_ros.scheduling.policies import Policy
from slice_ros.scheduling.policies.slack import SHORTEST_CHUNK
from slice_ros.scheduling.task import Task
from slice_ros.slo import OnMiss, ServiceClass, Slo


@dataclass(frozen=True, slots=True)
class Instance:
    """Goals of both classes with any bounds, each there from its ``submitted_s`` on. Answers are as long as ``max_tokens``."""

    goals: tuple[GoalRequest, ...]
    prompt_tokens: tuple[int, ...]
    latency: LatencyModel

    @property
    def arrivals(self) -> list[Arrival]:
        """The goals as traffic."""
        lengths = (Lengths(prompt, goal.max_tokens) for goal, prompt in zip(self.goals, self.prompt_tokens, strict=True))
        return [Arrival(goal.submitted_s, goal, its) for goal, its in zip(self.goals, lengths, strict=True)]

    def of_one_class(self) -> Instance:
        """The same goals, all of them best-effort: none is served before another for its class, which the optimum does not do either."""
        goals = (replace(goal, slo=replace(goal.slo, service_class=ServiceClass.BEST_EFFORT)) for goal in self.goals)
        return replace(self, goals=tuple(goals))


def random_instance(seed: int, most_goals: int = 5, most_columns: int = 12) -> Instance:
    """Bounds are drawn so that about half of the goals can be kept; l(b) is anything from flat to linear, with saw teeth or without.

    Prompts are so short that it does not pay to cut them.
    """
    rng = random.Random(seed)
    lengths: list[int] = []
    while len(lengths) < rng.randint(2, most_goals) and sum(lengths) < most_columns:
        lengths.append(rng.randint(1, min(4, most_columns - sum(lengths))))
    slope, tooth = rng.uniform(0.0, 1.0), rng.choice((0.0, 0.3))
    table = tuple(0.01 * (1 + slope * (b - 1) + tooth * (b % 2)) for b in range(1, most_goals + 1))
    latency = LatencyModel("random", table, rng.choice((0.0, 0.005)), rng.choice((0.0, 0.0005)))
    prompts = [rng.randint(1, SHORTEST_CHUNK) for _ in lengths]
    everything_s = sum(tokens * latency.step_s(1) + latency.prompt_s(n) for tokens, n in zip(lengths, prompts, strict=True))
    spread_s = rng.choice((0.0, 0.3, 0.6)) * everything_s
    goals = []
    for i, (tokens, prompt_tokens) in enumerate(zip(lengths, prompts, strict=True)):
        first_s = latency.step_s(1, prompt_tokens, 1)
        deadline_s = rng.uniform(first_s + (tokens - 1) * latency.step_s(1), everything_s)
        ttft_s = rng.uniform(first_s, deadline_s) if rng.random() < 0.3 else None
        tpot_s = rng.uniform(1.0, 3.0) * latency.step_s(1) if rng.random() < 0.3 else None
        slo = Slo(rng.choice(list(ServiceClass)), ttft_s, tpot_s, deadline_s, on_miss=OnMiss.CONTINUE)
        arrival_s = rng.uniform(0.0, spread_s) if i else 0.0
        goals.append(GoalRequest(f"{i}", slo, tokens, prompt="x", submitted_s=arrival_s, label=f"{tokens} tokens"))
    order = sorted(range(len(goals)), key=lambda i: goals[i].submitted_s)
    return Instance(tuple(goals[i] for i in order), tuple(prompts[i] for i in order), latency)


State = tuple[tuple[int, ...], frozenset[int]]
"""Tokens left of each goal, and which goals have missed a bound."""


@dataclass(frozen=True, slots=True)
class _Point:
    """When a state was reached, and until when each goal's last token keeps its TPOT; infinite where that does not matter."""

    now: float
    tpot_due_s: tuple[float, ...]

    def is_no_worse_than(self, other: _Point) -> bool:
        return self.now <= other.now and all(a >= b for a, b in zip(self.tpot_due_s, other.tpot_due_s, strict=True))


def most_attained(instance: Instance, *, waits: bool = True) -> int:
    """Search over every sequence of sets of goals, and of waits for the next one to come.

    Of the ways to a state those are kept that no other is at least as good as.

    Args:
        waits: whether the device may stand still while there are goals, as who knows what is to come may let it.
    """
    goals = instance.goals
    states: dict[State, list[_Point]] = {(tuple(goal.max_tokens for goal in goals), frozenset()): [_Point(0.0, (math.inf,) * len(goals))]}
    best = 0
    while states:
        following: dict[State, list[_Point]] = {}
        for (left, missed), points in states.items():
            useful = [i for i, tokens in enumerate(left) if tokens and i not in missed]
            if not useful:
                best = max(best, len(goals) - len(missed))
                continue
            for point in points:
                now = max(point.now, min(goals[i].submitted_s for i in useful))
                there = [i for i in useful if goals[i].submitted_s <= now]
                if waits and (to_come := [goals[i].submitted_s for i in useful if goals[i].submitted_s > now]):
                    _keep(following, (left, missed), _Point(min(to_come), point.tpot_due_s))
                for size in range(1, len(there) + 1):
                    for chosen in itertools.combinations(there, size):
                        _keep(following, *_after(instance, left, missed, _Point(now, point.tpot_due_s), chosen))
        states = following
    return best


def _after(
    instance: Instance, left: tuple[int, ...], missed: frozenset[int], point: _Point, chosen: tuple[int, ...]
) -> tuple[State, _Point]:
    """What a step of the chosen goals leads to."""
    goals, prompts = instance.goals, [instance.prompt_tokens[i] for i in chosen if left[i] == instance.goals[i].max_tokens]
    end_s = point.now + instance.latency.step_s(len(chosen), sum(prompts), len(prompts))
    after = tuple(tokens - (i in chosen) for i, tokens in enumerate(left))
    late = {i for i, goal in enumerate(goals) if left[i] and _is_late(goal, left[i], point.tpot_due_s[i], end_s)}
    due_s = list(point.tpot_due_s)
    for i, goal in enumerate(goals):
        if i in late or not after[i]:
            due_s[i] = math.inf
        elif i in chosen and left[i] == goal.max_tokens and goal.slo.tpot_s is not None:
            due_s[i] = end_s + goal.slo.tpot_s * (goal.max_tokens - 1)
    return (after, missed | late), _Point(end_s, tuple(due_s))


def _keep(states: dict[State, list[_Point]], state: State, point: _Point) -> None:
    points = states.setdefault(state, [])
    if not any(other.is_no_worse_than(point) for other in points):
        points[:] = [other for other in points if not point.is_no_worse_than(other)] + [point]


def attained(instance: Instance, policy: Policy, *, knows_lengths: bool = True) -> int:
    """How many goals a policy attains, which has seen answers of those lengths before or has not."""
    if knows_lengths:
        for goal in instance.goals * FEW:
            ended = Task.of(goal, 1, 0)
            ended.token_times_s = [0.0] * goal.max_tokens
            policy.ended(ended, completed=True)
    return sum(outcome.report.attained for outcome in simulate(instance.arrivals, policy, instance.latency))


def _is_late(goal: GoalRequest, left: int, tpot_due_s: float, end_s: float) -> bool:
    """Whether a goal with tokens left misses a bound if its next one comes at ``end_s`` at the earliest."""
    slo, age_s = goal.slo, end_s - goal.submitted_s - 1e-9
    first_is_late = slo.ttft_s is not None and left == goal.max_tokens and age_s > slo.ttft_s
    return first_is_late or (slo.deadline_s is not None and age_s > slo.deadline_s) or end_s - 1e-9 > tpot_due_s
