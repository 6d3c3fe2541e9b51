"""Draws runs into an animated GIF, one below the other at the same times, from their logs (needs matplotlib)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slice_ros.demo.log import Log
from slice_ros.demo.look import ASKING, BAD, FAINT, GOOD, IDLE, PERSON, ROBOT, WALL
from slice_ros.demo.world import HEIGHT, PERSON_RADIUS, ROBOT_RADIUS

try:
    import matplotlib as mpl
    from PIL import Image
except ImportError as error:
    raise ImportError("drawing an animation needs matplotlib; install it with: pip install 'slice_ros[plot]'") from error

mpl.use("agg")

from matplotlib import pyplot as plt

FRAME_S = 0.3
"""Time of the run from one picture to the next."""
FASTER = 2.5
"""The animation goes so much faster than the run."""
LAST_S = 2.0
"""The end is shown for so long, in time of the run."""
DOTS_PER_INCH = 80
COLOURS = 64


def record(logs: Sequence[Log], path: Path) -> None:
    """Write the animation. What stands still is drawn once, which makes it ten times as fast as matplotlib's own writers.

    Raises:
        OSError: the file cannot be written.
    """
    figure, axes = plt.subplots(len(logs), 1, figsize=(9, 3.1 * len(logs)), squeeze=False, dpi=DOTS_PER_INCH)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1.0 - 0.08 / len(logs), hspace=0.09)
    canvas: Any = figure.canvas
    try:
        maps = [_Map(ax, log) for ax, log in zip(axes[:, 0], logs, strict=True)]
        canvas.draw()
        still = canvas.copy_from_bbox(figure.bbox)
        images = []
        for frame in range(int((max(log.end_s for log in logs) + LAST_S) / FRAME_S) + 1):
            canvas.restore_region(still)
            for each in maps:
                each.draw(frame * FRAME_S)
            images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLOURS))
    finally:
        plt.close(figure)
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(FRAME_S / FASTER * 1000), loop=0)


class _Map:
    """The rooms of a run; what moves in them is drawn again for each moment."""

    def __init__(self, ax: Any, log: Log) -> None:
        self._ax, self._log = ax, log
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

    def draw(self, at_s: float) -> None:
        """Paint that moment over what stands still."""
        log, ax = self._log, self._ax
        pose, figures, bumps = log.pose(at_s), log.figures(at_s), log.bumped_at(at_s)
        trail = [past.at for past in log.poses if past.at_s <= at_s]
        self._paint(ax.plot([x for x, _ in trail], [y for _, y in trail], color=GOOD, alpha=0.4, linewidth=1.5)[0])
        self._paint(ax.plot([x for x, _ in bumps], [y for _, y in bumps], "x", color=BAD, markersize=10, markeredgewidth=2.5)[0])
        for at in pose.people:
            self._paint(ax.add_patch(plt.Circle(at, PERSON_RADIUS, color=PERSON)))
        for seat, state in log.asking(at_s).items():
            sign, colour = ASKING[state]
            self._paint(ax.add_patch(plt.Circle(log.floor.seats[seat], PERSON_RADIUS, color=colour)))
            self._paint(ax.text(*log.floor.seats[seat], sign, ha="center", va="center", color="white", fontsize=12, fontweight="bold"))
        self._paint(ax.add_patch(plt.Circle(pose.at, ROBOT_RADIUS, color=ROBOT[pose.state])))
        nose = [
            (here, here + ROBOT_RADIUS * reach)
            for here, reach in zip(pose.at, (math.cos(pose.heading), math.sin(pose.heading)), strict=True)
        ]
        self._paint(ax.plot(*nose, color="white", linewidth=2.5)[0])
        so_far = f"bumps {figures.bumps}   answered late {figures.late} of {figures.commands}"
        text = f"{log.policy}   {min(at_s, log.end_s):4.1f} s   {pose.state}   {so_far}"
        colour = BAD if figures.bumps or figures.late else GOOD
        self._paint(ax.text(0.0, HEIGHT + 0.1, text, color=colour, fontsize=11, va="bottom"))

    def _paint(self, artist: Any) -> None:
        self._ax.draw_artist(artist)
        artist.remove()
