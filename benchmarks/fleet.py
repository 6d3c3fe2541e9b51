"""Up to which rate the real-time goals of unlike devices are in time, for each dispatch policy and for each device alone.

``python benchmarks/fleet.py``; simulated, so that it says the same on any machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from slice_ros.bench.fleet import Network, SimulatedFleet
from slice_ros.bench.simulate import attainment
from slice_ros.bench.workload_file import load_workload
from slice_ros.dispatch.policies import DISPATCH_POLICIES
from slice_ros.latency.model import LatencyModel

KEPT = 0.99
"""Share of the real-time goals of all seeds together that has to be in time."""
PROFILE, BIG = "rtx4060ti-chatglm2-6b-int4-smooth", "h200-chatglm2-6b-q4_0"
MOST_HZ = {PROFILE: 5.0, BIG: 80.0}
"""Rates that they cannot keep."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Args:
    devices: profile and speed of each.
    """

    name: str
    devices: tuple[tuple[str, float], ...]
    duration_s: float


FLEETS = (
    Fleet("an RTX 4060 Ti and one of half its speed", ((PROFILE, 1.0), (PROFILE, 0.5)), 60.0),
    Fleet("an H200 and four of half an RTX 4060 Ti's speed", ((BIG, 1.0), *(((PROFILE, 0.5),) * 4)), 10.0),
)


def device(profile: str, speed: float) -> LatencyModel:
    return replace(LatencyModel.profile(profile).scaled(1.0 / speed), device=f"{profile}@{speed:g}")


def kept(rate_hz: float, seed: int, devices: tuple[tuple[str, float], ...], policy: str, duration_s: float, network: Network) -> float:
    """Attainment of the real-time goals."""
    arrivals = load_workload("robot-mix").traffic(rate_hz, duration_s, seed)
    fleet = SimulatedFleet(tuple(device(*each) for each in devices), network)
    return attainment([outcome for outcome in fleet.run(arrivals, policy) if outcome.is_real_time])


def highest_rate(pool: ProcessPoolExecutor, fleet: Fleet, devices: tuple[tuple[str, float], ...], policy: str, options: Options) -> float:
    """The rate up to which enough of them are in time: halved again and again, to the given share of itself."""
    low, high = 0.0, sum(MOST_HZ[profile] * speed for profile, speed in devices)
    measure = partial(kept, devices=devices, policy=policy, duration_s=fleet.duration_s, network=options.network)
    while high - low > options.precision * high and high > 0.02:
        rate_hz = (low + high) / 2.0
        missed = 0.0
        for share in pool.map(partial(measure, rate_hz), options.seeds):
            missed += 1.0 - share
            if missed >= (1.0 - KEPT) * len(options.seeds):
                high = rate_hz
                break
        else:
            low = rate_hz
    return low


@dataclass(frozen=True, slots=True)
class Options:
    seeds: range
    precision: float
    network: Network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", type=int, choices=range(len(FLEETS)), help="only this one")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--precision", type=float, default=0.04, help="of a rate, as a share of it")
    parser.add_argument("--network", default="2,4", help="delay and jitter, ms")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    delay_ms, jitter_ms = map(float, arguments.network.split(","))
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    options = Options(seeds, arguments.precision, Network(delay_ms / 1e3, jitter_ms / 1e3))
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        for fleet in FLEETS if arguments.fleet is None else (FLEETS[arguments.fleet],):
            print(f"{fleet.name}: highest rate with {KEPT} of the real-time goals in time, goals/s", flush=True)
            alone = {each: highest_rate(pool, fleet, (each,), "deadline", options) for each in dict.fromkeys(fleet.devices)}
            for (profile, speed), rate_hz in alone.items():
                print(f"  {profile}@{speed:g} alone {rate_hz:.2f}", flush=True)
            total = sum(alone[each] for each in fleet.devices)
            rates = {policy: highest_rate(pool, fleet, fleet.devices, policy, options) for policy in DISPATCH_POLICIES}
            for policy, rate_hz in rates.items():
                print(f"  {policy:18} {rate_hz:6.2f}  {rate_hz / total:.2f} of the sum {total:.2f}", flush=True)
            ours = rates.pop("deadline")
            other = max(rates, key=rates.__getitem__)
            print(f"  deadline / {other}: {ours / max(rates[other], 1e-9):.2f}", flush=True)


if __name__ == "__main__":
    main()
