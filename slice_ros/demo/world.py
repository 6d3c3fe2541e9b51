"""The demo's world: a row of rooms, people who step in the way, and a robot on tour. Pure geometry: no ROS, no clock, no model.

Lengths in metres, times in seconds, angles in radians, positive to the left (REP 103). The origin is the lower left corner.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from slice_ros.demo.language import LANDMARKS, NAVIGATION_PHRASES, ORDERS, ROOMS, velocity, whereabouts

Point = tuple[float, float]

ROOM_WIDTH = 2.4
HEIGHT = 3.0
DOOR_WIDTH = 1.4
ROBOT_RADIUS = 0.2
PERSON_RADIUS = 0.2

CRUISE_DMS = 8
"""The robot's speed where the way is free, in tenths of a metre per second, as its prompts say it."""
RANGE = 3.0
"""The laser looks so far, ..."""
CLEARANCE = 0.15
"""... and counts as ahead what the robot would pass at less than this."""
ACCELERATION, BRAKING = 1.5, 2.5
TURN_RATE = 1.0
"""Radians per second at most, when the robot follows its route."""
LOOK_AHEAD = 0.5
"""The robot steers for the point of its route that is so far ahead."""
HOLD_S = 2.5
"""A command is held for so long where no other comes; then the base brakes."""

STEPS_OUT = 1.6
"""People step in the robot's way so far before it, ..."""
STAYS_S = 2.5
"""... and go on after this time, or soon after they were bumped into."""
STARTLED_S = 1.0
RECOVERY_S = 2.0
"""What a bump costs, beside the time to get going again: the robot backs off for the first part of it, then stands."""
BACK_OFF_S, BACK_OFF = 0.5, 0.3
SUBSTEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Command:
    """Velocity of the base: forward, and turning (positive is left). An ``angular`` of 0 leaves the steering to the route follower."""

    linear: float
    angular: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the laser says is ahead, in the units of the control task's prompts: tenths of a metre, and tenths of a metre per second."""

    distance_dm: int
    side: str
    speed_dm: int = CRUISE_DMS

    @property
    def right_command(self) -> Command:
        linear, angular = velocity(self.distance_dm, self.side, self.speed_dm)
        return Command(linear / 10, angular / 10)


@dataclass(frozen=True, slots=True)
class Leg:
    """From one landmark of the tour to the next.

    Args:
        rooms: indices of the rooms on the way, the first one included.
        path: corners of the way.
        people: where on the path, as a distance from its begin, somebody steps in, and how far left of it.
    """

    rooms: tuple[int, ...]
    path: tuple[Point, ...]
    people: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Floor:
    """Rooms in a row from left to right, a door in each wall between two, and the tour.

    Args:
        rooms: their names.
        landmarks: one in each room.
        spots: where the landmarks are.
        doors: height at which each door's middle is.
        legs: of the tour, which begins at the first landmark.
        seats: where the people who ask things are.
    """

    rooms: tuple[str, ...]
    landmarks: tuple[str, ...]
    spots: tuple[Point, ...]
    doors: tuple[float, ...]
    legs: tuple[Leg, ...]
    seats: tuple[Point, ...]

    @property
    def width(self) -> float:
        return ROOM_WIDTH * len(self.rooms)

    @property
    def walls(self) -> list[tuple[Point, Point]]:
        corners = ((0.0, 0.0), (self.width, 0.0), (self.width, HEIGHT), (0.0, HEIGHT), (0.0, 0.0))
        walls = list(pairwise(corners))
        for i, door in enumerate(self.doors, 1):
            x = i * ROOM_WIDTH
            walls += [((x, 0.0), (x, door - DOOR_WIDTH / 2)), ((x, door + DOOR_WIDTH / 2), (x, HEIGHT))]
        return walls

    def route(self, leg: int) -> list[str]:
        """The rooms to drive through, the answer to :meth:`order`."""
        return [self.rooms[room] for room in self.legs[leg].rooms[1:]]

    def order(self, leg: int) -> str:
        """The navigation task's prompt for a leg."""
        start, *_, goal = self.legs[leg].rooms
        return NAVIGATION_PHRASES[0].format(
            battery=80 - 5 * leg,
            charger=self.rooms[self.landmarks.index("charger")],
            order=ORDERS[0].format(goal=f"{self.landmarks[goal]} in the {self.rooms[goal]}"),
            place=whereabouts(self.rooms, start),
        )


STOPS = (0, 3, 2)
"""The tour, as indices of rooms."""
PEOPLE_PER_LEG = (3, 1)


