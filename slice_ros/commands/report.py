"""Judge the goals of a bag: attainment and times per policy, and the benchmark's figures; where there are several servers, of each.

`ros2 bag record --topics /slice_server/goal_events /slice_server/slo_status` records one; that command is ROS 2's own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "judge the goals of a bag, and draw them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="rosbag2 directory, or a .mcap or .db3 file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw every goal's tokens over time there (.png, .svg or .pdf)")
    parser.add_argument("--window", type=float, nargs=2, metavar=("FROM", "TO"), help="stretch to draw, seconds from the first goal")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write rows as `slice-ros bench --json` does; `slice-ros bench --from` shows them"
    )


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from slice_ros.bench.command import summary
    from slice_ros.bench.plots import PlotError, plot_timeline
    from slice_ros.bench.rows import write_rows
    from slice_ros.monitor.bag import BagError, read_bag

    try:
        recording = read_bag(arguments.bag)
        rows = recording.rows(arguments.bag.name)
        console = Console()
        console.print(summary(rows, of="goals"))
        if arguments.json:
            write_rows(arguments.json, rows)
            console.print(f"written to {arguments.json}")
        if arguments.plot:
            begin_s, end_s = arguments.window or (0.0, recording.duration_s)
            plot_timeline(recording.outcomes, (begin_s, end_s), arguments.plot)
            console.print(f"drawn to {arguments.plot}")
    except (BagError, PlotError, OSError) as error:
        print(f"slice-ros report: {error}", file=sys.stderr)
        return 1
    return 0
