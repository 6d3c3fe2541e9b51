"""The language that the default model speaks: what robots ask in the demo, and what the right answer is.

Five tasks, each a function that draws a random situation. ``docs/model.md`` states the rules of each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ROOMS = ("kitchen", "hall", "lab", "office", "workshop", "storage", "garage", "lobby", "pantry", "library")
LANDMARKS = ("sink", "printer", "plant", "sofa", "window", "piano", "fridge", "workbench")
OBJECTS = (
    "cup", "box", "bottle", "book", "wrench", "ball", "hammer", "towel",
    "phone", "key", "lamp", "plate", "screwdriver", "bag", "tape", "tray",
)  # fmt: skip
PLACES = ("table", "shelf", "bench", "counter", "cart", "floor")
SIDES = ("left", "right", "front")
NAMES = (*ROOMS, *LANDMARKS, "charger", *OBJECTS, *PLACES, *SIDES, *map(str, range(10, 100)))
"""What answers copy from prompts; each is one token."""

LOW_BATTERY = 20
"""Percent below which the robot goes to its charger first."""
HOT = 60
"""Degrees Celsius from which a joint is too hot."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its right answer.

    Args:
        task: name of the task, a key of ``TASKS``.
        combinations: what the situation is made of, as in "cup in the kitchen"; the answer turns on the first.
    """

    task: str
    prompt: str
    answer: str
    combinations: tuple[str, ...]

    def accepts(self, answer: str) -> bool:
        """Whether an answer is the right one, word for word."""
        return answer == self.answer


def compact(value: object) -> str:
    """JSON without spaces, as prompts and answers have it."""
    return json.dumps(value, separators=(",", ":"))


# ---- control: the velocity command beside an obstacle

CONTROL_PHRASES = (
    "obstacle ahead at {distance} m on the {side}, speed {speed}. Command:",
    "Obstacle {distance} m ahead, {side}. Speed {speed} m/s. Command:",
    "Speed {speed} m/s. The laser sees an obstacle at {distance} m on the {side}. Command:",
    "Driving at {speed} m/s, something on the {side} in {distance} m. Command:",
    "{side} obstacle, distance {distance} m, speed {speed} m/s. Command:",
    "There is a person {distance} m away on the {side}. My speed is {speed} m/s. Command:",
)


def velocity(distance_dm: int, side: str, speed_dm: int) -> tuple[int, int]:
    """The rule of the control task, in tenths: the nearer the obstacle, the slower, and the sharper the turn away from it.

    Positive angular velocity turns left, as in ROS (REP 103); an obstacle in front is passed on the left.

    Args:
        distance_dm: to the obstacle, in tenths of a metre.
        speed_dm: now, in tenths of a metre per second; it is never raised.

    Returns:
        Linear velocity in tenths of a metre per second, and angular velocity in tenths of a radian per second.
    """
    for nearer_than, limit, turn in ((5, 0, 8), (10, 2, 6), (20, 5, 3)):
        if distance_dm < nearer_than:
            return min(speed_dm, limit), -turn if side == "left" else turn
    return speed_dm, 0


def control(rng: random.Random) -> Example:
    """Distance 0.2 to 3.0 m, speed 0.1 to 1.2 m/s."""
    distance, side, speed = rng.randint(2, 30), rng.choice(SIDES), rng.randint(1, 12)
    linear, angular = velocity(distance, side, speed)
    prompt = rng.choice(CONTROL_PHRASES).format(distance=distance / 10, side=side, speed=speed / 10)
    return Example(
        "control",
        prompt,
        compact({"linear": linear / 10, "angular": angular / 10}),
        (f"obstacle at {distance} on the {side}, speed {speed}",),
    )


# ---- navigation: the way through a row of rooms

ORDERS = (
    "Go to the {goal}.",
    "Drive to the {goal}.",
    "Please come to the {goal}.",
    "You are needed at the {goal}.",
    "Next stop: the {goal}.",
)
NAVIGATION_PHRASES = (
    "Battery {battery} %, charger in the {charger}. {order} {place} Route:",
    "{order} Battery {battery} %, charger in the {charger}. {place} Route:",
    "{place} Battery {battery} %, charger in the {charger}. {order} Route:",
)


def whereabouts(rooms: Sequence[str], start: int) -> str:
    """Where a robot is in a row of rooms, and which are ahead of it and behind it, the nearest first."""
    ahead, behind = compact(rooms[start + 1 :]), compact(rooms[:start][::-1])
    return f"I am in the {rooms[start]}. Ahead: {ahead}. Behind: {behind}."


def navigation(rng: random.Random) -> Example:
    """Three or four rooms in a row: to one of them, perhaps to something in it, or to the charger first."""
    rooms = rng.sample(ROOMS, rng.randint(3, 4))
    start, goal = rng.sample(range(len(rooms)), 2)
    battery = _battery(rng)
    charger = rng.choice([room for room in range(len(rooms)) if room != start or battery >= LOW_BATTERY])
    thing = "charger" if goal == charger else rng.choice(LANDMARKS)
    named = rooms[goal] if rng.random() < 0.5 else f"{thing} in the {rooms[goal]}"
    action = "navigate"
    if battery < LOW_BATTERY:
        action, goal = "charge", charger
    prompt = rng.choice(NAVIGATION_PHRASES).format(
        battery=battery, charger=rooms[charger], order=rng.choice(ORDERS).format(goal=named), place=whereabouts(rooms, start)
    )
    route = rooms[start + 1 : goal + 1] if goal > start else rooms[goal:start][::-1]
    return Example("navigation", prompt, compact({"action": action, "waypoints": route}), (f"from {rooms[start]} to {rooms[goal]}",))


def _battery(rng: random.Random) -> int:
    """Percent; low in one of five cases."""
    return rng.randint(10, LOW_BATTERY - 1) if rng.random() < 0.2 else rng.randint(LOW_BATTERY, 99)


# ---- manipulation: calls of the arm's tools

BRING_ORDERS = ("Bring me the {object}.", "Hand me the {object}.", "I need the {object}.", "Could you give me the {object}?")
PUT_ORDERS = ("Put the {object} on the {place}.", "Move the {object} to the {place}.", "The {object} belongs on the {place}.")
MANIPULATION_PHRASES = (
    "{order} Gripper: {gripper}. Scene: {scene}. Calls:",
    "{order} Gripper: {gripper}. I see: {scene}. Calls:",
)


def manipulation(rng: random.Random) -> Example:
    """Three objects on three places, perhaps a fourth in the gripper; bring one or put it somewhere."""
    objects, places = rng.sample(OBJECTS, 5), rng.choices(PLACES, k=3)
    scene = list(zip(objects[:3], places, strict=True))
    held = objects[3] if rng.random() < 0.3 else None
    calls: list[dict[str, str]] = []
    chance = rng.random()
    if held and chance < 0.4:
        wanted, where = held, "gripper"
    elif chance > 0.9:
        wanted, where = objects[4], "nowhere"
        calls = [{"tool": "search", "object": wanted}]
    else:
        wanted, where = rng.choice(scene)
        if held:  # the gripper must be free: what it holds changes places with what is wanted
            calls.append({"tool": "place", "on": where})
        calls.append({"tool": "pick", "object": wanted, "on": where})
    if rng.random() < 0.5:
        order = rng.choice(BRING_ORDERS).format(object=wanted)
        last = {"tool": "hand_over"}
    else:
        place = rng.choice([place for place in PLACES if place != where])
        order = rng.choice(PUT_ORDERS).format(object=wanted, place=place)
        last = {"tool": "place", "on": place}
    if where != "nowhere":
        calls.append(last)
    prompt = rng.choice(MANIPULATION_PHRASES).format(
        scene=compact([{"object": thing, "on": place} for thing, place in scene]), gripper=held or "empty", order=order
    )
    combinations = [f"{wanted} at {where}", *(f"{thing} at {place}" for thing, place in scene)]
    return Example("manipulation", prompt, compact(calls), tuple(dict.fromkeys(combinations)))


# ---- dialogue: a person asks, the state is in the prompt

DIALOGUE_PHRASES = (
    "Person: {question} State: in the {room}, {activity}, battery {battery} %. Seen: {seen}. Robot:",
    "Person: {question} Seen: {seen}. State: in the {room}, {activity}, battery {battery} %. Robot:",
)
QUESTIONS = {
    "where_is": (
        "Where is the {object}?",
        "Have you seen the {object}?",
        "Do you know where the {object} is?",
        "I am looking for the {object}.",
    ),
    "bring": ("Can you bring me the {object}?", "Please get the {object}.", "Could you fetch the {object}?"),
    "doing": ("What are you doing?", "Are you busy?", "What is your task?"),
    "where_are_you": ("Where are you?", "Which room are you in?"),
    "battery": ("How is your battery?", "Do you have to charge?", "How much power is left?"),
}


def dialogue(rng: random.Random) -> Example:
    """Three or four sentences: the answer first, then what else the person may want to know."""
    room, other = rng.sample(ROOMS, 2)
    *known, unknown, carried = rng.sample(OBJECTS, 5)
    seen = {thing: rng.choice(ROOMS) for thing in known}
    activity = rng.choice(("idle", f"cleaning the {room}", f"carrying the {carried} to the {other}", f"looking for the {carried}"))
    battery = _battery(rng)
    low = battery < LOW_BATTERY
    power = f"My battery is low, only {battery} percent." if low else f"My battery is at {battery} percent."
    doing = "I am idle and have time." if activity == "idle" else f"I am {activity}."
    here = f"I am in the {room}."
    kind = rng.choice(("where_is", "where_is", "bring", "doing", "where_are_you", "battery"))
    asked = unknown if rng.random() < 0.15 else rng.choice(known)
    place = seen.get(asked)
    turns_on = f"{asked} in {place}" if kind in ("where_is", "bring") else f"{activity} in {room}"
    found = f"I saw the {asked} in the {place}." if place else f"I have not seen the {asked}."
    promise = "I must charge first." if low else "I will get it now." if activity == "idle" else "I will get it when I am done."
    sentences = {
        "where_is": (found, here, doing, power),
        "bring": (found, promise, doing, power),
        "doing": (doing, here, power),
        "where_are_you": (here, doing, power),
        "battery": (power, here, doing),
    }[kind]
    prompt = rng.choice(DIALOGUE_PHRASES).format(
        room=room,
        activity=activity,
        battery=battery,
        seen=", ".join(f"the {thing} in the {place}" for thing, place in seen.items()),
        question=rng.choice(QUESTIONS[kind]).format(object=asked),
    )
    return Example("dialogue", prompt, " ".join(sentences), (turns_on, *(f"{thing} in {place}" for thing, place in seen.items())))


# ---- Q&A: a log excerpt, explained

QA_QUESTIONS = (
    "Question: what happened in this log? Answer:",
    "Question: is all well in this log? Answer:",
    "Question: please explain the log. Answer:",
)


def qa(rng: random.Random) -> Example:
    """Three to five lines of temperatures, arrivals, grasps and battery readings; what to think of each, then how many joints were hot."""
    lines: list[str] = []
    sentences: list[str] = []
    hot = 0
    time_s = rng.randint(10, 39)
    for letter in "abcde"[: rng.randint(3, 5)]:
        kind = rng.choice(("joint", "joint", "room", "grasp", "battery"))
        if kind == "joint":
            celsius = rng.randint(20, 89)
            hot += celsius >= HOT
            line, verdict = f"joint {rng.randint(1, 7)} at {celsius} C", ", too hot" if celsius >= HOT else ", fine"
        elif kind == "room":
            line, verdict = f"arrived in {rng.choice(ROOMS)}", ""
        elif kind == "grasp":
            well = rng.random() < 0.5
            line, verdict = f"grasp {rng.choice(OBJECTS)} {'ok' if well else 'failed'}", "" if well else ", try again"
        else:
            battery = _battery(rng)
            line, verdict = f"battery {battery} %", ", low" if battery < LOW_BATTERY else ", good"
        lines.append(f"{letter}) {time_s} s: {line}")
        sentences.append(f"{lines[-1]}{verdict}.")
        time_s += rng.randint(3, 15)
    sentences.append(f"In all {hot} joint reading{' was' if hot == 1 else 's were'} too hot." if hot else "No joint was too hot.")
    combinations = tuple(line.partition(": ")[2] for line in lines)
    return Example("qa", "\n".join([*lines, rng.choice(QA_QUESTIONS)]), " ".join(sentences), combinations)


TASKS: Mapping[str, Callable[[random.Random], Example]] = {
    "control": control,
    "navigation": navigation,
    "manipulation": manipulation,
    "dialogue": dialogue,
    "qa": qa,
}
