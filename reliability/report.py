"""How a run ends: a table of what was checked and measured, the same as JSON, and an exit status."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, whether it held, and the figures that say so."""

    promise: str
    held: bool
    found: str


def conclude(name: str, checks: Sequence[Check], figures: Mapping[str, object], path: Path | None, rest: Mapping[str, object]) -> int:
    """Print the tables, write the JSON file if there is a path; exit status 0 if every promise held, else 1."""
    table = Table(title=f"{name}: {sum(check.held for check in checks)} of {len(checks)} promises held", title_justify="left")
    for column in ("promise", "", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.promise, "held" if check.held else "BROKEN", check.found)
    measured = Table(title="measured", title_justify="left", show_header=False)
    for figure, value in figures.items():
        measured.add_row(figure, str(value))
    console = Console()
    console.print(table)
    console.print(measured)
    if path is not None:
        content = {
            "run": name,
            "checks": [asdict(check) for check in checks],
            "figures": dict(figures),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "finished": time.strftime("%Y-%m-%d %H:%M"),
            **rest,
        }
        path.write_text(json.dumps(content, indent=2, default=str) + "\n")
    return 0 if all(check.held for check in checks) else 1
