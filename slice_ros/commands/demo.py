"""Show the main job: a server and three robot nodes (control, voice, Q&A), each a process of its own, for some seconds."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HELP = "show the main job: a server and three robot nodes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from slice_ros.policies import DEFAULT_POLICY, POLICIES

    parser.add_argument("--duration", type=float, default=30.0, metavar="S", help="how long the robots send goals, s")
    parser.add_argument("--rate", type=float, default=2.0, metavar="HZ", help="goals per second, all robots together")
    parser.add_argument("--policy", default=DEFAULT_POLICY, choices=list(POLICIES), help="scheduling policy")
    parser.add_argument("--engine", default="paced", choices=["paced", "llama", "simulated"],
                        help="paced = real tokens at the profile's speed; llama = this machine's own; simulated = no model")  # fmt: skip
    parser.add_argument("--device-profile", default="rtx4060ti-chatglm2-6b-int4", metavar="NAME", help="whose speed is imitated")
    parser.add_argument("--model", default="", metavar="GGUF", help="model file; empty = the small default model")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there, too")


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from slice_ros.demo.show import DemoConfig, DemoError, report_examples, report_table, run_demo

    if arguments.duration <= 0 or arguments.rate <= 0:
        print(f"slice-ros demo: duration is {arguments.duration} s and rate {arguments.rate}/s; both must be above 0", file=sys.stderr)
        return 2
    config = DemoConfig(
        duration_s=arguments.duration,
        rate_hz=arguments.rate,
        policy=arguments.policy,
        engine=arguments.engine,
        device_profile=arguments.device_profile,
        model=arguments.model,
        seed=arguments.seed,
    )
    console = Console()
    try:
        report = run_demo(config, console)
    except DemoError as error:
        print(f"slice-ros demo: {error}", file=sys.stderr)
        return 1
    if any(c["right"] for c in report["classes"].values()):  # else the model does not know the language
        console.print(report_examples(report))
    console.print(report_table(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written to {arguments.json}")
    return 0
