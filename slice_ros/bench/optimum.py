"""The most that any schedule could attain in a small instance, by exhaustive search: a yardstick for policies."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from slice_ros.bench.simulate import simulate
from slice_ros.bench.workload import Arrival
from slice_ros.engines.simulated import Lengths
from slice_ros.goal import GoalRequest
from slice_ros.latency import LatencyModel
from slice_ros.policies import Policy
from slice_ros.slo import ServiceClass, Slo
from slice_ros.task import Task


@dataclass(frozen=True, slots=True)
class Instance:
    """Goals that are all there at the start. Their answers are as long as ``max_tokens``; prompts cost nothing; no bound on TPOT."""

    goals: tuple[GoalRequest, ...]
    latency: LatencyModel


def random_instance(seed: int, most_goals: int = 5, most_columns: int = 12) -> Instance:
    """Bounds are drawn so that about half of the goals can be kept; l(b) is anything from flat to linear, with saw teeth or without."""
    rng = random.Random(seed)
    lengths: list[int] = []
    while len(lengths) < rng.randint(2, most_goals) and sum(lengths) < most_columns:
        lengths.append(rng.randint(1, min(4, most_columns - sum(lengths))))
    slope, tooth = rng.uniform(0.0, 1.0), rng.choice((0.0, 0.3))
    latency = LatencyModel("random", tuple(0.01 * (1 + slope * (b - 1) + tooth * (b % 2)) for b in range(1, most_goals + 1)))
    everything_s = sum(lengths) * latency.step_s(1)
    goals = []
    for i, tokens in enumerate(lengths):
        deadline_s = rng.uniform(tokens * latency.step_s(1), everything_s)
        ttft_s = rng.uniform(latency.step_s(1), deadline_s) if rng.random() < 0.3 else None
        slo = Slo(ServiceClass.BEST_EFFORT, ttft_s, None, deadline_s)
        goals.append(GoalRequest(f"{i}", slo, tokens, prompt="x", label=f"{tokens} tokens"))
    return Instance(tuple(goals), latency)


def most_attained(instance: Instance) -> int:
    """Search over every sequence of sets of goals, with the least time for each (tokens left, goals missed) kept: less is never worse."""
    goals, latency = instance.goals, instance.latency
    states: dict[tuple[tuple[int, ...], frozenset[int]], float] = {(tuple(goal.max_tokens for goal in goals), frozenset()): 0.0}
    best = 0
    while states:
        following: dict[tuple[tuple[int, ...], frozenset[int]], float] = {}
        for (left, missed), now in states.items():
            useful = [i for i, tokens in enumerate(left) if tokens and i not in missed]
            if not useful:
                best = max(best, len(goals) - len(missed))
            for size in range(1, len(useful) + 1):
                end_s = now + latency.step_s(size)
                for chosen in itertools.combinations(useful, size):
                    after = tuple(tokens - (i in chosen) for i, tokens in enumerate(left))
                    late = missed | {i for i in useful if _is_late(goals[i], left[i], after[i], end_s)}
                    key = after, frozenset(late)
                    following[key] = min(following.get(key, end_s), end_s)
        states = following
    return best


def attained(instance: Instance, policy: Policy, *, knows_lengths: bool = True) -> int:
    """How many goals a policy attains, which has seen answers of those lengths before or has not."""
    if knows_lengths:
        for goal in instance.goals:
            ended = Task.of(goal, 1, 0)
            ended.token_times_s = [0.0] * goal.max_tokens
            policy.ended(ended, completed=True)
    arrivals: Sequence[Arrival] = [Arrival(0.0, goal, Lengths(1, goal.max_tokens)) for goal in instance.goals]
    return sum(outcome.report.attained for outcome in simulate(arrivals, policy, instance.latency))


def _is_late(goal: GoalRequest, left: int, after: int, end_s: float) -> bool:
    slo = goal.slo
    first_is_late = slo.ttft_s is not None and left == goal.max_tokens and end_s > slo.ttft_s + 1e-9
    last_is_late = slo.deadline_s is not None and end_s > slo.deadline_s + 1e-9 and left > 0
    return first_is_late or last_is_late or (after > 0 and slo.deadline_s is not None and end_s > slo.deadline_s)
