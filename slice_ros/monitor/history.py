"""What a window shows of a stream of ``SloStatus`` messages: curves over time, and the decode mask scrolling by."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SPAN_S = 120.0
"""How far back curves reach."""
WINDOW_S = 15.0
"""Attainment is that of the goals that ended within so many seconds."""
PAST_COLUMNS = 120
"""Steps taken that stay in view."""


@dataclass(slots=True)
class Curve:
    """Points (seconds, value) in order of time; NaN is a gap."""

    points: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, time_s: float, value: float) -> None:
        self.points.append((time_s, value))
        while self.points[0][0] < time_s - SPAN_S:
            self.points.popleft()


@dataclass(frozen=True, slots=True)
class Row:
    """One goal in the mask: its cells, oldest first; values as in ``msg/MaskStatus.msg``."""

    goal_id: str
    label: str
    slack_ms: float
    cells: Sequence[int]


@dataclass(frozen=True, slots=True)
class MaskView:
    """Rows of equal length; the column at ``cursor`` is the next step."""

    rows: Sequence[Row]
    cursor: int
    columns: int


class History:
    """Takes statuses in, in order."""

    def __init__(self) -> None:
        self.status: Any = None
        self.now_s = 0.0
        self.attainment: dict[str, Curve] = {}
        self.step_ms = Curve()
        self.predicted_ms = Curve()
        self._counts: dict[str, deque[tuple[float, int, int]]] = {}
        self._past: deque[dict[str, int]] = deque(maxlen=PAST_COLUMNS)
        self._labels: dict[str, str] = {}

    @property
    def labels(self) -> list[str]:
        """Kinds of goals in the order of their appearance; a kind keeps its place, and so its colour."""
        return list(self.attainment)

    def add(self, status: Any) -> None:
        self.status = status
        self.now_s = status.stamp.sec + status.stamp.nanosec / 1e9
        for figures in status.classes:
            self.attainment.setdefault(figures.label, Curve()).add(self.now_s, self._recent_attainment(figures))
        self.step_ms.add(self.now_s, status.step_ms)
        self.predicted_ms.add(self.now_s, status.step_predicted_ms)
        self._add_mask(status.mask)

    def mask(self) -> MaskView:
        """The latest steps taken, then those planned. Goals that take part in one come first, then those that wait."""
        if self.status is None:
            return MaskView((), 0, 0)
        mask = self.status.mask
        planned = [self._column(mask, column) for column in range(mask.cursor, mask.columns)]
        columns = [*self._past, *planned]
        slack_ms = dict(zip(mask.goals, mask.slack_ms, strict=True))
        shown = dict.fromkeys(mask.goals) | {goal_id: None for column in reversed(columns) for goal_id in column}
        rows = [
            Row(goal_id, self._labels.get(goal_id, ""), slack_ms.get(goal_id, math.nan), [column.get(goal_id, 0) for column in columns])
            for goal_id in shown
        ]
        rows.sort(key=lambda row: not any(row.cells))
        return MaskView(rows, len(self._past), len(columns))

    def _recent_attainment(self, figures: Any) -> float:
        counts = self._counts.setdefault(figures.label, deque())
        counts.append((self.now_s, figures.attained, figures.completed + figures.failed))
        while len(counts) > 1 and counts[1][0] <= self.now_s - WINDOW_S:
            counts.popleft()
        attained, ended = (counts[-1][i] - counts[0][i] for i in (1, 2))
        return attained / ended if ended > 0 else math.nan

    def _add_mask(self, mask: Any) -> None:
        self._labels |= zip(mask.goals, mask.labels, strict=True)
        for column in range(mask.cursor):
            self._past.append(self._column(mask, column))
        if len(self._labels) > 10 * PAST_COLUMNS:
            alive = {goal_id for column in self._past for goal_id in column} | set(mask.goals)
            self._labels = {goal_id: label for goal_id, label in self._labels.items() if goal_id in alive}

    @staticmethod
    def _column(mask: Any, column: int) -> dict[str, int]:
        cells = ((goal_id, int(mask.cells[row * mask.columns + column])) for row, goal_id in enumerate(mask.goals))
        return {goal_id: cell for goal_id, cell in cells if cell}
