"""Run the action server. Every parameter of config/slice.yaml can be set with -p; ROS arguments may follow after --ros-args."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from slice_ros.commands.arguments import assignment, namespace, node_name, params_file, yaml_string

HELP = "run the action server"

# Option: the parameter it sets.
OPTIONS = {
    "model": "model.path",
    "policy": "scheduler.policy",
    "engine": "engine.kind",
    "device-profile": "engine.device_profile",
    "n-gpu-layers": "gpu.n_gpu_layers",
    "n-ctx": "context.n_ctx",
    "n-threads": "cpu.n_threads",
    "max-batch": "scheduler.max_batch",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from slice_ros.parameters.table import PARAMETERS

    for option, name in OPTIONS.items():
        parameter = PARAMETERS[name]
        parser.add_argument(
            f"--{option}",
            type=type(parameter.default),
            choices=parameter.choices or None,
            default=argparse.SUPPRESS,
            help=f"{parameter.description} (parameter {name}, default {parameter.default!r})",
        )
    add_node_arguments(parser, "slice_server")


def add_node_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """The options of every command that runs a node."""
    parser.add_argument("--name", type=node_name, default=name, help="node name")
    parser.add_argument("--namespace", type=namespace, default="/", help="node namespace")
    parser.add_argument("--params-file", type=params_file, default=argparse.SUPPRESS, help="YAML file of parameters, as config/slice.yaml")
    parser.add_argument(
        "-p", dest="parameters", type=assignment, action="append", default=[], metavar="NAME:=VALUE", help="set any parameter"
    )
    parser.add_argument("--ros-args", nargs=argparse.REMAINDER, default=[], metavar="...", help="all that follows is for ROS")


def run(arguments: argparse.Namespace) -> int:
    if (model := getattr(arguments, "model", "")).startswith("hf:"):
        from slice_ros.engines.llama.finding import find
        from slice_ros.scheduling.engine import EngineError

        try:
            find(model)  # here its progress can be seen; then it lies in the cache
        except EngineError as error:
            print(f"slice-ros serve: {error}", file=sys.stderr)
            return 1
    from slice_ros.server.main import main

    return main(ros_arguments(arguments))


def ros_arguments(arguments: argparse.Namespace, options: Mapping[str, str] = OPTIONS) -> list[str]:
    """The options as the ROS arguments that mean the same."""
    given = vars(arguments)
    result = ["--ros-args", "-r", f"__node:={arguments.name}", "-r", f"__ns:={arguments.namespace}"]
    if "params_file" in given:
        result += ["--params-file", arguments.params_file]
    for option, name in options.items():
        value = given.get(option.replace("-", "_"))
        if value is not None:
            result += ["-p", f"{name}:={value if not isinstance(value, str) else yaml_string(value)}"]
    for parameter in arguments.parameters:
        result += ["-p", parameter]
    return [*result, *arguments.ros_args]
