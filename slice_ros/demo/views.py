"""How the demo is looked at while it goes on: drawn live in a terminal, told in lines where there is none, or painted in a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from slice_ros.demo.log import Log
from slice_ros.demo.results import sentence
from slice_ros.demo.terminal import draw_run
from slice_ros.demo.traffic import USUAL_TOUR_S

LINE_PERIOD_S = 5.0
ROWS_WITH_MASK = 48
"""Only on a screen that high, the decode mask has room below the map."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the demo is.

    Args:
        logs: of the runs so far, the present one last.
        runs: how many there will be.
        at_s: since its traffic began.
        status: the server's latest ``SloStatus``; ``None`` while it starts.
    """

    logs: Sequence[Log]
    runs: int
    at_s: float
    status: Any

    @property
    def log(self) -> Log:
        return self.logs[-1]

    @property
    def share(self) -> float:
        """How much of the demo is over, from 0 to 1."""
        present = 1.0 if self.log.finished else min(0.95, self.at_s / USUAL_TOUR_S)
        return (len(self.logs) - 1 + present) / self.runs

    @property
    def title(self) -> str:
        doing = "starts" if self.status is None else f"policy {self.log.policy}"
        return f"run {len(self.logs)} of {self.runs}: {doing}"


class View(Protocol):
    """Shows moments as they come."""

    def draw(self, moment: Moment) -> None: ...


class Lines:
    """A line now and then, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._run = 0
        self._next_s = 0.0

    def draw(self, moment: Moment) -> None:
        if len(moment.logs) > self._run:
            self._run, self._next_s = len(moment.logs), LINE_PERIOD_S
            self._console.print(f"run {self._run} of {moment.runs}: policy {moment.log.policy}, seed {moment.log.seed}")
        if moment.at_s >= self._next_s:
            self._next_s += LINE_PERIOD_S
            figures = moment.log.figures(moment.at_s)
            state = moment.log.pose(moment.at_s).state
            self._console.print(f"{moment.at_s:4.0f} s: robot {state}, bumps {figures.bumps}, late {figures.late} of {figures.commands}")


class Screen:
    """Drawn live; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def draw(self, moment: Moment) -> None:
        self._live.update(self._picture(moment), refresh=True)

    def _picture(self, moment: Moment) -> RenderableType:
        parts: list[RenderableType] = []
        parts += [Text(sentence(log)) for log in moment.logs[:-1][-4:]]
        parts.append(Text.assemble((moment.title, "bold"), f", seed {moment.log.seed}"))
        parts.append(Columns([ProgressBar(total=1.0, completed=moment.share, width=73)]))
        parts.append(draw_run(moment.log, moment.at_s))
        if moment.status is not None:
            from slice_ros.monitor.terminal import draw_status

            if self._console.size.height >= ROWS_WITH_MASK:
                parts.append(draw_status(moment.status))
            else:
                parts.append(Text(f"{moment.status.model} on {moment.status.device}", style="dim"))
        return Group(*parts)
