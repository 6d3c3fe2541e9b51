"""Say which scheduling policy is in force, or change it; goals go on as they are."""

from __future__ import annotations

import argparse
import json
import sys

HELP = "say which policy is in force, or change it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from slice_ros.scheduling.policies import POLICIES

    name = parser.add_argument(
        "name", nargs="?", help=f"the new one; a server has {', '.join(POLICIES)}; without it, the one in force is printed"
    )
    name.completer = lambda **_: list(POLICIES)  # type: ignore[attr-defined]
    parser.add_argument("--server", default="/slice_server", help="name of the server node")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="how long to wait for an answer, s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from rcl_interfaces.srv import GetParameters, SetParameters
    from rclpy.parameter import Parameter

    from slice_ros.commands.session import NoAnswer, Session

    name = "scheduler.policy"
    try:
        with Session(arguments.server, arguments.timeout) as session:
            if arguments.name:
                change = SetParameters.Request(parameters=[Parameter(name, value=arguments.name).to_parameter_msg()])
                (result,) = session.call(SetParameters, "set_parameters", change).results
                if not result.successful:
                    print(f"slice-ros policy: {result.reason}", file=sys.stderr)
                    return 1
            (value,) = session.call(GetParameters, "get_parameters", GetParameters.Request(names=[name])).values
    except NoAnswer as error:
        print(f"slice-ros policy: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"policy": value.string_value}) if arguments.json else value.string_value)
    return 0
