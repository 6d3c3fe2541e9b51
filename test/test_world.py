"""The demo's world: kinematics, bumps, and what late commands do to the robot; all of it without ROS and on a virtual clock."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slice_ros.demo.language import LANDMARKS, ROOMS
from slice_ros.demo.robot import is_route, usable_command
from slice_ros.demo.traffic import ASKED, CONTROL_PERIOD_S, KINDS, questions
from slice_ros.demo.world import (
    BRAKING,
    HOLD_S,
    PERSON_RADIUS,
    RECOVERY_S,
    ROBOT_RADIUS,
    STAYS_S,
    Command,
    Person,
    Sighting,
    World,
    make_floor,
)
from slice_ros.engines.simulated import SimulatedEngine
from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.events import Finished
from slice_ros.scheduling.policies import make_policy
from slice_ros.scheduling.scheduler import Scheduler

CRUISE = Command(0.8, 0.0)


def empty_world() -> World:
    """Nobody steps in the robot's way; it has set off."""
    floor = make_floor(0)
    world = World(replace(floor, legs=tuple(replace(leg, people=()) for leg in floor.legs)))
    world.set_off()
    return world


def drive(world: World, seconds: float, command: Command = CRUISE) -> None:
    """With a fresh command all the time."""
    for _ in range(round(seconds / 0.1)):
        world.obey(command)
        world.advance(0.1)


def tour(seed: int, latency_s: float, limit_s: float = 60.0) -> World:
    """A tour on which every right answer comes after the same time."""
    world, answers, due_s, way_s = World(make_floor(seed)), [], 0.0, latency_s
    while not world.finished and world.time_s < limit_s:
        if world.time_s >= due_s:
            due_s += CONTROL_PERIOD_S
            answers.append((world.time_s + latency_s, world.sight().right_command))
        while answers and answers[0][0] <= world.time_s:
            world.obey(answers.pop(0)[1])
        if world.is_driving:
            way_s = world.time_s + latency_s
        elif world.time_s >= way_s:
            world.set_off()
        world.advance(0.02)
    return world


# ---- floors


@given(seed=st.integers(0, 10_000))
def test_every_floor_can_be_toured(seed):
    floor = make_floor(seed)
    assert make_floor(seed) == floor
    for i, leg in enumerate(floor.legs):
        assert floor.route(i) == [floor.rooms[room] for room in leg.rooms[1:]]
        corners = [point for a, b in zip(leg.path, leg.path[1:], strict=False) for point in _between(a, b)]
        assert min(_to_wall(point, wall) for point in corners for wall in floor.walls) > ROBOT_RADIUS, "the way leads through a wall"
        assert floor.landmarks[leg.rooms[-1]] in floor.order(i)


def test_an_order_is_in_the_models_language():
    things, room, side = "|".join((*LANDMARKS, "charger")), f"({'|'.join(ROOMS)})", r'\[("\w+"(,"\w+")*)?\]'
    pattern = (
        rf"Battery \d+ %, charger in the {room}\. Go to the ({things}) in the {room}\. "
        rf"I am in the {room}\. Ahead: {side}\. Behind: {side}\. Route:"
    )
    floor = make_floor(0)
    for leg in range(len(floor.legs)):
        assert re.fullmatch(pattern, floor.order(leg))


def _between(a, b):
    return [(a[0] + share / 20 * (b[0] - a[0]), a[1] + share / 20 * (b[1] - a[1])) for share in range(21)]


def _to_wall(point, wall):
    (ax, ay), (bx, by) = wall
    x, y = min(max(point[0], min(ax, bx)), max(ax, bx)), min(max(point[1], min(ay, by)), max(ay, by))  # walls are upright or level
    return math.dist(point, (x, y))


# ---- kinematics


def test_it_waits_at_a_landmark_until_it_knows_the_way():
    world = World(make_floor(0))
    drive(world, 2.0)
    assert (world.state, world.position) == ("waiting", world.floor.spots[0])
    world.set_off()
    drive(world, 1.0)
    assert world.state == "driving"
    assert world.position[0] > world.floor.spots[0][0]


