"""What it is worth to end reasoning by the deadline, on a trained toy that reasons: right answers in time, against budgets and none.

    make reasoner && python benchmarks/reasoning_toy.py [--rates 0.5,1,2,4]

Goals arrive at random, each a sum to be added by a deadline of its own. Scheduler, engine and tokens are real; each step is taken to
last as long as on a device with a real model, by a clock that moves as told. Printed are the shares of all goals that kept their
deadline, and that did with the right answer, and the mean share of its thoughts that a goal in time had.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from reasoning import aborting, drive

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.paced import PacedEngine
from slice_ros.goal import ChatMessage, GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.events import Event, Finished, Progress
from slice_ros.scheduling.policies import make_policy
from slice_ros.scheduling.scheduler import Scheduler
from training.sums import Sum, draw

WAYS = ("on", "8", "16", "32", "48", "deadline", "off")
DURATION_S = 100.0
DEADLINES_S = 0.3, 1.5
MAX_TOKENS = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one goal whether it kept its deadline, whether its answer was right, too, and the share of its thoughts that it had."""

    kept: bool
    right: bool
    thought: float


def goals(rate: float, seed: int) -> Iterator[tuple[float, float, Sum]]:
    """Arrival and deadline, s, and what is to be added."""
    rng = random.Random(f"toy {seed}")
    now = rng.expovariate(rate)
    while now < DURATION_S:
        yield now, rng.uniform(*DEADLINES_S), draw(rng)
        now += rng.expovariate(rate)


def measure(engine: LlamaEngine, latency: LatencyModel, way: str, rate: float, seed: int) -> list[Outcome]:
    rows = list(goals(rate, seed))
    clock, events = VirtualClock(), list[Event]()
    paced = PacedEngine(engine, latency, now=clock.now, sleep=clock.advance)
    scheduler = Scheduler(paced, make_policy("slack"), latency, events.extend, clock=clock)
    requests = [
        GoalRequest(
            str(i),
            aborting(deadline_s),
            MAX_TOKENS,
            messages=(ChatMessage("user", of.question),),
            label="sum",
            reasoning=way,
            submitted_s=arrival_s,
        )
        for i, (arrival_s, deadline_s, of) in enumerate(rows)
    ]
    drive(scheduler, clock, requests)
    texts, thoughts, kept = defaultdict[str, str](str), defaultdict[str, str](str), dict[str, bool]()
    for event in events:
        if isinstance(event, Progress):
            texts[event.goal_id] += event.text
            thoughts[event.goal_id] += event.reasoning
        elif isinstance(event, Finished):
            kept[event.goal_id] = event.report.attained
    return [
        Outcome(kept[goal_id], kept[goal_id] and texts[goal_id] == of.answer, len(thoughts[goal_id].strip()) / len(of.thoughts))
        for goal_id, (_, _, of) in ((str(i), row) for i, row in enumerate(rows))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=Path("build/reasoner.gguf"), help="what training.reasoner wrote (default: %(default)s)"
    )
    parser.add_argument("--profile", default="rtx4060ti-chatglm2-6b-int4", help="device profile")
    parser.add_argument("--rates", default="0.5,1,2,4", help="goals a second")
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    latency = LatencyModel.profile(arguments.profile)
    engine = LlamaEngine(LlamaConfig(arguments.model, prefix_cache=0, n_threads=1))
    for rate in map(float, arguments.rates.split(",")):
        for way in WAYS:
            per_seed = [measure(engine, latency, way, rate, seed) for seed in range(1, arguments.seeds + 1)]
            outcomes = [outcome for rows in per_seed for outcome in rows]
            right = sorted(mean(outcome.right for outcome in rows) for rows in per_seed)
            had = mean(min(1.0, outcome.thought) for outcome in outcomes if outcome.kept)
            print(
                f"{rate:g}/s {way:>8}: of {len(outcomes)} goals {mean(outcome.kept for outcome in outcomes):.3f} kept their deadline, "
                f"{mean(outcome.right for outcome in outcomes):.3f} with the right answer ({right[0]:.3f} to {right[-1]:.3f} by seed), "
                f"thoughts had by those in time {had:.2f}"
            )
    engine.shutdown()


if __name__ == "__main__":
    main()
