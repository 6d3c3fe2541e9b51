"""What a decision of the dispatcher costs, and what a token costs on its way through it: processor time, with many members and goals.

``python benchmarks/dispatch_cost.py``; no ROS, which has its own cost for each message: ``--through NAME --past NAME`` measures that, with
same goals through a dispatcher and past it, to its only member.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from slice_ros.dispatch.attempt import Attempt
from slice_ros.dispatch.dispatcher import Dispatcher
from slice_ros.dispatch.member import MemberReport
from slice_ros.dispatch.policies import Deadline
from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.task import SloReport
from slice_ros.slo import BestEffort, RealTime, Slo

PROFILE = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth")
SLOS: tuple[tuple[str, Slo], ...] = (
    ("control", RealTime(tpot_ms=50, deadline_s=1.5)),
    ("voice", BestEffort(ttft_ms=1000, tpot_ms=125)),
    ("qa", BestEffort()),
)


class NoNetwork:
    """A link that leads nowhere."""

    def __init__(self) -> None:
        self.sent: list[Attempt] = []

    def send(self, attempt: Attempt) -> str:
        self.sent.append(attempt)
        return f"{len(self.sent)}"

    def withdraw(self, attempt: Attempt) -> None: ...


def decisions(members: int, goals: int, measured: int = 200) -> tuple[list[float], list[float]]:
    """Seconds of processor time of each of the last goals, and of each of as many tokens."""
    rng, link, now = random.Random(0), NoNetwork(), [0.0]
    dispatcher = Dispatcher(Deadline(), link, lambda _: None, lambda: now[0])
    for i in range(members):
        latency = PROFILE.scaled(rng.uniform(0.5, 2.0))
        dispatcher.join(f"{i}")
        dispatcher.answered(f"{i}", 0.005)
        dispatcher.heard(f"{i}", MemberReport(True, "m", "d", (), 32768, latency, Limits(), 1))
    each_goal, each_token = [], []
    for i in range(goals):
        label, slo = rng.choice(SLOS)
        now[0] += 1e-3
        began = time.process_time()
        dispatcher.submit(GoalRequest(f"{i}", slo, 25, prompt="go to the dock " * 10, submitted_s=now[0], label=label))
        each_goal.append(time.process_time() - began)
    for attempt in link.sent[-measured:]:
        began = time.process_time()
        dispatcher.progressed(attempt, "x", 1, SloReport(prompt_tokens=40))
        each_token.append(time.process_time() - began)
    return each_goal[-measured:], each_token


def through(server: str, count: int) -> tuple[list[float], list[float]]:
    """Seconds until the first token and between tokens, at the client, of goals that are sent one after the other."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from slice_ros.client import SliceClient

    node = rclpy.create_node("cost")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    client = SliceClient(node, server)
    client.wait_for_server()
    first, gaps = [], []

    async def ask() -> None:
        began = before = time.monotonic()
        pieces = 0
        async for _ in client.stream("go to the dock", max_tokens=32):
            now = time.monotonic()
            (gaps if pieces else first).append(now - (before if pieces else began))
            before, pieces = now, pieces + 1

    for _ in range(count):
        executor.spin_until_future_complete(executor.create_task(ask()))
    client.destroy()
    node.destroy_node()
    return first, gaps


def spread(seconds: list[float], unit: float, name: str) -> str:
    ordered = sorted(seconds)
    return f"median {statistics.median(ordered) * unit:.2f} {name}, p99 {ordered[int(0.99 * (len(ordered) - 1))] * unit:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=12)
    parser.add_argument("--goals", type=int, default=1000, help="in hand")
    parser.add_argument("--through", help="name of a dispatcher")
    parser.add_argument("--past", help="name of its only member")
    arguments = parser.parse_args()
    if arguments.through:
        import rclpy

        rclpy.init()
        for server in (arguments.past, arguments.through, arguments.past, arguments.through):
            first, gaps = through(server, 20)
            print(f"{server}: first token {spread(first, 1e3, 'ms')}; gap {spread(gaps, 1e3, 'ms')}")
        rclpy.shutdown()
        return
    goals, tokens = decisions(arguments.members, arguments.goals)
    costs = f"a goal {spread(goals, 1e3, 'ms')}; a token {spread(tokens, 1e6, 'µs')}"
    print(f"{arguments.members} members, {arguments.goals} goals in hand: {costs}")


if __name__ == "__main__":
    main()