def test_without_commands_the_base_brakes():
    world = empty_world()
    drive(world, 1.0)
    world.obey(CRUISE)
    world.advance(HOLD_S - 0.1)
    assert world.state == "driving"
    at, speed = world.position, world.speed
    world.advance(0.1 + 1.0)
    assert (world.state, world.speed) == ("braked", 0.0)
    assert math.dist(at, world.position) == pytest.approx(speed * 0.1 + speed**2 / (2 * BRAKING), abs=0.05)
    world.obey(CRUISE)
    assert world.state == "driving"


@given(linear=st.floats(0.0, 1.2), angular=st.floats(-1.5, 1.5), steps=st.lists(st.floats(0.001, 0.5), max_size=30))
@settings(max_examples=50)
def test_whatever_it_is_told_it_stays_outside_of_walls_and_people(linear, angular, steps):
    world = World(make_floor(3))
    world.set_off()
    for step_s in steps:
        world.obey(Command(linear, angular))
        world.advance(step_s)
        assert min(_to_wall(world.position, wall) for wall in world.floor.walls) >= ROBOT_RADIUS
        assert world.progress >= 0.0
    assert world.time_s == pytest.approx(sum(steps))


@given(latency_s=st.floats(0.0, 4.0), seed=st.integers(0, 50))
@settings(max_examples=5, deadline=None)
def test_the_world_depends_on_nothing_but_seed_and_commands(latency_s, seed):
    one, other = tour(seed, latency_s, 15.0), tour(seed, latency_s, 15.0)
    assert one == other


# ---- people and bumps


def world_with_somebody(ahead: float, left: float = 0.0) -> World:
    """A robot at speed, and somebody in its way."""
    world = empty_world()
    drive(world, 0.8)
    cos, sin = math.cos(world.heading), math.sin(world.heading)
    x, y = world.position
    reach = ahead + ROBOT_RADIUS + PERSON_RADIUS
    world.people = [Person((x + reach * cos - left * sin, y + reach * sin + left * cos), world.time_s + STAYS_S)]
    return world


@pytest.mark.parametrize(("left", "side"), [(0.0, "front"), (0.3, "left"), (-0.3, "right")])
def test_the_laser_says_how_far_and_on_which_side(left, side):
    sighting = world_with_somebody(0.6, left).sight()
    assert sighting.side == side
    assert sighting.distance_dm == pytest.approx((math.hypot(1.0, left) - 0.4) * 10, abs=0.5)


def test_who_is_beside_or_behind_is_not_ahead():
    assert world_with_somebody(0.6, 1.0).sight().distance_dm == 30
    assert world_with_somebody(-1.6).sight().distance_dm == 30


def test_a_bump_is_counted_once_costs_time_and_does_not_hurt_for_ever():
    world = world_with_somebody(0.3)
    drive(world, 1.0)
    assert (world.bumps, world.state) == (1, "bumped")
    drive(world, RECOVERY_S)
    assert world.state == "driving"
    drive(world, STAYS_S)
    assert world.bumps == 1
    assert world.people == []


def test_the_right_command_in_time_avoids_the_bump():
    world = world_with_somebody(0.9)
    for _ in range(20):
        world.obey(world.sight().right_command)
        world.advance(0.1)
    assert world.bumps == 0


def test_with_answers_in_time_hardly_a_tour_has_a_bump():
    """Around a corner somebody may be too near already when the robot looks: that is so in one tour of many, whatever the model does."""
    tours = [tour(seed, 0.1 * (seed % 6)) for seed in range(18)]
    assert all(world.finished for world in tours)
    assert sum(world.bumps for world in tours) <= 1


def test_with_late_answers_the_robot_bumps_and_takes_longer():
    for seed in range(4):
        in_time, late = tour(seed, 0.4), tour(seed, 2.5)
        assert late.bumps > 0
        assert late.time_s > in_time.time_s


# ---- answers


