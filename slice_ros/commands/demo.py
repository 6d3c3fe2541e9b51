"""Show the main job: a robot on tour and the people who ask it things share one server, under one policy after the other."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

HELP = "show the main job: a robot that bumps where commands come late, under one policy after the other"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from slice_ros.demo.traffic import RATE_HZ, TOUR_LIMIT_S

    parser.add_argument("--policies", default="orca,slice,slack", metavar="A,B,…", help="scheduling policies, in this order")
    parser.add_argument("--seed", type=int, default=0, help="of the rooms and of what people ask")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="run each policy on N seeds, from --seed on")
    parser.add_argument("--rate", type=float, default=RATE_HZ, metavar="HZ", help="questions per second, of voice and of Q&A each")
    parser.add_argument("--limit", type=float, default=TOUR_LIMIT_S, metavar="S", help="the robot gives its tour up after that, s")
    parser.add_argument("--engine", default="paced", choices=["paced", "llama", "simulated"],
                        help="paced = real tokens at the profile's speed; llama = this machine's own; simulated = no model")  # fmt: skip
    parser.add_argument("--device-profile", default="rtx4060ti-chatglm2-6b-int4", metavar="NAME", help="whose speed is imitated")
    parser.add_argument("--model", default="", metavar="GGUF", help="model file; empty = the small default model")
    parser.add_argument("--window", action="store_true", help="in a window (needs PySide6, PyQt6 or PyQt5)")
    parser.add_argument(
        "--record", type=Path, metavar="FILE.gif", help="draw the runs of the first seed into an animation (needs matplotlib)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what happened there, too")


def run(arguments: argparse.Namespace) -> int:
    from slice_ros.scheduling.policies import POLICIES

    policies = tuple(arguments.policies.split(","))
    if unknown := [name for name in policies if name not in POLICIES]:
        return _fail(f"there is no policy {unknown[0]!r}; there are: {', '.join(POLICIES)}", 2)
    for name in ("seeds", "rate", "limit"):
        if not getattr(arguments, name) > 0:
            return _fail(f"{name} is {getattr(arguments, name)}; it must be above 0", 2)
    if arguments.record and arguments.record.suffix != ".gif":
        return _fail(f"the animation is to be {arguments.record}; its name must end in .gif", 2)
    return _show(arguments, policies)


def _show(arguments: argparse.Namespace, policies: tuple[str, ...]) -> int:
    from rich.console import Console

    from slice_ros.demo.results import complaints, sentence, table
    from slice_ros.demo.show import DemoConfig, DemoError, run_demo
    from slice_ros.demo.views import Lines, Screen, View

    config = DemoConfig(
        policies=policies,
        seeds=tuple(range(arguments.seed, arguments.seed + arguments.seeds)),
        rate_hz=arguments.rate,
        limit_s=arguments.limit,
        engine=arguments.engine,
        device_profile=arguments.device_profile,
        model=arguments.model,
    )
    console = Console()
    try:
        if arguments.record:
            from slice_ros.demo.animation import record
        with ExitStack() as stack:
            # What closes the terminal or ends the demo does not reach its processes, which have sessions of their own.
            for number in (signal.SIGHUP, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    stack.callback(signal.signal, number, signal.signal(number, _end))
            view: View
            if arguments.window:
                from slice_ros.demo.window import Window

                view = Window()
            elif console.is_terminal:
                view = stack.enter_context(Screen(console))
            else:
                view = Lines(console)
            logs = run_demo(config, view)
    except (DemoError, ImportError) as error:
        return _fail(str(error), 1)
    console.print(table(logs))
    for log in logs:
        console.print(sentence(log), highlight=False, soft_wrap=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([log.report() for log in logs], indent=2) + "\n")
        console.print(f"written to {arguments.json}")
    if arguments.record:
        with console.status("drawing the animation"):
            record([log for log in logs if log.seed == arguments.seed], arguments.record)
        console.print(f"drawn to {arguments.record}")
    if broken := complaints(logs):
        return _fail("; ".join(broken) + "; promised are a whole tour, no bump and no late answer: try again when two cores are idle", 1)
    return 0


def _end(number: int, _frame: object) -> NoReturn:
    """Leave through every ``finally``, so that no process stays."""
    sys.exit(128 + number)


def _fail(sentence: str, status: int) -> int:
    print(f"slice-ros demo: {sentence}", file=sys.stderr)
    return status
