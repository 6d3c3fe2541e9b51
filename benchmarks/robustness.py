"""Whether real-time goals are safe on devices and in traffic that nothing was tuned on: random cases, by seed."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from slice_ros.bench.robustness import CONTESTANTS, HEADER, Verdict, draw, judge
from slice_ros.scheduling.policies import DEFAULT_POLICY


def judged(seed: int) -> Verdict:
    """The verdict on a seed's case."""
    return judge(draw(seed))


def main(seeds: Iterable[int], jobs: int, folder: Path | None) -> None:
    """Print a line for each case, what breaks in full at the end, and write its files."""
    began = time.perf_counter()
    print(HEADER)
    with ProcessPoolExecutor(jobs) as pool:
        verdicts = []
        for verdict in pool.map(judged, seeds):
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


def worst(verdicts: Iterable[Verdict]) -> float:
    """The least share of what the real-time goals attain alone."""
    return min(v.real_time[DEFAULT_POLICY] / v.alone if v.alone else 1.0 for v in verdicts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=int, nargs="?", default=100)
    parser.add_argument("first_seed", type=int, nargs="?", default=random.randrange(10**6), help="default: another one each time")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the device and workload of each case that breaks there")
    arguments = parser.parse_args()
    first = arguments.first_seed
    main(range(first, first + arguments.cases), arguments.jobs, arguments.write)
