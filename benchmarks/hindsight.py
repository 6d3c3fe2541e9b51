"""What could be kept if it were known beforehand which goals to take on, and how long their answers are: schedules that exist, by search.

The best of all schedules keeps no less than they do, and no more than the limit of ``slice-ros bench --limit``.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product, repeat
from statistics import mean
from unittest.mock import patch

from slice_ros.bench.limit import LimitError, check_scipy, limit_of
from slice_ros.bench.simulate import simulate
from slice_ros.bench.sweep import Case
from slice_ros.bench.workload import Arrival
from slice_ros.bench.workload_file import load_workload
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.lengths import FEW
from slice_ros.scheduling.policies import DEFAULT_POLICY, slack

PASSES = 3
"""How often the goals that are left out are gone through at most."""

Serve = Callable[[Sequence[Arrival]], frozenset[str]]
"""Serves goals, and says which of them are kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Shares of a case's goals that are kept: by the default policy, in hindsight, and by the limit."""

    policy: float
    hindsight: float
    limit: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """What comes of serving some goals of the traffic and none of the others: more kept goals are better, of as many those of less work."""

    served: frozenset[Arrival]
    kept: int
    work_s: float

    @property
    def worth(self) -> tuple[int, float]:
        return self.kept, -self.work_s


def judged(case: Case, latency: LatencyModel) -> Kept:
    """All three shares of one case; NaN of no goals."""
    arrivals = case.traffic()

    def serve(goals: Sequence[Arrival]) -> frozenset[str]:
        return kept_by(slack.Slack(), goals, latency)

    def serve_knowing_lengths(goals: Sequence[Arrival]) -> frozenset[str]:
        own_kinds = [replace(goal, request=replace(goal.request, label=goal.request.goal_id)) for goal in goals]
        return kept_by(Foreknowing(goals), own_kinds, latency)

    ids = serve(arrivals)
    found, best = frozenset(arrival for arrival in arrivals if arrival.request.goal_id in ids), len(ids)
    with patch.object(slack, "select", lambda jobs, *_: list(jobs)):  # all are promised
        for how in (serve, serve_knowing_lengths):
            schedule = search(found, arrivals, latency, how)
            if schedule.kept > best:
                found, best = schedule.served, schedule.kept
    count = len(arrivals) or math.nan
    return Kept(len(ids) / count, best / count, limit_of(arrivals, latency))


def search(begin: frozenset[Arrival], arrivals: Sequence[Arrival], latency: LatencyModel, serve: Serve) -> Schedule:
    """The best schedule that is found by taking on one goal more, or one in place of the longest beside it, as long as that is better."""

    def schedule(served: Iterable[Arrival]) -> Schedule:
        in_order = sorted(served, key=lambda arrival: (arrival.time_s, arrival.request.goal_id))
        ids = serve(in_order)
        work = sum(work_s(arrival, latency) for arrival in in_order if arrival.request.goal_id in ids)
        return Schedule(frozenset(in_order), len(ids), work)

    def by_work(arrival: Arrival) -> tuple[float, str]:
        return work_s(arrival, latency), arrival.request.goal_id

    best = schedule(begin)
    for _ in range(PASSES):
        before = best
        for arrival in sorted(set(arrivals) - best.served, key=by_work):
            trials = [best.served | {arrival}]
            longest = max((other for other in best.served if meet(other, arrival)), key=by_work, default=arrival)
            if by_work(longest) > by_work(arrival):
                trials.append(trials[0] - {longest})
            better = next((found for trial in trials if (found := schedule(trial)).worth > best.worth), None)
            best = better or best
        if best is before:
            break
    return best


def kept_by(policy: slack.Slack, arrivals: Sequence[Arrival], latency: LatencyModel) -> frozenset[str]:
    """IDs of the goals that met every bound."""
    return frozenset(outcome.arrival.request.goal_id for outcome in simulate(arrivals, policy, latency) if outcome.report.attained)


class Foreknowing(slack.Slack):
    """The default policy that knows the answers' lengths, where each goal's ID is its label."""

    def __init__(self, arrivals: Iterable[Arrival]) -> None:
        super().__init__()
        for arrival in arrivals:
            for _ in range(FEW):
                self._experience.lengths.observe(arrival.request.goal_id, arrival.lengths.output_tokens)


def work_s(arrival: Arrival, latency: LatencyModel) -> float:
    """Device time of a goal, alone."""
    return latency.prompt_s(arrival.lengths.prompt_tokens) + arrival.lengths.output_tokens * latency.step_s(1)


def meet(one: Arrival, other: Arrival) -> bool:
    """Whether there is a time at which both may be served and be in time."""
    return one.time_s <= latest_end_s(other) and other.time_s <= latest_end_s(one)


def latest_end_s(arrival: Arrival) -> float:
    """When the last token of a goal is due."""
    slo, ends_s = arrival.request.slo, []
    if slo.deadline_s is not None:
        ends_s.append(slo.deadline_s)
    if slo.ttft_s is not None and slo.tpot_s is not None:
        ends_s.append(slo.ttft_s + slo.tpot_s * (arrival.lengths.output_tokens - 1))
    return arrival.time_s + min(ends_s, default=math.inf)


def main(arguments: argparse.Namespace) -> None:
    """Search, and print a line for each rate when it is done."""
    rates_hz = [float(rate) for rate in arguments.rates.split(",")]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    workload, latency = load_workload(arguments.workload), LatencyModel.profile(arguments.device)
    cases = [Case(DEFAULT_POLICY, workload, rate, seed, arguments.duration) for rate, seed in product(rates_hz, seeds)]
    print(f"{arguments.workload} on {arguments.device}, {arguments.duration:g} s, {len(seeds)} seeds from {seeds.start} on")
    print("| goals/s | slack | in hindsight | limit | slack of hindsight |\n| --- | --- | --- | --- | --- |")
    with ProcessPoolExecutor(arguments.jobs) as pool:
        results = pool.map(judged, cases, repeat(latency))
        for rate in rates_hz:
            kept = [next(results) for _ in seeds]
            policy, hindsight, limit = (mean(shares) for shares in zip(*((k.policy, k.hindsight, k.limit) for k in kept), strict=True))
            print(f"| {rate:g} | {policy:.3f} | {hindsight:.3f} | {limit:.3f} | {policy / hindsight:.3f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", default="robot-mix", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--device", default="rtx4060ti-chatglm2-6b-int4-smooth", metavar="PROFILE", help="(default: %(default)s)")
    parser.add_argument("--rates", default="1.5,2,2.5,3", metavar="HZ,...", help="goals/s (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=100.0, metavar="S", help="of arrivals (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="repetitions (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default: %(default)s)")
    parsed = parser.parse_args()
    try:
        check_scipy()
        main(parsed)
    except (LimitError, ValueError) as error:
        sys.exit(f"hindsight: {error}")
