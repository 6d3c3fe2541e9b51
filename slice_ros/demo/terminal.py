"""Draws a moment of a run for a terminal: the rooms seen from above, the robot, and the people."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.text import Text

from slice_ros.demo.log import Log
from slice_ros.demo.look import ASKING, BAD, FAINT, GOOD, IDLE, PERSON, ROBOT, WALL
from slice_ros.demo.world import HEIGHT, Floor, Point

COLUMNS_PER_M, ROWS_PER_M = 7.5, 3.5
ARROWS = "→↗↑↖←↙↓↘"
Cell = tuple[str, str]


def draw_run(log: Log, at_s: float) -> RenderableType:
    """The map and the figures so far."""
    return Group(_map(log, at_s), _figures(log, at_s))


def _map(log: Log, at_s: float) -> Text:
    canvas = _Canvas(log.floor)
    pose, asking = log.pose(at_s), log.asking(at_s)
    for i, (room, landmark, spot) in enumerate(zip(log.floor.rooms, log.floor.landmarks, log.floor.spots, strict=True)):
        canvas.write((log.floor.width / len(log.floor.rooms) * (i + 0.5), HEIGHT - 0.35), room, FAINT)
        canvas.write((spot[0], spot[1] - 0.3), f"◇ {landmark}", IDLE)
    for seat, at in enumerate(log.floor.seats):
        canvas.put(at, "☺", "white")
        if seat in asking:
            canvas.put((at[0] + 1.2 / COLUMNS_PER_M, at[1]), *ASKING[asking[seat]])
    for at in log.bumped_at(at_s):
        canvas.put(at, "✗", BAD)
    for at in pose.people:
        canvas.put(at, "☻", f"bold {PERSON}")
    symbol = "✖" if pose.state == "bumped" else ARROWS[round(pose.heading / (math.pi / 4)) % 8]
    canvas.put(pose.at, symbol, f"bold {ROBOT[pose.state]}")
    return canvas.text()


class _Canvas:
    """Letters on a grid, the walls first."""

    def __init__(self, floor: Floor) -> None:
        self._columns, self._rows = round(floor.width * COLUMNS_PER_M) + 1, round(HEIGHT * ROWS_PER_M) + 1
        self._cells: dict[tuple[int, int], Cell] = {}
        for a, b in floor.walls:
            (column, row), (column2, row2) = self._cell(a), self._cell(b)
            for c in range(min(column, column2), max(column, column2) + 1):
                for r in range(min(row, row2), max(row, row2) + 1):
                    self._cells[c, r] = ("│" if column == column2 else "─", WALL)
        for corner, symbol in (((0.0, 0.0), "└"), ((floor.width, 0.0), "┘"), ((0.0, HEIGHT), "┌"), ((floor.width, HEIGHT), "┐")):
            self.put(corner, symbol, WALL)

    def put(self, at: Point, symbol: str, style: str) -> None:
        self._cells[self._cell(at)] = (symbol, style)

    def write(self, middle: Point, text: str, style: str) -> None:
        column, row = self._cell(middle)
        for i, letter in enumerate(text, column - len(text) // 2):
            self._cells[i, row] = (letter, style)

    def text(self) -> Text:
        lines = []
        for row in range(self._rows):
            cells = (self._cells.get((column, row), (" ", "")) for column in range(self._columns))
            lines.append(Text.assemble(*cells))
        return Text("\n").join(lines)

    def _cell(self, at: Point) -> tuple[int, int]:
        return round(at[0] * COLUMNS_PER_M), round((HEIGHT - at[1]) * ROWS_PER_M)


def _figures(log: Log, at_s: float) -> Text:
    figures, pose = log.figures(at_s), log.pose(at_s)
    waiting = sum(state == "waiting" for state in log.asking(at_s).values())
    return Text.assemble(
        f"{at_s:4.1f} s   ",
        ("robot ", "dim"), (f"{pose.state:<9}", f"bold {ROBOT[pose.state]}"),
        ("bumps ", "dim"), (f"{figures.bumps}   ", BAD if figures.bumps else GOOD),
        ("answered late ", "dim"), (f"{figures.late} of {figures.commands}   ", BAD if figures.late else GOOD),
        ("people waiting ", "dim"), f"{waiting}   ",
        ("SLO attained ", "dim"), "{} of {}".format(*figures.attained()),
    )  # fmt: skip
