"""Time of one plan of each policy, and of one admission, by number of goals in hand.

Run with ``pytest benchmarks/planning_cost.py`` (needs the extra ``test``); not part of ``make test``.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from slice_ros.engines.llama.prefixes import Prefixes
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.admission import predict
from slice_ros.scheduling.experience import Experience
from slice_ros.scheduling.policies import POLICIES, Limits, make_policy
from slice_ros.scheduling.task import Task
from slice_ros.slo import BestEffort, RealTime

CONTROL = RealTime(tpot_ms=50, deadline_s=1.5)
CHAT = BestEffort(ttft_ms=1000, tpot_ms=125)
REPORTS = tuple(BestEffort(deadline_s=20.0 + k) for k in range(70))
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


def reports_in_hand(count: int, seed: int = 0) -> list[Task]:
    """Best-effort goals with deadlines alone, each at a time of its own: what promises take longest for."""
    rng = random.Random(seed)
    return [
        Task(str(order), rng.choice(REPORTS), "report", 120, rng.randint(32, 128), NOW_S - rng.uniform(0.0, 0.5), order)
        for order in range(1, count + 1)
    ]


@pytest.mark.parametrize("count", [4, 16, 64, 256])
@pytest.mark.parametrize("in_hand", [tasks_in_hand, reports_in_hand])
@pytest.mark.parametrize("policy", POLICIES)
def test_plan(benchmark: Any, policy: str, in_hand: Callable[[int], list[Task]], count: int) -> None:
    latency = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth")
    planner, tasks, limits = make_policy(policy), in_hand(count), Limits()
    planner.plan(tasks, NOW_S, latency, limits)
    benchmark(planner.plan, tasks, NOW_S, latency, limits)


@pytest.mark.parametrize("count", [4, 16, 64, 256])
@pytest.mark.parametrize("shared", [0, 64])
def test_look_up(benchmark: Any, shared: int, count: int) -> None:
    """What the scheduler looks up before a plan, of goals that wait: prompts of which nothing, or so many tokens, are cached."""
    rng = random.Random(0)
    system = array("i", (rng.randrange(30000) for _ in range(shared)))
    prompts = [system + array("i", (rng.randrange(30000) for _ in range(128))) for _ in range(count)]
    known = Prefixes()
    for sequence in range(16):
        known.put(sequence, system + array("i", (rng.randrange(30000) for _ in range(128))))
    benchmark(lambda: [known.longest(prompt) for prompt in prompts])


@pytest.mark.parametrize("count", [4, 16, 64, 256])
def test_admission(benchmark: Any, count: int) -> None:
    latency = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth")
    newcomer, *tasks = tasks_in_hand(count)
    benchmark(predict, newcomer, tasks, NOW_S, latency, Limits(), Experience())
