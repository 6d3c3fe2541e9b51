"""Draws a ``SloStatus`` message for a terminal: figures per class, and the decode mask scrolling by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from slice_ros.mask import DECODE

COLOURS = ("bright_red", "bright_cyan", "bright_yellow", "bright_green", "bright_magenta", "bright_blue")
"""One for each kind of goal, in the order of their appearance."""

MOST_ROWS, FEWEST_ROWS = 16, 3
COLUMNS_SHOWN = 55
HEADLINES, FRAME = 5, 2
"""Lines of the headline in 80 columns, and of the mask's panel beside its rows."""
FLEET_HEADLINES = 2
LONGEST_NAME = 26
"""Of a member."""


def draw_status(status: Any, *, title: str = "", height: int = 50, silent_s: float = 0.0) -> RenderableType:
    """The whole view, in as many lines as there are.

    Args:
        silent_s: for how long nothing was heard.
    """
    if silent_s:
        return Group(_silent(title, silent_s), draw_status(status, height=height - 1))
    colours = {figures.label: COLOURS[i % len(COLOURS)] for i, figures in enumerate(status.classes)}
    if status.members:  # a dispatcher takes no steps
        left = height - FLEET_HEADLINES - (HEADING + len(status.classes))
        return Group(_fleet_headline(status, title), _class_table(status, colours), *_members(status.members, left))
    rows = min(MOST_ROWS, max(FEWEST_ROWS, height - HEADLINES - (HEADING + len(status.classes)) - FRAME))
    return Group(_headline(status, title), _class_table(status, colours), _mask_panel(status.mask, colours, rows))


def draw_figures(status: Any, *, silent_s: float = 0.0) -> RenderableType:
    """Headline, classes and the goals in hand, without the mask; ``silent_s`` as for :func:`draw_status`."""
    if silent_s:
        return Group(_silent("", silent_s), draw_figures(status))
    colours = {figures.label: COLOURS[i % len(COLOURS)] for i, figures in enumerate(status.classes)}
    if status.members:
        return Group(_fleet_headline(status, ""), _class_table(status, colours), *_members(status.members))
    parts: list[RenderableType] = [_headline(status, ""), _class_table(status, colours)]
    if status.mask.goals:
        goals = Table(pad_edge=False)
        for name in ("goal", "class", "slack"):
            goals.add_column(name, justify="right" if name == "slack" else "left")
        for goal_id, label, slack_ms in zip(status.mask.goals, status.mask.labels, status.mask.slack_ms, strict=True):
            if math.isnan(slack_ms):
                continue  # it has ended
            goals.add_row(goal_id, Text(label, style=colours.get(label, "")), _number(slack_ms, " ms"))
        parts.append(goals)
    return Group(*parts)


def _silent(title: str, silent_s: float) -> RenderableType:
    return Text.assemble(f"{title}   " if title else "", (f"nothing heard for {silent_s:.0f} s; this is what was heard last", "bold red"))


def _headline(status: Any, title: str) -> RenderableType:
    state = "" if status.engine_state == "ready" else f"   engine {status.engine_state}"
    return Text.assemble(
        (f"{title}\n" if title else ""),
        ("policy ", "dim"), (status.policy, "bold"), ("   model ", "dim"), status.model, ("   device ", "dim"), status.device, "\n",
        ("step ", "dim"), _number(status.step_ms, " ms"), (" (predicted ", "dim"), _number(status.step_predicted_ms, " ms"), (")", "dim"),
        ("   tokens/s ", "dim"), f"{status.tokens_per_s:.0f}", (", goal and step ", "dim"), _number(status.tokens_per_step, "", 1),
        ("   drafts right ", "dim"), _number(status.draft_acceptance * 100, " %"),
        ("   KV ", "dim"), kv_text(status),
        ("   goals running ", "dim"), str(status.running), (", queued ", "dim"), str(status.queued), (state, "bold red"),
    )  # fmt: skip


