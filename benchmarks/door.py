"""What the gateway costs against the action: time added to a first token, and processor time for each token.

    python benchmarks/door.py --requests 100 --streams 1,20,200

The same goals go over the action, from this process, and over HTTP through a gateway, in turns, to one server on a virtual device, so that
nothing but the ways differ. Added to a first token is what its client waits beyond the TTFT that the server reports.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.table import Table

from reliability.processes import Gateway, Server
from slice_ros.client import Generation, SliceClient

NAME = "door_bench"
TOKENS = 64
PROMPT = "where is the dock?"
READY_S = 90.0


@dataclass(frozen=True, slots=True)
class Waited:
    """One stream, in ms: its first token at the client, beyond what the server reports, and of how many tokens it was."""

    added_ms: float
    tokens: int


class Action:
    """Streams over the action, of a node that has a thread of its own."""

    def __init__(self) -> None:
        self._node = rclpy.create_node("door_bench_client")
        self._client = SliceClient(self._node, f"/{NAME}")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()
        self._client.wait_for_server(READY_S)

    async def stream(self) -> Waited:
        loop, news, first_s = asyncio.get_running_loop(), asyncio.Event(), 0.0
        began_s = time.monotonic()
        generation: Generation = self._client.stream(PROMPT, max_tokens=TOKENS)
        generation.listen(lambda: loop.call_soon_threadsafe(news.set))
        while not generation.done:
            await news.wait()
            news.clear()
            if any(generation.take()) and not first_s:
                first_s = time.monotonic()
        report = generation.answer().report
        return Waited(1e3 * (first_s - began_s - report.ttft_s), report.output_tokens)

    def close(self) -> None:
        self._client.destroy()
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()


class Door:
    """Streams over HTTP, each on a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def stream(self) -> Waited:
        asked = {"model": "default", "prompt": PROMPT, "max_tokens": TOKENS, "stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(asked).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        began_s, first_s, usage = time.monotonic(), 0.0, {}
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        async for line in reader:
            if line.startswith(b"data: {"):
                first_s = first_s or time.monotonic()
                usage = json.loads(line[6:]).get("usage") or usage
        writer.close()
        return Waited(1e3 * (first_s - began_s) - usage["slo"]["ttft_ms"], usage["completion_tokens"])


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(requests: int, streams: Sequence[int], server: Server, gateway: Gateway) -> list[tuple[str, ...]]:
    """Rows of the table."""
    action, door = Action(), Door(gateway.port)
    node, at_door, here = psutil.Process(server.pid), psutil.Process(gateway.pid), psutil.Process()
    rows = []

    async def together(way: Action | Door, count: int) -> list[Waited]:
        return await asyncio.gather(*(way.stream() for _ in range(count)))

    def spent(way: Action | Door, count: int, of: Sequence[psutil.Process]) -> tuple[list[float], list[float], list[float]]:
        before = [cpu_s(process) for process in of]
        got = asyncio.run(together(way, count))
        tokens = sum(waited.tokens for waited in got)
        return [waited.added_ms for waited in got], [tokens], [cpu_s(process) - was for process, was in zip(of, before, strict=True)]

    try:
        for way in (action, door):
            asyncio.run(together(way, 2))  # readers and writers find each other
        for count in streams:
            found: dict[str, tuple[list[float], float, list[float]]] = {"action": ([], 0.0, [0.0, 0.0]), "gateway": ([], 0.0, [0.0, 0.0])}
            for _ in range(max(1, requests // count)):
                for name, way, of in (("action", action, (here, node)), ("gateway", door, (at_door, node))):
                    added, tokens, cpu = spent(way, count, of)
                    was = found[name]
                    found[name] = (was[0] + added, was[1] + tokens[0], [a + b for a, b in zip(was[2], cpu, strict=True)])
            for name, (added, total, cpu) in found.items():
                added.sort()
                times = f"{median(added):.1f} ({added[0]:.1f} to {added[-1]:.1f})"
                rows.append((str(count), name, str(len(added)), times, *(f"{1e6 * seconds / total:.0f}" for seconds in cpu)))
    finally:
        action.close()
    return rows


def main() -> int:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100, metavar="N", help="of each kind (default: %(default)s)")
    parser.add_argument("--streams", default="1,20,200", metavar="N,...", help="at once (default: %(default)s)")
    parser.add_argument("--device-profile", default="rtx4060ti-chatglm2-6b-int4", metavar="NAME", help="whose speed is imitated")
    arguments = parser.parse_args()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # its own would end the client's thread, and streams wait for ever
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as folder:
        server = Server(NAME, Path(folder, "server"), ("--engine", "simulated", "--device-profile", arguments.device_profile))
        gateway = Gateway(NAME, Path(folder, "gateway"))
        try:
            server.start()
            gateway.start()
            gateway.wait_for_port(READY_S)
            rows = measure(arguments.requests, [int(count) for count in arguments.streams.split(",")], server, gateway)
        finally:
            gateway.stop()
            server.stop()
            rclpy.try_shutdown()
    table = Table(title="what either way adds", padding=(0, 1))
    for name in (
        "at once",
        "way",
        "streams",
        "first token later,\nms: median (range)",
        "client's or gateway's\nCPU, µs a token",
        "server's CPU,\nµs a token",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