@pytest.mark.parametrize(
    ("answer", "command"),
    [
        ('{"linear": 0.2, "angular": -0.6}', Command(0.2, -0.6)),
        ('{"linear": 0.1, "angular": -0.4}', Command(0.1, -0.4)),
        ('{"linear": 0.8, "angular": -0.6}', None),  # too fast beside an obstacle
        ('{"linear": 0.2, "angular": 0.6}', None),  # towards it
        ('{"linear": "0.2", "angular": -0.6}', None),
        ('{"linear": NaN, "angular": -0.6}', None),
        ('{"linear": 0.2}', None),
        ("[0.2, -0.6]", None),
        ('{"linear": 0.2, "angu', None),
        ("eat the nose", None),
    ],
)
def test_only_a_sane_command_is_used(answer, command):
    assert usable_command(answer, Sighting(6, "left")) == command


def test_only_the_right_way_is_used():
    assert is_route('{"action": "navigate", "waypoints": ["hall", "lab"]}', ["hall", "lab"])
    assert not is_route('{"action": "navigate", "waypoints": ["lab", "hall"]}', ["hall", "lab"])
    assert not is_route('{"action": "navigate", "waypoints": ["hall", "la', ["hall", "lab"])


# ---- traffic


def test_the_seed_alone_decides_what_people_ask():
    for label in ASKED:
        trace = questions(label, seed=3, seats=8)
        assert trace == questions(label, seed=3, seats=8)
        assert trace != questions(label, seed=4, seats=8)
        assert [question.at_s for question in trace] == sorted(question.at_s for question in trace)
        assert {question.seat for question in trace} <= set(range(8))


def serve_a_tour(policy: str, seed: int, limit_s: float = 40.0) -> tuple[World, int]:
    """The demo on a virtual clock: the world, and how many of the robot's answers were late."""
    latency, clock = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4"), VirtualClock()
    ends: list[Finished] = []
    engine = SimulatedEngine(latency, clock)
    scheduler = Scheduler(engine, make_policy(policy), latency, lambda events: ends.extend(filter(_is_end, events)), clock=clock)
    world, numbers = World(make_floor(seed)), count()
    sighted: dict[str, Sighting] = {}
    arrivals = sorted(
        ((question.at_s, label, question.example.prompt) for label in ASKED for question in questions(label, seed=seed, seats=8)),
        reverse=True,
    )
    late, due_s, leg_asked = 0, 0.0, -1

    def send(label: str, prompt: str) -> str:
        kind, goal_id = KINDS[label], f"{label} {next(numbers)}"
        scheduler.submit(GoalRequest(goal_id, kind.slo, kind.max_tokens, prompt, submitted_s=clock.now(), label=label))
        return goal_id

    while not world.finished and world.time_s < limit_s:
        if not scheduler.turn():
            clock.advance(0.005)
        world.advance(clock.now() - world.time_s)
        for end in ends:
            late += not end.report.attained and end.goal_id.startswith(("control", "navigation"))
            if end.goal_id in sighted:
                world.obey(sighted.pop(end.goal_id).right_command)
            elif end.goal_id.startswith("navigation"):
                world.set_off()
        ends.clear()
        if not world.is_driving and leg_asked == world.leg and not world.finished:
            leg_asked += 1
            send("navigation", world.floor.order(leg_asked))
        while arrivals and arrivals[-1][0] <= clock.now():
            send(*arrivals.pop()[1:])
        while due_s <= clock.now():
            due_s += CONTROL_PERIOD_S
            sighted[send("control", "obstacle ahead at 0.6 m on the left, speed 0.8. Command:")] = world.sight()
    return world, late


def _is_end(event) -> bool:
    return isinstance(event, Finished)


@pytest.mark.parametrize("seed", range(5))
def test_the_default_policy_brings_the_robot_round_without_a_bump_and_first_come_first_served_does_not(seed):
    default, late = serve_a_tour("slack", seed)
    assert (default.finished, default.bumps, late) == (True, 0, 0)
    baseline, late = serve_a_tour("orca", seed)
    assert baseline.bumps > 0
    assert late > 10
    assert baseline.time_s > default.time_s
