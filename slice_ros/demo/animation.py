"""Draws runs into an animated GIF, one below the other at the same times, from their logs (needs matplotlib)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slice_ros.demo.log import Log
from slice_ros.demo.look import ASKING, BAD, FAINT, GOOD, IDLE, PERSON, ROBOT, WALL
from slice_ros.demo.world import HEIGHT, PERSON_RADIUS, ROBOT_RADIUS

try:
    import matplotlib as mpl
except ImportError as error:
    raise ImportError("drawing an animation needs matplotlib; install it with: pip install 'slice_ros[plot]'") from error

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.animation import FuncAnimation, PillowWriter

FRAME_S = 0.25
"""Time of the run from one picture to the next."""
FASTER = 2.5
"""The animation goes so much faster than the run."""
LAST_S = 2.0
"""The end is shown for so long, in time of the run."""
DOTS_PER_INCH = 80


def record(logs: Sequence[Log], path: Path) -> None:
    """Write the animation.

    Raises:
        OSError: the file cannot be written.
    """
    figure, axes = plt.subplots(len(logs), 1, figsize=(9, 3.1 * len(logs)), squeeze=False, dpi=DOTS_PER_INCH)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1.0 - 0.08 / len(logs), hspace=0.09)
    maps = [_Map(ax, log) for ax, log in zip(axes[:, 0], logs, strict=True)]
    frames = int((max(log.end_s for log in logs) + LAST_S) / FRAME_S) + 1

    def draw(frame: int) -> list[Any]:
        for each in maps:
            each.draw(frame * FRAME_S)
        return []

    try:
        FuncAnimation(figure, draw, frames=frames).save(path, writer=PillowWriter(fps=round(FASTER / FRAME_S)))
    finally:
        plt.close(figure)


class _Map:
    """The rooms of a run; what moves in them is drawn again for each moment."""

    def __init__(self, ax: Any, log: Log) -> None:
        self._ax, self._log = ax, log
        self._moving: list[Any] = []
        floor = log.floor
        ax.set(xlim=(-0.1, floor.width + 0.1), ylim=(-0.1, HEIGHT + 0.1), aspect="equal")
        ax.axis("off")
        for (x, y), (x2, y2) in floor.walls:
            ax.plot((x, x2), (y, y2), color=WALL, linewidth=2)
        for i, (room, landmark, (x, y)) in enumerate(zip(floor.rooms, floor.landmarks, floor.spots, strict=True)):
            ax.text(floor.width / len(floor.rooms) * (i + 0.5), HEIGHT - 0.12, room, ha="center", va="top", color=FAINT, fontsize=9)
            ax.plot(x, y, "D", color=IDLE, markersize=6)
            ax.text(x, y - 0.22, landmark, ha="center", va="top", color=IDLE, fontsize=8)
        for x, y in floor.seats:
            ax.add_patch(plt.Circle((x, y), PERSON_RADIUS, color="lightgrey"))
        (self._trail,) = ax.plot([], [], color=GOOD, alpha=0.4, linewidth=1.5)
        (self._bumps,) = ax.plot([], [], "x", color=BAD, markersize=10, markeredgewidth=2.5)

    def draw(self, at_s: float) -> None:
        """Show that moment."""
        log, ax = self._log, self._ax
        while self._moving:
            self._moving.pop().remove()
        pose, figures = log.pose(at_s), log.figures(at_s)
        trail = [past.at for past in log.poses if past.at_s <= at_s]
        self._trail.set_data([x for x, _ in trail], [y for _, y in trail])
        bumps = log.bumped_at(at_s)
        self._bumps.set_data([x for x, _ in bumps], [y for _, y in bumps])
        for at in pose.people:
            self._moving.append(ax.add_patch(plt.Circle(at, PERSON_RADIUS, color=PERSON)))
        for seat, state in log.asking(at_s).items():
            sign, colour = ASKING[state]
            x, y = log.floor.seats[seat]
            self._moving.append(ax.add_patch(plt.Circle((x, y), PERSON_RADIUS, color=colour)))
            self._moving.append(ax.text(x, y, sign, ha="center", va="center", color="white", fontsize=12, fontweight="bold"))
        self._moving.append(ax.add_patch(plt.Circle(pose.at, ROBOT_RADIUS, color=ROBOT[pose.state])))
        self._moving.append(
            ax.text(*pose.at, "▶", rotation=math.degrees(pose.heading), ha="center", va="center", color="white", fontsize=9)
        )
        so_far = f"bumps {figures.bumps}   answered late {figures.late} of {figures.commands}"
        colour = BAD if figures.bumps or figures.late else GOOD
        ax.set_title(f"{log.policy}   {min(at_s, log.end_s):4.1f} s   {pose.state}   {so_far}", color=colour, fontsize=11, loc="left")
