"""Whether real-time goals are safe on devices and in traffic that nothing was tuned on: random cases, by seed."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

from slice_ros.bench import plots
from slice_ros.bench.robustness import CONTESTANTS, HEADER, Verdict, draw, judge, price
from slice_ros.scheduling.policies import DEFAULT_POLICY

LOADS = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
"""Cases are told together between these loads."""


def judged(seed: int) -> Verdict:
    """The verdict on a seed's case."""
    return judge(draw(seed))


def verdicts_of(seeds: Iterable[int], jobs: int, json: Path | None) -> Iterator[Verdict]:
    """The verdict on each seed's case, also written line by line."""
    with ProcessPoolExecutor(jobs) as pool, json.open("w") if json else nullcontext() as file:
        for verdict in pool.map(judged, seeds):
            if file:
                print(verdict.to_json(), file=file, flush=True)
            yield verdict


def main(judged_cases: Iterable[Verdict], folder: Path | None, plot: Path | None) -> None:
    """Print a line for each case, what breaks in full at the end, and write its files."""
    began = time.perf_counter()
    print(HEADER)
    verdicts = []
    for verdict in judged_cases:
        print(verdict.line, flush=True)
        verdicts.append(verdict)
    broken = [verdict for verdict in verdicts if not (verdict.is_safe and verdict.is_unbeaten)]
    for verdict in broken:
        print(f"\n{verdict.line}\n  {verdict.case.command}")
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            verdict.case.write(folder)
    count = len(verdicts)
    print(f"\n{count} cases in {time.perf_counter() - began:.0f} s:")
    print(f"real-time goals unsafe in {sum(not v.is_safe for v in verdicts)}, worst of alone {worst(verdicts):.3f}")
    print(f"another policy keeps clearly more in {sum(not v.is_unbeaten for v in verdicts)}")
    for name in CONTESTANTS:
        means = [sum(getattr(v, what)[name] for v in verdicts) / count for what in ("everything", "real_time", "best_effort")]
        print(f"  {name:15} all {means[0]:.3f}  real-time {means[1]:.3f}  best effort {means[2]:.3f}")
    show_price(verdicts)
    if plot:
        plots.plot_price(verdicts, plot)


def show_price(verdicts: Sequence[Verdict]) -> None:
    """Print what best-effort goals pay, by load."""
    print("\nbest-effort goals in time, by load (in brackets real-time goals):")
    print("    load cases | here          | real-time first | kindest other that is safe | kindest other")
    for low, high in pairwise(LOADS):
        if some := [verdict for verdict in verdicts if low <= verdict.case.load < high]:
            it = price(some)
            print(
                f" {low}-{high} {len(some):5} | {it.here:.3f} ({it.real_time:.3f}) | {it.first:15.3f} | {it.safe:26.3f} | "
                f"{it.kindest:.3f} ({it.kindest_real_time:.3f})"
            )


def worst(verdicts: Iterable[Verdict]) -> float:
    """The least share of what the real-time goals attain alone."""
    return min(v.real_time[DEFAULT_POLICY] / v.alone if v.alone else 1.0 for v in verdicts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=int, nargs="?", default=100)
    parser.add_argument("first_seed", type=int, nargs="?", default=random.randrange(10**6), help="default: another one each time")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the device and workload of each case that breaks there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw what best-effort goals pay, case by case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a line for each case, also while it goes on")
    parser.add_argument("--from", type=Path, dest="from_", metavar="FILE", help="print and draw what an earlier --json wrote; run nothing")
    arguments = parser.parse_args()
    first = arguments.first_seed
    try:
        if arguments.plot:
            plots.check_matplotlib()
        if arguments.from_:
            verdicts: Iterable[Verdict] = [Verdict.from_json(line) for line in arguments.from_.read_text().splitlines()]
        else:
            verdicts = verdicts_of(range(first, first + arguments.cases), arguments.jobs, arguments.json)
        main(verdicts, arguments.write, arguments.plot)
    except (plots.PlotError, OSError, KeyError, ValueError) as error:
        sys.exit(f"robustness: {error}")
