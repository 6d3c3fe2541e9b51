"""Watch a server in the terminal: figures per class and the decode mask scrolling by; Ctrl-C ends it."""

from __future__ import annotations

import argparse
import sys
import time

HELP = "watch a server in the terminal"
PERIOD_S = 1.0
"""Between two prints where nothing can be drawn over."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", default="/slice_server", help="name of the server node")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="how long to wait for its first status, s")


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.live import Live

    from slice_ros.monitor.terminal import draw_figures, draw_status
    from slice_ros.monitor.viewer import StatusViewer

    with StatusViewer(arguments.server) as viewer:
        deadline = time.monotonic() + arguments.timeout
        while viewer.status is None:
            viewer.spin(0.1)
            if time.monotonic() > deadline:
                print(f"slice-ros top: no status of {arguments.server} within {arguments.timeout:g} s; is it running?", file=sys.stderr)
                return 1
        console = Console()
        if not console.is_terminal or console.is_dumb_terminal:  # one that cannot be drawn over: line after line
            while True:
                console.print(draw_figures(viewer.status, silent_s=viewer.silent_s))
                viewer.spin(PERIOD_S)
        title = f"{arguments.server}   (Ctrl-C leaves)"
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                live.update(draw_status(viewer.status, title=title, height=console.height, silent_s=viewer.silent_s), refresh=True)
                viewer.spin(0.25)
