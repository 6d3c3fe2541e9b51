"""Every policy, and what none can exceed, on devices and traffic that nothing was tuned on: the held-out grid.

Nothing is tuned on its seeds. Rates are loads: the work that arrives, as a share of what the device can do in its best steps.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from operator import attrgetter
from pathlib import Path

from slice_ros.bench.limit import LIMIT
from slice_ros.bench.rows import Row, mean, read_rows, write_rows
from slice_ros.bench.sweep import Case, Simulated, run_case
from slice_ros.bench.workload import Workload
from slice_ros.bench.workload_file import load_workload
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import DEFAULT_POLICY, POLICIES

HERE = Path(__file__).parent
FIRST_SEED = 5000
DEVICES = {
    "rtx4060ti-chatglm2-6b-int4": 1.0,
    "rtx4060ti-chatglm2-6b-int4-smooth": 1.0,
    str(HERE / "devices" / "cpu-saw-tooth.yaml"): 4.0,
    "h200-chatglm2-6b-q4_0": 1.0,
}
"""Profiles, and the factor on all bounds with which goals can meet them alone."""
WORKLOADS = (
    "robot-mix",
    "robot-mix-bursty",
    *(str(HERE / "workloads" / f"{name}.yaml") for name in ("long-prompts", "chats", "agent-chains", "controllers", "utilities")),
)
LOADS = "0.3,0.6,1,1.5,2"
GOALS = 150
"""Goals of a run at least, on average, ..."""
LEAST_S = 30.0
"""... and how long they arrive at least: as long as the longest deadline, and three bursts."""
ALL_BY, REAL_TIME_BY = 0.01, 0.003
"""By how much another policy may keep more of all goals, and of the real-time ones."""

Key = tuple[str, str, float]
"""Device, workload, goals a second."""


def mean_work_s(workload: Workload, latency: LatencyModel) -> float:
    """Time of a goal, in the mean, in the device's best steps."""
    rng = random.Random(0)
    token_s = min(latency.step_s(rows) / rows for rows in range(1, 17))
    total = sum(kind.share for kind in workload.classes)
    lengths = [(kind.share / total, kind.goal("", 0.0, rng).lengths) for kind in workload.classes for _ in range(200)]
    return sum(share * (latency.prompt_s(its.prompt_tokens) + its.output_tokens * token_s) for share, its in lengths) / 200


def cases(policies: Sequence[str], seeds: Sequence[int], loads: Sequence[float], goals: float) -> list[tuple[Case, Simulated]]:
    """The grid, one seed after the other, so that what there is when it is interrupted is one of fewer seeds."""
    grid = []
    for seed, (profile, scale), name in product(seeds, DEVICES.items(), WORKLOADS):
        latency, workload = LatencyModel.profile(profile), load_workload(name)
        for load in loads:
            rate_hz = float(f"{load / mean_work_s(workload, latency):.3g}")
            duration_s = max(goals / rate_hz, LEAST_S)
            grid += [(Case(policy, workload, rate_hz, seed, duration_s, scale), Simulated(latency)) for policy in policies]
    return grid


def run(case: tuple[Case, Simulated]) -> Row:
    """One run."""
    return run_case(*case)


def report(rows: Sequence[Row]) -> str:
    """A line for each device, workload and rate, where the default policy is beaten, and in how many cells of how many that is.

    A cell into which no goal came has no shares, and does not count.
    """
    groups: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.device, row.workload, row.rate_hz].append(row)
    policies = [name for name in POLICIES if any(row.policy == name for row in rows)]
    names = ["device", "traffic", "goals/s", *policies, LIMIT, "of the limit", "beaten by"]
    lines, verdicts = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"], []
    for (device, workload, rate_hz), group in groups.items():
        everything, real_time = (_means(group, attrgetter(name)) for name in ("attainment", "attainment_rt"))
        best = max(everything[name] for name in policies)
        shares = [_cell(everything[name], real_time[name], bold=everything[name] == best) for name in policies]
        limit = everything[LIMIT]
        cells = [device, workload, f"{rate_hz:g}", *shares, f"{limit:.3f}", f"{everything[DEFAULT_POLICY] / limit:.3f}"]
        verdict = "no goals" if math.isnan(everything[DEFAULT_POLICY]) else beaten(everything, real_time)
        verdicts.append(verdict)
        lines.append(f"| {' | '.join(cells)} | {verdict} |")
    counted = [verdict for verdict in verdicts if verdict != "no goals"]
    lost = sum(bool(verdict) for verdict in counted)
    return "\n".join([*lines, "", f"{len(counted)} cells; another policy keeps clearly more in {lost}"])


def beaten(everything: dict[str, float], real_time: dict[str, float]) -> str:
    """Who keeps clearly more than the default policy: of all goals, or of the real-time ones."""
    names = [name for name in everything if name not in {LIMIT, DEFAULT_POLICY}]
    of_all = [name for name in names if everything[name] > everything[DEFAULT_POLICY] + ALL_BY]
    of_real_time = [name for name in names if real_time[name] > real_time[DEFAULT_POLICY] + REAL_TIME_BY]
    return "; ".join([*of_all, *(f"real-time: {name}" for name in of_real_time)])


def _cell(everything: float, real_time: float, *, bold: bool) -> str:
    return (f"**{everything:.3f}**" if bold else f"{everything:.3f}") + f" ({real_time:.3f})"


def _means(rows: Sequence[Row], value: Callable[[Row], float]) -> dict[str, float]:
    return {name: mean([value(row) for row in rows if row.policy == name]) for name in dict.fromkeys(row.policy for row in rows)}


def main(arguments: argparse.Namespace) -> None:
    """Run the grid, or read what an earlier run wrote, and print the table."""
    if arguments.rows:
        print(report(read_rows(arguments.rows)))
        return
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    grid = cases([*POLICIES, LIMIT], seeds, [float(load) for load in arguments.loads.split(",")], arguments.goals)
    rows: list[Row] = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for row in pool.map(run, grid):
            rows.append(row)
            if arguments.json and len(rows) % (len(POLICIES) + 1) == 0:
                write_rows(arguments.json, rows)
    if arguments.json:
        write_rows(arguments.json, rows)
    print(report(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="repetitions (default: %(default)s)")
    parser.add_argument("--loads", default=LOADS, metavar="X,...", help="shares of what the device can do (default: %(default)s)")
    parser.add_argument("--goals", type=float, default=GOALS, metavar="N", help="goals of a run on average (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one row for each run, also while it goes on")
    parser.add_argument("--from", dest="rows", type=Path, metavar="FILE", help="print the table of such rows; run nothing")
    main(parser.parse_args())