def make_floor(seed: int) -> Floor:
    """Four rooms; names, doors, landmarks and people are drawn from the seed."""
    rng = random.Random(f"floor {seed}")
    rooms, landmarks = rng.sample(ROOMS, 4), rng.sample(LANDMARKS, 4)
    landmarks[rng.randrange(len(rooms))] = "charger"
    doors = tuple(HEIGHT / 2 + rng.uniform(-0.2, 0.2) for _ in rooms[1:])
    spots = tuple(((i + 0.5) * ROOM_WIDTH, HEIGHT / 2 + rng.uniform(-0.3, 0.3)) for i in range(len(rooms)))
    seats = tuple(((i + 0.5) * ROOM_WIDTH + side * 0.8, rng.choice((0.3, HEIGHT - 0.3))) for i in range(len(rooms)) for side in (-1, 1))
    legs = []
    for (start, goal), number in zip(pairwise(STOPS), PEOPLE_PER_LEG, strict=True):
        path = _path(start, goal, spots, doors)
        length = _length(path)
        first, last = STEPS_OUT + 0.8, length - 0.5
        part = (last - first) / number
        people = [(first + (i + rng.uniform(0.3, 0.7)) * part, rng.uniform(-0.2, 0.2)) for i in range(number)]
        step = 1 if goal > start else -1
        legs.append(Leg(tuple(range(start, goal + step, step)), path, tuple(people)))
    return Floor(tuple(rooms), tuple(landmarks), spots, doors, tuple(legs), seats)


def _path(start: int, goal: int, spots: Sequence[Point], doors: Sequence[float]) -> tuple[Point, ...]:
    """From spot to spot, straight through the doors."""
    path = [spots[start]]
    step = 1 if goal > start else -1
    for room in range(start, goal, step):
        wall = max(room, room + step)
        x, y = wall * ROOM_WIDTH, doors[wall - 1]
        path += [(x - step * 0.4, y), (x + step * 0.4, y)]
    return (*path, spots[goal])


@dataclass(slots=True)
class Person:
    """Somebody in the robot's way until ``until_s``."""

    at: Point
    until_s: float


