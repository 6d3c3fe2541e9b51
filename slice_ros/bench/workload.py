"""Seeded traffic: which goal arrives when, with what SLO, and how long its prompt and answer are."""

from __future__ import annotations

import random
from dataclasses import dataclass

from slice_ros.engines.simulated import Lengths
from slice_ros.goal import GoalRequest
from slice_ros.slo import BestEffort, RealTime, Slo


@dataclass(frozen=True, slots=True)
class GoalClass:
    """One kind of goal in a workload; lengths in tokens are uniform in (low, high)."""

    label: str
    share: float
    slo: Slo
    output_tokens: tuple[int, int]
    prompt_tokens: tuple[int, int]

    @property
    def max_tokens(self) -> int:
        return self.output_tokens[1]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A goal of the traffic. Its answer's length is for the engine alone to know."""

    time_s: float
    request: GoalRequest
    lengths: Lengths


def robot_mix(rt_share: float = 0.7) -> tuple[GoalClass, ...]:
    """Control queries with deadlines beside voice chat and text Q&A, which share the rest evenly."""
    rest = (1.0 - rt_share) / 2.0
    return (
        GoalClass("control", rt_share, RealTime(tpot_ms=50, deadline_s=1.5), (12, 25), (32, 96)),
        GoalClass("voice", rest, BestEffort(ttft_ms=1000, tpot_ms=125), (40, 120), (32, 128)),
        GoalClass("qa", rest, BestEffort(ttft_ms=1000, tpot_ms=100), (60, 200), (64, 512)),
    )


def poisson(classes: tuple[GoalClass, ...], rate_hz: float, duration_s: float, seed: int) -> list[Arrival]:
    """Poisson arrivals of ``rate_hz`` goals a second for ``duration_s``, classes drawn by their shares."""
    rng = random.Random(seed)
    arrivals: list[Arrival] = []
    now = rng.expovariate(rate_hz)
    while now < duration_s:
        kind = rng.choices(classes, [c.share for c in classes])[0]
        lengths = Lengths(rng.randint(*kind.prompt_tokens), rng.randint(*kind.output_tokens))
        goal_id = f"{kind.label}-{len(arrivals)}"
        request = GoalRequest(goal_id, kind.slo, kind.max_tokens, prompt=" ", submitted_s=now, label=kind.label)
        arrivals.append(Arrival(now, request, lengths))
        now += rng.expovariate(rate_hz)
    return arrivals
