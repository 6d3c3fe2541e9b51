"""Print a server's figures once: policy, engine, and how many goals of each class met their SLO."""

from __future__ import annotations

import argparse
import json
import sys

HELP = "print a server's figures once"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", default="/slice_server", help="name of the server node")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="how long to wait for an answer, s")
    parser.add_argument("--json", action="store_true", help="print the SloStatus message as JSON")


def run(arguments: argparse.Namespace) -> int:
    from slice_ros.commands.session import NoAnswer, Session, message_dict

    try:
        with Session(arguments.server, arguments.timeout) as session:
            status = session.status()
    except NoAnswer as error:
        print(f"slice-ros status: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(message_dict(status)))
        return 0
    from rich.console import Console

    from slice_ros.monitor.terminal import draw_figures

    Console().print(draw_figures(status))
    return 0