def _fleet_headline(status: Any, title: str) -> RenderableType:
    used = sum(member.state == "used" for member in status.members)
    return Text.assemble(
        (f"{title}\n" if title else ""),
        ("policy ", "dim"), (status.policy, "bold"), ("   members used ", "dim"), f"{used}/{len(status.members)}",
        ("   goals running ", "dim"), str(status.running), (", queued ", "dim"), str(status.queued),
    )  # fmt: skip


def kv_text(status: Any) -> str:
    """KV cells in use, and what else holds some."""
    cached = f" (+{status.kv_cached} cached)" if status.kv_cached else ""
    parked = f", parked {status.kv_parked_bytes / 2**20:.0f} MiB" if status.kv_parked_bytes else ""
    return f"{status.kv_used}/{status.kv_total}{cached}{parked}"


COLUMNS = (
    "\nsent", "\nrun", "\nwait", "\nmet", "\nmiss", "\nshare", "TTFT ms\np50", "TPOT ms\np50", "\np99", "end s\np99",
)  # fmt: skip
"""Headings of a class's figures; with eleven letters for its name they fit 80 columns."""
HEADING = 2
LONGEST_LABEL = 11


def _class_table(status: Any, colours: dict[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("\nclass", overflow="ellipsis", max_width=LONGEST_LABEL, no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for c in status.classes:
        ended = c.completed + c.failed
        table.add_row(
            Text(c.label, style=colours[c.label]),
            str(c.submitted), str(c.running), str(c.queued), str(c.attained), str(ended - c.attained),
            Text(_number(c.attainment * 100, " %"), style="" if math.isnan(c.attainment) else "green" if c.attainment >= 0.95 else "red"),
            _number(c.ttft_ms_p50, ""), _number(c.tpot_ms_p50, ""), _number(c.tpot_ms_p99, ""), _number(c.e2e_ms_p99 / 1e3, "", 1),
        )  # fmt: skip
    return table


def _members(members: Any, height: int | None = None) -> Iterator[RenderableType]:
    """A line for each member, and, where there are as many, one that says why the latest goal went there."""
    width = min(LONGEST_NAME, max(len(member.name) for member in members))
    has_room = height is None or height >= 2 + 2 * len(members)
    yield Text(f"\n{'member':{width}}  {'state':8}  goals   sent  moved  net ms  model, device", style="bold", no_wrap=True)
    for member in members:
        name = member.name if len(member.name) <= width else f"…{member.name[1 - width :]}"
        colour = "green" if member.state == "used" else "red" if member.state == "lost" else "yellow"
        counts = f"  {member.in_hand:5}  {member.sent:5}  {member.moved:5}  {_number(member.network_ms, '', 1):>6}"
        what = f"  {member.model}, {member.device}" if member.model else ""
        yield Text.assemble(f"{name:{width}}  ", (f"{member.state:8}", colour), counts, what, no_wrap=True, overflow="ellipsis")
        if has_room and member.why:
            yield Padding(Text(f"latest goal: {member.why}", style="dim"), (0, 0, 0, 2))


def _mask_panel(mask: Any, colours: dict[str, str], rows: int) -> Panel:
    lines = []
    first = max(0, mask.cursor - COLUMNS_SHOWN * 3 // 4)
    last = min(mask.columns, first + COLUMNS_SHOWN)
    for row in range(len(mask.goals))[-rows:]:
        colour = colours.get(mask.labels[row], "white")
        line = Text(f"{mask.labels[row]:>11.11} {mask.goals[row][:6]:6} ", style=colour)
        for column in range(first, last):
            if column == mask.cursor:
                line.append("│", style="dim")
            cell = mask.cells[row * mask.columns + column]
            symbol = "·" if cell == 0 else "█" if cell == DECODE else "▓" if cell < 0 else "▒"
            line.append(symbol, style="bright_black" if cell == 0 else colour if column < mask.cursor else f"dim {colour}")
        lines.append(line)
    legend = "a column a step: █ decodes  ▓ several tokens  ▒ computes prompt  · left out   taken │ planned"
    return Panel(Group(*lines) if lines else Text("idle", style="dim"), title="decode mask", subtitle=legend, height=rows + FRAME)


def _number(value: float, unit: str, decimals: int = 0) -> str:
    return f"{value:.{decimals}f}{unit}" if math.isfinite(value) else "-"