@dataclass(slots=True)
class World:
    """The robot's state on a floor. It waits for :meth:`set_off` at each landmark, and drives by the latest command.

    Args:
        floor: where.
        leg: which one it drives or has driven, -1 before the first.
        progress: how far along the leg, in metres.
        is_driving: on a leg, not waiting at a landmark.
        braked_s: how long the base has braked because no command came.
    """

    floor: Floor
    time_s: float = 0.0
    position: Point = (0.0, 0.0)
    heading: float = 0.0
    speed: float = 0.0
    leg: int = -1
    progress: float = 0.0
    is_driving: bool = False
    bumps: int = 0
    braked_s: float = 0.0
    people: list[Person] = field(default_factory=list)
    _command: Command = Command(0.0, 0.0)
    _command_until_s: float = -math.inf
    _recovered_s: float = -math.inf
    _met: int = 0

    def __post_init__(self) -> None:
        self.position = self.floor.spots[STOPS[0]]

    @property
    def finished(self) -> bool:
        return not self.is_driving and self.leg == len(self.floor.legs) - 1

    @property
    def is_recovering(self) -> bool:
        """Whether it has bumped, and has not got over it."""
        return self.time_s < self._recovered_s

    @property
    def is_braked(self) -> bool:
        """Whether it stands on its way because no command came."""
        return self.is_driving and not self.is_recovering and self.time_s >= self._command_until_s

    @property
    def state(self) -> str:
        """In a word."""
        if self.finished:
            return "finished"
        if not self.is_driving:
            return "waiting"
        return "bumped" if self.is_recovering else "braked" if self.is_braked else "driving"

    def set_off(self) -> None:
        """Drive the next leg."""
        self.leg, self.progress, self.is_driving, self._met = self.leg + 1, 0.0, True, 0

    def obey(self, command: Command) -> None:
        """Drive so until the next command, or until HOLD_S are over."""
        self._command, self._command_until_s = command, self.time_s + HOLD_S

    def sight(self) -> Sighting:
        """The nearest person ahead; with nobody there, the laser's range."""
        best = Sighting(round(RANGE * 10), "front")
        for person in self.people:
            ahead, left = self._seen_from_robot(person.at)
            if ahead > 0.0 and abs(left) < ROBOT_RADIUS + PERSON_RADIUS + CLEARANCE:
                distance_dm = max(2, round((math.hypot(ahead, left) - ROBOT_RADIUS - PERSON_RADIUS) * 10))
                if distance_dm < best.distance_dm:
                    best = Sighting(distance_dm, "front" if abs(left) < 0.1 else "left" if left > 0.0 else "right")
        return best

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        while seconds > 1e-9:
            step_s = min(SUBSTEP_S, seconds)
            seconds -= step_s
            self._step(step_s)

    def _step(self, step_s: float) -> None:
        self.time_s += step_s
        self.people = [person for person in self.people if person.until_s > self.time_s]
        if not self.is_driving:
            self.speed = 0.0
            return
        self._meet_people()
        linear, angular = self._wanted()
        self.braked_s += step_s * self.is_braked
        change = max(-BRAKING * step_s, min(ACCELERATION * step_s, linear - self.speed))
        self.speed += change
        self.heading += angular * step_s
        x, y = self.position
        self._move((x + self.speed * math.cos(self.heading) * step_s, y + self.speed * math.sin(self.heading) * step_s))

    def _wanted(self) -> tuple[float, float]:
        """Velocities to approach now."""
        if self.is_recovering:
            backs_off = self._recovered_s - self.time_s > RECOVERY_S - BACK_OFF_S
            return (-BACK_OFF, 0.0) if backs_off else (0.0, self._steer()[1])
        if self.is_braked:
            return 0.0, 0.0
        if self._command.angular:
            return self._command.linear, self._command.angular
        slowing, angular = self._steer()
        return self._command.linear * slowing, angular

    def _steer(self) -> tuple[float, float]:
        """Towards the route: which share of its speed the robot keeps, and how it turns."""
        path = self.floor.legs[self.leg].path
        off = math.dist(self.position, _at(path, self.progress))
        ahead, left = self._seen_from_robot(_at(path, self.progress + max(0.1, LOOK_AHEAD - off)))
        error = math.atan2(left, ahead)
        return max(0.0, math.cos(error)), max(-TURN_RATE, min(TURN_RATE, 3.0 * error))

    def _move(self, to: Point) -> None:
        hit = next((person for person in self.people if math.dist(to, person.at) < ROBOT_RADIUS + PERSON_RADIUS), None)
        if hit is not None or any(_distance(to, wall) < ROBOT_RADIUS for wall in self.floor.walls):
            self.speed = 0.0
            if not self.is_recovering:
                self.bumps += 1
                self._recovered_s = self.time_s + RECOVERY_S
                if hit is not None:
                    hit.until_s = min(hit.until_s, self.time_s + STARTLED_S)
            return
        self.position = to
        path = self.floor.legs[self.leg].path
        nearby = (self.progress + 0.01 * i for i in range(8))
        self.progress = min(nearby, key=lambda at: math.dist(to, _at(path, at)))
        if math.dist(to, path[-1]) < 0.25 or self.progress >= _length(path) - 0.02:
            self.is_driving = False

    def _meet_people(self) -> None:
        leg = self.floor.legs[self.leg]
        while self._met < len(leg.people) and self.progress + STEPS_OUT + ROBOT_RADIUS + PERSON_RADIUS >= leg.people[self._met][0]:
            at, left = leg.people[self._met]
            self._met += 1
            (x, y), (x2, y2) = _at(leg.path, at), _at(leg.path, at + 0.01)
            length = math.dist((x, y), (x2, y2)) or 1.0
            self.people.append(Person((x - left * (y2 - y) / length, y + left * (x2 - x) / length), self.time_s + STAYS_S))

    def _seen_from_robot(self, point: Point) -> Point:
        """How far ahead and how far to the left."""
        dx, dy = point[0] - self.position[0], point[1] - self.position[1]
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return dx * cos + dy * sin, dy * cos - dx * sin


def _length(path: Sequence[Point]) -> float:
    return sum(math.dist(a, b) for a, b in pairwise(path))


def _at(path: Sequence[Point], distance: float) -> Point:
    """The point so far along a path; its end beyond that."""
    for a, b in pairwise(path):
        length = math.dist(a, b)
        if distance <= length and length > 0.0:
            share = distance / length
            return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])
        distance -= length
    return path[-1]


def _distance(point: Point, segment: tuple[Point, Point]) -> float:
    """From a point to the nearest one of a segment."""
    (ax, ay), (bx, by) = segment
    dx, dy = bx - ax, by - ay
    share = ((point[0] - ax) * dx + (point[1] - ay) * dy) / (dx * dx + dy * dy)
    share = max(0.0, min(1.0, share))
    return math.dist(point, (ax + share * dx, ay + share * dy))
