"""One robot node of the demo, in a process of its own: sends goals of one kind at random moments and notes how they fared.

Prints one JSON object when it is done: the fields of :class:`Record`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from slice_ros.client import GoalFailed, ServerNotFound, SliceClient
from slice_ros.demo.language import Example, control, dialogue, navigation, qa
from slice_ros.ros import Node, SignalHandlerOptions, SingleThreadedExecutor, rclpy, remove_ros_args
from slice_ros.slo import BestEffort, RealTime, Slo

DRAIN_S = 5.0
"""How long goals may take after the last one was sent; then they are canceled, which counts as missed."""
CANCEL_S = 2.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What one robot node asks for. An answer may take a number of tokens uniform in ``tokens``: the start model would never end."""

    slo: Slo
    tokens: tuple[int, int]
    tasks: tuple[Callable[[random.Random], Example], ...]


KINDS = {
    "control": Kind(RealTime(tpot_ms=50, deadline_s=1.5), (12, 25), (control, navigation)),
    "voice": Kind(BestEffort(ttft_ms=1000, tpot_ms=125), (40, 120), (dialogue,)),
    "qa": Kind(BestEffort(ttft_ms=1000, tpot_ms=100), (60, 200), (qa,)),
}
"""The three kinds of the benchmark's ``robot-mix``."""


@dataclass(slots=True)
class Record:
    """How the goals of one robot fared; times of those that have them, in milliseconds.

    Args:
        right: completed with an answer that the language accepts.
        prompt: the latest one that was answered.
        answer: to that prompt.
    """

    label: str
    submitted: int = 0
    completed: int = 0
    attained: int = 0
    right: int = 0
    prompt: str = ""
    answer: str = ""
    ttft_ms: list[float] = field(default_factory=list)
    tpot_ms: list[float] = field(default_factory=list)
    e2e_ms: list[float] = field(default_factory=list)


class Robot(Node):
    """Sends goals with exponential gaps until ``duration_s`` is over."""

    def __init__(self, label: str, *, rate_hz: float, duration_s: float, seed: int, server: str) -> None:
        super().__init__(f"robot_{label}")
        self.record = Record(label)
        self.client = SliceClient(self, server)
        self._kind = KINDS[label]
        self._rng = random.Random(f"{label} {seed}")
        self._rate_hz = rate_hz
        self._generations: set[object] = set()
        self._until_s = time.monotonic() + duration_s
        self._next_s = time.monotonic() + self._rng.expovariate(rate_hz)
        self.create_timer(0.005, self._send_due)

    @property
    def busy(self) -> bool:
        return time.monotonic() < self._until_s or bool(self._generations)

    def stop(self) -> None:
        """Send nothing more."""
        self._until_s = time.monotonic()

    @property
    def last_moment_s(self) -> float:
        return self._until_s + DRAIN_S

    def _send_due(self) -> None:
        while self._next_s <= time.monotonic() and self._next_s < self._until_s:
            self._next_s += self._rng.expovariate(self._rate_hz)
            assert self.executor is not None  # it is calling
            self.executor.create_task(self._ask())

    async def _ask(self) -> None:
        kind, record = self._kind, self.record
        record.submitted += 1
        example = self._rng.choice(kind.tasks)(self._rng)
        generation = self.client.send(example.prompt, slo=kind.slo, max_tokens=self._rng.randint(*kind.tokens), label=record.label)
        self._generations.add(generation)
        try:
            result = await generation.result()
            report = result.report
            record.prompt, record.answer = example.prompt, result.text
            record.right += example.accepts(result.text)
            record.completed += 1
            record.attained += report.attained
        except GoalFailed as error:
            report = error.report
            self.get_logger().warning(str(error))
        finally:
            self._generations.discard(generation)
        for times, value in ((record.ttft_ms, report.ttft_s), (record.tpot_ms, report.tpot_s), (record.e2e_ms, report.e2e_s)):
            if not math.isnan(value):
                times.append(value * 1e3)


def main() -> int:
    """Run one robot node; exit status 1 when there is no server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("label", choices=sorted(KINDS))
    parser.add_argument("--rate", type=float, required=True, help="goals per second")
    parser.add_argument("--duration", type=float, required=True, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", default="/slice_server")
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    robot = Robot(arguments.label, rate_hz=arguments.rate, duration_s=arguments.duration, seed=arguments.seed, server=arguments.server)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: robot.stop())
    executor.add_node(robot)
    try:
        robot.client.wait_for_server()
        while robot.busy and time.monotonic() < robot.last_moment_s:
            executor.spin_once(timeout_sec=0.1)
        if robot.busy:
            robot.client.cancel_all()
        while robot.busy and time.monotonic() < robot.last_moment_s + CANCEL_S:
            executor.spin_once(timeout_sec=0.1)
    except ServerNotFound as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        print(json.dumps(asdict(robot.record)), flush=True)
        robot.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
