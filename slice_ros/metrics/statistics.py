"""Figures per kind of goal: how many there are, how many met their SLO, and how long things took."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from slice_ros.scheduling.task import SloReport
from slice_ros.slo import ServiceClass

WINDOW = 512
"""Percentiles look at this many of the latest goals of a kind."""


@dataclass(slots=True)
class ClassFigures:
    """Counts since the start; times in seconds."""

    kind: str
    service_class: ServiceClass
    submitted: int = 0
    started: int = 0
    started_ended: int = 0
    completed: int = 0
    failed: int = 0
    attained: int = 0
    ttft_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    tpot_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    e2e_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @property
    def ended(self) -> int:
        return self.completed + self.failed

    @property
    def running(self) -> int:
        return self.started - self.started_ended

    @property
    def queued(self) -> int:
        return self.submitted - self.ended - self.running

    @property
    def missed(self) -> int:
        return self.ended - self.attained

    @property
    def attainment(self) -> float:
        """Attained of all that ended, whatever their end; NaN of none."""
        return self.attained / self.ended if self.ended else math.nan

    def ends(self, report: SloReport, *, completed: bool, started: bool) -> None:
        self.completed += completed
        self.failed += not completed
        self.attained += report.attained
        self.started_ended += started
        for times, value in ((self.ttft_s, report.ttft_s), (self.tpot_s, report.tpot_s), (self.e2e_s, report.e2e_s)):
            if not math.isnan(value):
                times.append(value)


class Statistics:
    """Follows goals from submission to end. Each goal is submitted once, started at most once, and ends once."""

    def __init__(self) -> None:
        self._figures: dict[str, ClassFigures] = {}
        self._kinds: dict[str, str] = {}
        self._started: set[str] = set()

    @property
    def classes(self) -> list[ClassFigures]:
        """Kinds in the order in which they first appeared."""
        return list(self._figures.values())

    def submitted(self, goal_id: str, kind: str, service_class: ServiceClass) -> None:
        figures = self._figures.setdefault(kind, ClassFigures(kind, service_class))
        figures.submitted += 1
        self._kinds[goal_id] = kind

    def started(self, goal_id: str) -> None:
        if goal_id in self._kinds and goal_id not in self._started:
            self._started.add(goal_id)
            self._figures[self._kinds[goal_id]].started += 1

    def ended(self, goal_id: str, report: SloReport, *, completed: bool) -> None:
        if (kind := self._kinds.pop(goal_id, None)) is not None:
            started = goal_id in self._started
            self._started.discard(goal_id)
            self._figures[kind].ends(report, completed=completed, started=started)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank); NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
