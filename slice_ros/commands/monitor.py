"""Watch a server in a window: attainment over time, the live decode mask, goals with their slack, step times, and a policy switch."""

from __future__ import annotations

import argparse
import sys

HELP = "watch a server in a window (needs PySide6, PyQt6 or PyQt5)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", default="/slice_server", help="name of the server node")


def run(arguments: argparse.Namespace) -> int:
    try:
        from slice_ros.monitor.window import show
    except ImportError as error:
        print(f"slice-ros monitor: {error}", file=sys.stderr)
        return 1
    return show(arguments.server)
