"""List the models that are there, and what they can do."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

HELP = "list the models that can be served by name, or say what others are"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", metavar="MODEL", help="GGUF files, folders or names (default: all that have a name)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    from slice_ros.engines.llama.catalogue import Facts, facts
    from slice_ros.scheduling.engine import EngineError

    found: dict[str, Facts] = {}
    is_complete = True
    for name in arguments.models or _named():
        try:
            path = _path(name)
            found[name] = facts(path)
        except (EngineError, OSError) as error:
            print(f"slice-ros models: {error}", file=sys.stderr)
            is_complete = False
    if arguments.json:
        print(json.dumps({name: asdict(each) for name, each in found.items()}))
    elif found:
        _show(found)
    return 0 if is_complete else 1


def _named() -> Iterator[str]:
    from slice_ros.engines.llama.finding import OWN, cached, packaged

    yield OWN
    yield from packaged()
    yield from cached()


def _path(name: str) -> Path:
    from slice_ros.engines.llama.finding import find

    return find(name)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "architecture", "MB", "context", "template", "tools", "reasons", "memory"):
        table.add_column(heading, justify="right" if heading in ("MB", "context") else "left")
    for name, each in found.items():
        template, tools, reasons = ("yes" if each.template else "-"), (each.tools or "told"), ("yes" if each.reasons else "-")
        memory = f"cannot be served: {each.unfit}" if each.unfit else each.memory
        table.add_row(name, each.architecture, f"{each.size / 1e6:.0f}", str(each.context), template, tools, reasons, memory)
    Console(soft_wrap=True).print(table)
