"""Time of one plan of each policy, and of one admission, by number of goals in hand.

Run with ``pytest benchmarks/planning_cost.py`` (needs the extra ``test``); not part of ``make test``.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from slice_ros.admission import predict
from slice_ros.experience import Experience
from slice_ros.latency import LatencyModel
from slice_ros.policies import POLICIES, Limits, make_policy
from slice_ros.slo import BestEffort, RealTime
from slice_ros.task import Task

CONTROL = RealTime(tpot_ms=50, deadline_s=1.5)
CHAT = BestEffort(ttft_ms=1000, tpot_ms=125)
NOW_S = 10.0


def tasks_in_hand(count: int, seed: int = 0) -> list[Task]:
    """A mix of goals, new and half done, a third of them real-time, all of which can still be in time."""
    rng = random.Random(seed)
    tasks = []
    for order in range(1, count + 1):
        is_control = rng.random() < 1 / 3
        slo, longest = (CONTROL, 25) if is_control else (CHAT, 120)
        age_s = rng.uniform(0.0, 0.5)
        task = Task(str(order), slo, "control" if is_control else "chat", longest, rng.randint(32, 128), NOW_S - age_s, order)
        if rng.random() < 0.5:
            task.prompt_left = 0
            task.token_times_s = [NOW_S - age_s + 0.05 + 0.02 * k for k in range(rng.randint(1, 10))]
        tasks.append(task)
    return tasks


@pytest.mark.parametrize("count", [4, 16, 64, 256])
@pytest.mark.parametrize("policy", POLICIES)
def test_plan(benchmark: Any, policy: str, count: int) -> None:
    latency = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth")
    planner, tasks, limits = make_policy(policy), tasks_in_hand(count), Limits()
    planner.plan(tasks, NOW_S, latency, limits)
    benchmark(planner.plan, tasks, NOW_S, latency, limits)


@pytest.mark.parametrize("count", [4, 16, 64, 256])
def test_admission(benchmark: Any, count: int) -> None:
    latency = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth")
    newcomer, *tasks = tasks_in_hand(count)
    benchmark(predict, newcomer, tasks, NOW_S, latency, Limits(), Experience())
