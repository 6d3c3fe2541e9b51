"""What the demo asks of the server: how each kind of goal is sent, and when people ask what, which the seed alone decides."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slice_ros import schemas
from slice_ros.demo.language import Example, dialogue, qa
from slice_ros.schemas import Schema
from slice_ros.slo import BestEffort, OnMiss, RealTime, Slo

CONTROL_PERIOD_S = 0.7
"""The robot asks for a command so often, whatever happens; each is due before the next."""
ASKING_S = 18.0
"""People ask for so long; a tour without trouble takes a little longer."""
USUAL_TOUR_S = 25.0
"""What tours take, roughly."""
RATE_HZ = 0.75
"""Questions per second of each kind."""
TOUR_LIMIT_S = 40.0
"""A robot that has not ended its tour by then gives up."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How goals of one kind are sent.

    Args:
        slo: what their answers must meet.
        max_tokens: enough for every right answer; the start model, which never ends one, uses them all.
        json_schema: of the answer; empty is free text.
    """

    slo: Slo
    max_tokens: int
    json_schema: str | Schema = ""


KINDS: Mapping[str, Kind] = {
    "control": Kind(RealTime(deadline_s=CONTROL_PERIOD_S, on_miss=OnMiss.CONTINUE), 24, schemas.velocity((0.0, 1.2), (-0.8, 0.8))),
    "navigation": Kind(RealTime(deadline_s=2.0, on_miss=OnMiss.CONTINUE), 40, schemas.navigation()),
    "voice": Kind(BestEffort(ttft_ms=1000, tpot_ms=125), 60),
    "qa": Kind(BestEffort(ttft_ms=1000, tpot_ms=100), 100),
}
"""The robot sends control and navigation, people voice and Q&A."""


@dataclass(frozen=True, slots=True)
class Question:
    """Somebody asks something.

    Args:
        at_s: from the begin of the traffic.
        seat: who asks, an index into the floor's seats.
        example: the prompt, and what may be answered.
    """

    at_s: float
    seat: int
    example: Example


ASKED: Mapping[str, Callable[[random.Random], Example]] = {"voice": dialogue, "qa": qa}


def questions(label: str, *, seed: int, seats: int, rate_hz: float = RATE_HZ, duration_s: float = ASKING_S) -> list[Question]:
    """The questions of one kind in order of time, with exponential gaps; the same ones for the same arguments."""
    rng = random.Random(f"{label} {seed}")
    trace: list[Question] = []
    at_s = rng.expovariate(rate_hz)
    while at_s < duration_s:
        trace.append(Question(at_s, rng.randrange(seats), ASKED[label](rng)))
        at_s += rng.expovariate(rate_hz)
    return trace
