"""One node of the demo, in a process of its own: the robot on its tour, or the people who ask it things.

Writes what happens to standard output, one JSON object a line (see ``log.py``).
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from slice_ros.client import Answer, GoalFailed, ServerNotFound, SliceClient
from slice_ros.demo.language import CONTROL_PHRASES, Example
from slice_ros.demo.traffic import ASKED, ASKING_S, CONTROL_PERIOD_S, KINDS, RATE_HZ, TOUR_LIMIT_S, Question, questions
from slice_ros.demo.world import Command, Sighting, World, make_floor
from slice_ros.goal import ErrorCode

TICK_S = 0.02
POSE_PERIOD_S = 0.1
DRAIN_S = 5.0
"""How long answers may take after the last question; then they are canceled, which counts as missed."""
CANCEL_S = 2.0
SERVER_S = 30.0
"""How long the server may take to be found."""
NEAR_LINEAR, NEAR_ANGULAR = 0.1, 0.3
"""A command may differ so much from the right one, in m/s and rad/s."""


def usable_command(text: str, sighting: Sighting) -> Command | None:
    """The command that an answer gives, if it is one and near the right one."""
    answer, right = _object(text), sighting.right_command
    linear, angular = answer.get("linear"), answer.get("angular")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (linear, angular)):
        return None
    command = Command(float(linear), float(angular))  # type: ignore[arg-type]
    is_near = abs(command.linear - right.linear) <= NEAR_LINEAR + 1e-9 and abs(command.angular - right.angular) <= NEAR_ANGULAR + 1e-9
    return command if is_near and command.linear >= 0.0 else None


def is_route(text: str, rooms: list[str]) -> bool:
    """Whether an answer says to drive through these rooms."""
    answer = _object(text)
    return answer.get("action") == "navigate" and answer.get("waypoints") == rooms


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class Asker(Node):
    """Sends goals and writes down how they fare.

    Args:
        label: of the node.
        server: name of the server node.
    """

    def __init__(self, label: str, *, server: str) -> None:
        super().__init__(f"robot_{label}")
        self.client = SliceClient(self, server)
        self.begin_s = math.inf  # of the traffic, on the monotonic clock
        self._goals = 0
        self.in_flight = 0

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.begin_s

    def write(self, what: str, **fields: Any) -> None:
        print(json.dumps({"what": what, "t": round(max(0.0, self.now_s), 3), **fields}), flush=True)

    def start(self, coroutine: Any) -> None:
        assert self.executor is not None  # it is calling
        self.executor.create_task(coroutine)

    async def ask(self, label: str, prompt: str, is_right: Callable[[str], bool], *, seat: int | None = None) -> Answer | None:
        """The answer; ``None`` if there is none."""
        self._goals += 1
        goal, kind = f"{label} {self._goals}", KINDS[label]
        self.write("sent", goal=goal, label=label, seat=seat, prompt=prompt)
        self.in_flight += 1
        answer = None
        ended: dict[str, Any] = {}
        try:
            answer = await self.client.generate(prompt, slo=kind.slo, max_tokens=kind.max_tokens, label=label, json_schema=kind.json_schema)
            report = answer.report
            ended = {"answer": answer.text, "attained": report.attained, "right": is_right(answer.text)}
        except GoalFailed as error:
            report = error.report
            ended = {"answer": error.text, "error": str(error)}
            if error.code is not ErrorCode.CANCELED:
                self.get_logger().warning(str(error))
        finally:
            self.in_flight -= 1
        times = {name: getattr(report, name) for name in ("ttft_s", "tpot_s", "e2e_s")}
        self.write("ended", goal=goal, **ended, **{name: None if math.isnan(value) else round(value, 4) for name, value in times.items()})
        return answer


class People(Asker):
    """Asks the questions of one kind at their times."""

    def __init__(self, label: str, trace: list[Question], *, server: str) -> None:
        super().__init__(label, server=server)
        self._label = label
        self._trace = trace
        self._until_s = ASKING_S
        self.create_timer(TICK_S, self._tick)

    @property
    def busy(self) -> bool:
        return self.now_s < self._until_s or (self.in_flight > 0 and self.now_s < self._until_s + DRAIN_S)

    def stop(self) -> None:
        self._until_s = -math.inf

    def _tick(self) -> None:
        while self._trace and self._trace[0].at_s <= self.now_s < self._until_s:
            question = self._trace.pop(0)
            example: Example = question.example
            self.start(self.ask(self._label, example.prompt, example.accepts, seat=question.seat))


class Driver(Asker):
    """Drives the tour: asks for a command at a fixed rate, and for the way at each landmark.

    A command is obeyed when it comes, late or not, unless a newer one has come before it. Answers of no use are put right by the robot's
    own rule: what matters is *when* the model answers, not what a small model knows.
    """

    def __init__(self, *, seed: int, limit_s: float, server: str) -> None:
        super().__init__("control", server=server)
        self._limit_s = limit_s
        self._world = World(make_floor(seed))
        self._asked_s = 0.0
        self._obeyed_s = -math.inf
        self._posed_s = 0.0
        self._leg_asked = -1
        self._way_s = 0.0
        self._stopped = False
        self.create_timer(TICK_S, self._tick)

    @property
    def busy(self) -> bool:
        return not (self._stopped or self._world.finished) and self.now_s < self._limit_s

    def stop(self) -> None:
        self._stopped = True

    def _tick(self) -> None:
        if self.now_s < 0.0 or not self.busy:
            return
        world = self._world
        world.advance(self.now_s - world.time_s)
        if world.finished or world.time_s >= self._posed_s:
            self._posed_s = world.time_s + POSE_PERIOD_S
            self._write_pose()
        if world.finished:
            return
        if not world.is_driving and self._leg_asked == world.leg and self.now_s >= self._way_s:
            self._leg_asked += 1
            self.start(self._ask_way(self._leg_asked))
        if self.now_s >= self._asked_s:
            self._asked_s += CONTROL_PERIOD_S
            self.start(self._ask_command())

    def _write_pose(self) -> None:
        world = self._world
        x, y = world.position
        self.write(
            "pose", x=round(x, 3), y=round(y, 3), heading=round(world.heading, 3), state=world.state, bumps=world.bumps,
            people=[[round(a, 2), round(b, 2)] for a, b in (person.at for person in world.people)],
        )  # fmt: skip

    async def _ask_way(self, leg: int) -> None:
        rooms = self._world.floor.route(leg)
        answer = await self.ask("navigation", self._world.floor.order(leg), lambda text: is_route(text, rooms))
        if answer is None:  # ask again in a moment
            self._leg_asked, self._way_s = leg - 1, self.now_s + CONTROL_PERIOD_S
        else:
            self._world.set_off()

    async def _ask_command(self) -> None:
        asked_s, sighting = self.now_s, self._world.sight()
        prompt = CONTROL_PHRASES[0].format(distance=sighting.distance_dm / 10, side=sighting.side, speed=sighting.speed_dm / 10)
        answer = await self.ask("control", prompt, lambda text: usable_command(text, sighting) is not None)
        if answer is not None and asked_s > self._obeyed_s:
            self._obeyed_s = asked_s
            self._world.obey(usable_command(answer.text, sighting) or sighting.right_command)


def main() -> int:
    """Run one node; exit status 1 when there is no server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("label", choices=["control", *sorted(ASKED)])
    parser.add_argument("--rate", type=float, default=RATE_HZ, help="questions per second, if it is people who ask")
    parser.add_argument("--limit", type=float, default=TOUR_LIMIT_S, help="the robot gives its tour up after so many seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--together", action="store_true", help="say when ready; a line of input then gives the monotonic time, s, to begin at"
    )
    parser.add_argument("--server", default="/slice_server")
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    node: Driver | People
    if arguments.label == "control":
        node = Driver(seed=arguments.seed, limit_s=arguments.limit, server=arguments.server)
    else:
        seats = len(make_floor(arguments.seed).seats)
        node = People(
            arguments.label, questions(arguments.label, rate_hz=arguments.rate, seed=arguments.seed, seats=seats), server=arguments.server
        )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: node.stop())
    executor.add_node(node)
    try:
        node.client.wait_for_server(timeout_s=SERVER_S)
        if arguments.together:
            node.write("ready")
            node.begin_s = float(sys.stdin.readline())
        else:
            node.begin_s = time.monotonic()
        while node.busy:
            executor.spin_once(timeout_sec=0.1)
        node.client.cancel_all()
        last_moment_s = time.monotonic() + CANCEL_S
        while node.in_flight and time.monotonic() < last_moment_s:
            executor.spin_once(timeout_sec=0.1)
    except ServerNotFound as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a node that is just ending has not failed
            signal.signal(number, signal.SIG_IGN)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
