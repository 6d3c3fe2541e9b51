"""Run the dispatcher: a server without a model, which passes its goals on to other servers, where they are in time."""

from __future__ import annotations

import argparse

from slice_ros.commands.serve import add_node_arguments, ros_arguments

HELP = "run a dispatcher in front of several servers"

OPTIONS = {"members": "dispatch.members", "policy": "scheduler.policy"}
"""Option: the parameter it sets."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--members", metavar="NAME,...", help="the servers, as in /orin/slice_server,/workstation/slice_server (default: all)"
    )
    parser.add_argument("--policy", help="where goals go (parameter scheduler.policy, default 'deadline')")
    add_node_arguments(parser, "slice_dispatcher")


def run(arguments: argparse.Namespace) -> int:
    from slice_ros.fleet.node import SliceDispatcher
    from slice_ros.server.main import main

    return main(ros_arguments(arguments, OPTIONS), SliceDispatcher)
