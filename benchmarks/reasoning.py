"""What it is worth to end reasoning by the deadline, against fixed budgets and against none, in simulation.

Run with ``python benchmarks/reasoning.py [--rates 0.5,1,2]``. Goals arrive at random, each with a deadline and with as much to think as it
takes; a model that may not finish its thoughts answers all the same. Printed are the share of goals that kept their deadline with an
answer, and the mean share of their thoughts that those had.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator
from statistics import mean

from slice_ros.engines.simulated import Lengths, SimulatedEngine
from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.events import Event, Finished
from slice_ros.scheduling.policies import make_policy
from slice_ros.scheduling.scheduler import Scheduler
from slice_ros.slo import OnMiss, RealTime

WAYS = ("on", "32", "64", "128", "256", "deadline", "off")
DURATION_S = 120.0
MAX_TOKENS = 1024


def goals(rate: float, seed: int) -> Iterator[tuple[float, float, int, int]]:
    """Arrival and deadline, s, tokens of reasoning (log-normal) and of the answer."""
    rng = random.Random(seed)
    now = rng.expovariate(rate)
    while now < DURATION_S:
        yield now, rng.uniform(2.0, 8.0), max(8, min(800, round(rng.lognormvariate(4.8, 0.8)))), rng.randint(12, 30)
        now += rng.expovariate(rate)


def aborting(deadline_s: float) -> RealTime:
    """The SLO of a goal that ends when it misses its deadline."""
    return RealTime(deadline_s=deadline_s, on_miss=OnMiss.ABORT)


def drive(scheduler: Scheduler, clock: VirtualClock, requests: Iterable[GoalRequest]) -> None:
    """Submit each goal when it is due to arrive, and serve all to their ends."""
    for request in requests:
        while clock.now() < request.submitted_s:
            if not scheduler.turn():
                clock.advance(request.submitted_s - clock.now())
        scheduler.submit(request)
    while scheduler.turn():
        pass


def measure(latency: LatencyModel, way: str, rate: float, seed: int) -> list[tuple[bool, float]]:
    """Of each goal whether it kept its deadline, and the share of its thoughts that it had."""
    rows = list(goals(rate, seed))
    clock, events = VirtualClock(), list[Event]()
    budget = int(way) if way.isdigit() else 0 if way == "off" else MAX_TOKENS
    lengths = {}
    for i, (_, _, thoughts, answer) in enumerate(rows):
        had = min(thoughts, budget)
        lengths[str(i)] = Lengths(40, had + answer, reasoning=had)
    scheduler = Scheduler(SimulatedEngine(latency, clock, lengths), make_policy("slack"), latency, events.extend, clock=clock)
    how = "deadline" if way == "deadline" else "on"
    requests = [
        GoalRequest(str(i), aborting(deadline_s), MAX_TOKENS, prompt="x", label="plan", reasoning=how, submitted_s=arrival_s)
        for i, (arrival_s, deadline_s, _, _) in enumerate(rows)
    ]
    drive(scheduler, clock, requests)
    ends = {event.goal_id: event.report for event in events if isinstance(event, Finished)}
    shares = []
    for i, (_, _, thoughts, answer) in enumerate(rows):
        report = ends[str(i)]
        shares.append((report.attained, max(0, report.output_tokens - answer) / thoughts))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="rtx4060ti-chatglm2-6b-int4", help="device profile")
    parser.add_argument("--rates", default="0.25,0.5,1", help="goals a second")
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    latency = LatencyModel.profile(arguments.profile)
    for rate in map(float, arguments.rates.split(",")):
        for way in WAYS:
            per_seed = [measure(latency, way, rate, seed) for seed in range(1, arguments.seeds + 1)]
            kept = sorted(mean(attained for attained, _ in rows) for rows in per_seed)
            had = mean(min(1.0, share) for rows in per_seed for attained, share in rows if attained)
            print(f"{rate:g}/s {way:>8}: kept {mean(kept):.3f} ({kept[0]:.3f} to {kept[-1]:.3f}), thoughts had by those {had:.2f}")


if __name__ == "__main__":
    main()
