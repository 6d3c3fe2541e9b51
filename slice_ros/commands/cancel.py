"""End a goal, or all goals of a server, whoever sent them; their senders get error CANCELED."""

from __future__ import annotations

import argparse
import json
import sys

HELP = "end a goal, or all of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("goal_id", nargs="?", metavar="ID", help="goal id in hex, with or without dashes; its begin is enough")
    which.add_argument("--all", action="store_true", help="end every goal of the server")
    parser.add_argument("--server", default="/slice_server", help="name of the server node")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="how long to wait for an answer, s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from action_msgs.srv import CancelGoal

    from slice_ros.commands.session import NoAnswer, Session
    from slice_ros.ros.conversions import uuid_hex, uuid_msg

    wanted = "" if arguments.all else arguments.goal_id.replace("-", "").lower()
    if not arguments.all and (not wanted or set(wanted) - set("0123456789abcdef") or len(wanted) > 32):
        print(
            f"slice-ros cancel: {arguments.goal_id!r} is no goal id; give up to 32 hex digits, see `slice-ros status`",
            file=sys.stderr,
        )
        return 2
    try:
        with Session(arguments.server, arguments.timeout) as session:
            if wanted and len(wanted) < 32:
                known = [goal_id for goal_id in session.goals() if goal_id.startswith(wanted)]
                if len(known) != 1:
                    found = f"{len(known)} goals in hand begin" if known else "no goal in hand begins"
                    print(f"slice-ros cancel: {found} with {wanted}; give more of the id, see `slice-ros status`", file=sys.stderr)
                    return 1
                wanted = known[0]
            request = CancelGoal.Request()
            if wanted:
                request.goal_info.goal_id = uuid_msg(wanted)
            answer = session.call(CancelGoal, "generate/_action/cancel_goal", request)
    except NoAnswer as error:
        print(f"slice-ros cancel: {error}", file=sys.stderr)
        return 1
    canceling = [uuid_hex(info.goal_id) for info in answer.goals_canceling]
    if arguments.json:
        print(json.dumps({"canceling": canceling}))
    else:
        print("\n".join(f"canceling {goal_id}" for goal_id in canceling) or "nothing to cancel")
    if wanted and not canceling:
        print(f"slice-ros cancel: goal {wanted} is unknown or has ended", file=sys.stderr)
        return 1
    return 0
