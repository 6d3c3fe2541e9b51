"""A client process that loads a server with seeded goals and notes what becomes of each: ``python -m reliability.load``.

SIGTERM ends the sending; it leaves with status 0 when every goal sent has ended, 1 when some have not within ``--patience``.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from reliability.records import Notes
from slice_ros.client import Answer, Generation, SliceClient
from slice_ros.scheduling.task import SloReport
from slice_ros.slo import BestEffort, OnMiss, RealTime, Slo

KINDS: tuple[tuple[str, float, Slo, tuple[int, int]], ...] = (
    ("control", 0.5, RealTime(tpot_ms=200, deadline_s=4.0, on_miss=OnMiss.ABORT), (4, 16)),
    ("voice", 0.3, BestEffort(ttft_ms=1500, tpot_ms=250, on_miss=OnMiss.ABORT), (8, 24)),
    ("qa", 0.2, BestEffort(ttft_ms=3000, tpot_ms=400, on_miss=OnMiss.ABORT), (8, 40)),
)
"""Label, share, SLO, and range of output tokens. All give up when missed, so that a queue under overload has an end."""


def draw(rng: random.Random, scale: float) -> tuple[str, dict[str, Any]]:
    """A goal of the mix: its prompt, and what ``SliceClient.send`` takes beside it; ``scale`` multiplies its output tokens."""
    label, _, slo, (low, high) = rng.choices(KINDS, [kind[1] for kind in KINDS])[0]
    words = " ".join("".join(rng.choices("abcdefghij", k=4)) for _ in range(rng.randint(2, 12)))
    return words, {"label": label, "max_tokens": max(1, round(scale * rng.randint(low, high))), "slo": slo}


class Load:
    """Sends goals at random moments and notes their course.

    Args:
        clients: take turns.
        rate: goals a second; 0 = all at once.
        most: goals in all; 0 = until told to stop.
        scale: multiplies output tokens; 0 = short goals without bounds.
    """

    def __init__(
        self, node: Node, clients: Sequence[SliceClient], notes: Notes, rng: random.Random, rate: float, most: int, scale: float
    ) -> None:
        self._clients, self._notes, self._rng, self._rate, self._most, self._scale = clients, notes, rng, rate, most, scale
        self._due_s = time.monotonic()
        self.sent = 0
        self.open: set[Generation] = set()
        self._node = node

    @property
    def has_sent_all(self) -> bool:
        return bool(self._most) and self.sent >= self._most

    def send_due(self) -> float:
        """Send what is due; seconds until the next one is."""
        while not self.has_sent_all:
            if self._rate > 0:
                if time.monotonic() < self._due_s:
                    return self._due_s - time.monotonic()
                self._due_s += self._rng.expovariate(self._rate)
            self._send()
        return 0.1

    def _send(self) -> None:
        words, fields = draw(self._rng, self._scale)
        if not self._scale:
            fields |= {"label": "burst", "slo": BestEffort(), "max_tokens": 4}
        sent_s = time.monotonic()
        generation = self._clients[self.sent % len(self._clients)].send(words, **fields)
        self._notes.sent(generation.goal_id, sent_s, {"label": fields["label"], "max_tokens": fields["max_tokens"]})
        self.sent += 1
        self.open.add(generation)
        executor = self._node.executor
        assert executor is not None
        executor.create_task(self._follow(generation))

    async def _follow(self, generation: Generation) -> None:
        seen = False
        try:
            async for _ in generation:
                if not seen:
                    seen = True
                    self._notes.first(generation.goal_id, time.monotonic())
        except Exception:  # the end says it
            pass
        self.open.discard(generation)
        end, now_s = generation.end, time.monotonic()
        if isinstance(end, Answer):
            self._notes.ended(generation.goal_id, now_s, "NONE", "", end.report)
        elif end is not None:
            self._notes.ended(generation.goal_id, now_s, end.code.name, end.message, end.report)
        else:
            self._notes.ended(generation.goal_id, now_s, "no end", "the iteration ended before the goal", SloReport())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=2.0)
    parser.add_argument("--goals", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies output tokens; 0 = short goals without bounds")
    parser.add_argument("--clients", type=int, default=1, help="nodes of this process that take turns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start-when", type=Path, help="a file that is waited for; the one of records is there when this client is ready")
    parser.add_argument("--patience", type=float, default=60.0)
    arguments = parser.parse_args(argv)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    stop = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    # Without parameter services, as rclpy's end the process of a node that is asked for a type which there is not.
    nodes = [rclpy.create_node(f"load_{arguments.seed}_{i}", start_parameter_services=False) for i in range(arguments.clients)]
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    clients = [SliceClient(node, f"/{arguments.server}") for node in nodes]
    try:
        for client in clients:
            client.wait_for_server(arguments.patience)
        with arguments.records.open("a") as file:
            _spin(executor, lambda: stop or arguments.start_when is None or arguments.start_when.exists())
            rng = random.Random(arguments.seed)
            load = Load(nodes[0], clients, Notes(file), rng, arguments.rate, arguments.goals, arguments.scale)
            while not stop and not load.has_sent_all:
                executor.spin_once(timeout_sec=min(0.1, max(0.0, load.send_due())))
            deadline_s = time.monotonic() + arguments.patience
            _spin(executor, lambda: not load.open or time.monotonic() >= deadline_s)
            return 1 if load.open else 0
    finally:
        for client, node in zip(clients, nodes, strict=True):
            client.destroy()
            node.destroy_node()
        rclpy.try_shutdown()


def _spin(executor: SingleThreadedExecutor, condition: Callable[[], bool]) -> None:
    while not condition():
        executor.spin_once(timeout_sec=0.02)


if __name__ == "__main__":
    sys.exit(main())
