"""What happened in a run, read from the events that its nodes wrote: all views and figures of the demo come from here.

An event is a JSON object with ``what`` and ``t``, seconds since the traffic began:

- ``ready``: the node could begin;
- ``pose``: ``x``, ``y``, ``heading``, ``state`` (driving, waiting, bumped, braked, finished), ``people`` (positions), ``bumps`` so far;
- ``sent``: ``goal``, ``label``, ``seat`` (null for the robot itself), ``prompt``;
- ``ended``: ``goal``, ``answer`` or ``error``, ``attained``, ``right`` (it could be used as it was), ``ttft_s``, ``tpot_s``, ``e2e_s``.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from slice_ros.demo.traffic import KINDS
from slice_ros.demo.world import Floor, Point

SHOWN_S = 1.5
"""For so long it is shown how a question ended."""


@dataclass(slots=True)
class GoalRecord:
    """One goal; times in seconds since the traffic began, ``None`` while it has not ended."""

    label: str
    sent_s: float
    seat: int | None
    prompt: str
    ended_s: float | None = None
    attained: bool = False
    right: bool = False
    answer: str = ""
    error: str = ""
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def has_ended(self, now_s: float) -> bool:
        """Whether its answer, or the news that there is none, was there; being canceled is no news."""
        return self.ended_s is not None and self.ended_s <= now_s and not self.error

    def is_late(self, now_s: float) -> bool:
        """Whether it has missed its SLO for certain; one without an answer that is not due yet has not."""
        if self.has_ended(now_s):
            return not self.attained
        deadline_s = KINDS[self.label].slo.deadline_s
        return deadline_s is not None and now_s > self.sent_s + deadline_s


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the robot and the people in its way are."""

    at_s: float
    at: Point
    heading: float
    state: str
    people: tuple[Point, ...]
    bumps: int


@dataclass(frozen=True, slots=True)
class Figures:
    """How a run went.

    Args:
        bumps: times the robot ran into something.
        commands: commands and routes that the robot asked for, those aside that were not due yet.
        late: of these, those that did not come in time.
        right: of these, those that could be used as they were.
        tour_s: how long the tour took; ``None`` if it has not ended.
        classes: for each label, goals that met every bound they asked for, and all of them.
    """

    bumps: int
    commands: int
    late: int
    right: int
    tour_s: float | None
    classes: Mapping[str, tuple[int, int]]

    def attained(self, *labels: str) -> tuple[int, int]:
        """Goals of these labels that attained their SLO, and all of them; without labels, of all."""
        pairs = [self.classes[label] for label in labels or self.classes]
        return sum(attained for attained, _ in pairs), sum(goals for _, goals in pairs)


class Log:
    """Args:
    policy: the run's.
    seed: of its floor and traffic.
    floor: where it happened.
    """

    def __init__(self, policy: str, seed: int, floor: Floor) -> None:
        self.policy = policy
        self.seed = seed
        self.floor = floor
        self.ready = 0
        self.poses: list[Pose] = []
        self.goals: dict[str, GoalRecord] = {}

    def read(self, lines: Iterable[str]) -> None:
        """Take in what a node wrote.

        Raises:
            ValueError: a line is no event.
        """
        for line in lines:
            event = json.loads(line)
            what, at_s = event.pop("what"), event.pop("t")
            if what == "pose":
                people = tuple((x, y) for x, y in event["people"])
                self.poses.append(Pose(at_s, (event["x"], event["y"]), event["heading"], event["state"], people, event["bumps"]))
            elif what == "sent":
                self.goals[event["goal"]] = GoalRecord(event["label"], at_s, event["seat"], event["prompt"])
            elif what == "ended":
                record = self.goals[event.pop("goal")]
                record.ended_s = at_s
                for name, value in event.items():
                    setattr(record, name, value)
            elif what == "ready":
                self.ready += 1
            else:
                raise ValueError(f"an event says {what!r}; it must be ready, pose, sent or ended")

    @property
    def end_s(self) -> float:
        """When the robot was last heard of."""
        return self.poses[-1].at_s if self.poses else 0.0

    @property
    def finished(self) -> bool:
        return bool(self.poses) and self.poses[-1].state == "finished"

    def pose(self, at_s: float) -> Pose:
        """The latest one known then; before the first, the robot waits at the tour's begin."""
        index = bisect_right(self.poses, at_s, key=lambda pose: pose.at_s)
        return self.poses[index - 1] if index else Pose(0.0, self.floor.spots[0], 0.0, "waiting", (), 0)

    def bumped_at(self, at_s: float) -> list[Point]:
        """Where the robot had bumped by then."""
        return [pose.at for before, pose in pairwise(self.poses) if before.bumps < pose.bumps and pose.at_s <= at_s]

    def asking(self, at_s: float) -> dict[int, str]:
        """The people that ask something, by seat: ``waiting`` for the answer, or how it just ended, ``in time`` or ``late``."""
        seats: dict[int, str] = {}
        for goal in self.goals.values():
            if goal.seat is None or goal.sent_s > at_s:
                continue
            if goal.ended_s is None or goal.ended_s > at_s:
                seats[goal.seat] = "waiting"
            elif at_s < goal.ended_s + SHOWN_S:
                seats.setdefault(goal.seat, "in time" if goal.attained else "late")
        return seats

    def figures(self, at_s: float = math.inf) -> Figures:
        """How the run had gone by then, or at its end: what was canceled then counts as missed if people asked it, or if it was due."""
        robot_s = min(at_s, self.end_s)
        asked = [goal for goal in self.goals.values() if goal.sent_s <= at_s]
        commands = [goal for goal in asked if goal.seat is None and (goal.has_ended(robot_s) or goal.is_late(robot_s))]
        judged = commands + [goal for goal in asked if goal.seat is not None and (goal.has_ended(at_s) or at_s == math.inf)]
        return Figures(
            bumps=self.pose(robot_s).bumps,
            commands=len(commands),
            late=sum(goal.is_late(robot_s) for goal in commands),
            right=sum(goal.right for goal in commands),
            tour_s=self.end_s if self.finished and at_s >= self.end_s else None,
            classes={label: _attained(judged, label) for label in KINDS},
        )

    def report(self) -> dict[str, Any]:
        """The run as plain data: figures, and every goal."""
        return {"policy": self.policy, "seed": self.seed, **asdict(self.figures()), "goals": [asdict(goal) for goal in self.goals.values()]}


def _attained(goals: Iterable[GoalRecord], label: str) -> tuple[int, int]:
    verdicts = [goal.attained for goal in goals if goal.label == label]
    return sum(verdicts), len(verdicts)
