"""Control goals over the action and agents over HTTP, both on one model: through server and gateway, and beside llama-server.

    python benchmarks/both.py --shape smollm2-135m --threads 2 --rate 2 --agents 2 --json both.json

Three ways to serve both: one slice_server with the gateway before it; a slice_server for control and a llama-server for the agents, on
the same machine; one llama-server for everything. And control alone, which no way can do better than. The agents converse: each question
follows the answer before it, with all of the conversation. They name no SLO.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import rclpy
import yardstick
from engine import shaped_model
from peers import NODE, LlamaServer, PeerError, Server, add_servers, free_port, llama_server, running, slice_server
from rich.console import Console
from rich.table import Table

from slice_ros.bench.replay import write_prompts
from slice_ros.bench.simulate import Outcome
from slice_ros.bench.sweep import Case
from slice_ros.bench.workload import Arrival
from slice_ros.bench.workload_file import DEFAULT_WORKLOAD, load_workload
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.loading import physical_cores
from slice_ros.scheduling.engine import EngineError

TURNS = 4
"""Questions of a conversation; then another one begins."""
SYSTEM_WORDS, QUESTION_WORDS = 120, 20
ANSWER_TOKENS = 64
THINK_S = 0.2
"""Between an answer and the next question, as while a tool is called."""
WAYS = ("control alone", "one slice_server and the gateway", "slice_server, and llama-server for the agents", "one llama-server")


@dataclass(slots=True)
class Agents:
    """What agents got. Times in seconds."""

    answers: int = 0
    tokens: int = 0
    failed: int = 0
    ttft_s: list[float] = field(default_factory=list)


class Conversations:
    """Agents that converse with an OpenAI-compatible server, in a thread and loop of their own, until they are told to stop.

    Args:
        port: of the server, on this machine.
        agents: how many.
        seed: of what they say.
    """

    def __init__(self, port: int, agents: int, seed: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.got = Agents()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all(agents, seed)))
        self._thread.start()

    def stop(self) -> Agents:
        self._over.set()
        self._thread.join()
        return self.got

    async def _all(self, agents: int, seed: int) -> None:
        tasks = [asyncio.create_task(self._agent(random.Random(f"{seed} {i}"))) for i in range(agents)]
        await asyncio.get_running_loop().run_in_executor(None, self._over.wait)
        for task in tasks:
            task.cancel()
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(end, asyncio.CancelledError):
                raise PeerError(f"an agent ended: {end!r}")

    async def _agent(self, rng: random.Random) -> None:
        messages: list[dict[str, str]] = []
        while True:
            if len(messages) in (0, 1 + 2 * TURNS):
                messages = [{"role": "system", "content": _words(rng, SYSTEM_WORDS)}]
            messages.append({"role": "user", "content": _words(rng, QUESTION_WORDS)})
            messages.append({"role": "assistant", "content": await self._ask(messages)})
            await asyncio.sleep(THINK_S)

    async def _ask(self, messages: Sequence[dict[str, str]]) -> str:
        asked = {"model": "default", "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0, "stream": True}
        asked["stream_options"] = {"include_usage": True}
        body = json.dumps(asked).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        pieces, began_s = [], time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
            if b" 200 " not in await reader.readline():
                self.got.failed += 1
                return "?"
            async for line in reader:
                event = json.loads(line[6:]) if line.startswith(b"data: {") else {}
                for choice in event.get("choices", ()):
                    if piece := choice["delta"].get("content"):
                        if not pieces:
                            self.got.ttft_s.append(time.monotonic() - began_s)
                        pieces.append(piece)
                self.got.tokens += (event.get("usage") or {}).get("completion_tokens", 0)
        finally:
            writer.close()
        self.got.answers += 1
        return "".join(pieces)


def _words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices("abcdefghij", k=4)) for _ in range(count))


@contextmanager
def gateway() -> Iterator[int]:
    """The port of a gateway before the slice_server, ready.

    Raises:
        PeerError: it does not come up.
    """
    port = free_port()
    command = [sys.executable, "-m", "slice_ros.cli", "gateway", "--server", f"/{NODE}", "--port", str(port)]
    with running(command, dict(os.environ)) as process:
        LlamaServer(port).wait_until_ready(process)  # both tell it on /health
        yield port


@dataclass(frozen=True, slots=True)
class Row:
    """One way's figures. Times in ms.

    Args:
        goals, attained: control goals, and how many met every bound.
        ttft_p50_ms, end_p50_ms, end_p99_ms: of those that completed.
        answers, failed, tokens_per_s, agent_ttft_p50_ms: of the agents.
    """

    way: str
    goals: int
    attained: int
    ttft_p50_ms: float
    end_p50_ms: float
    end_p99_ms: float
    answers: int
    failed: int
    tokens_per_s: float
    agent_ttft_p50_ms: float


def row_of(way: str, outcomes: Sequence[Outcome], got: Agents, took_s: float) -> Row:
    ends = sorted(outcome.report.e2e_s for outcome in outcomes if outcome.report.e2e_s == outcome.report.e2e_s)
    firsts = [outcome.report.ttft_s for outcome in outcomes if outcome.report.ttft_s == outcome.report.ttft_s]
    nan = float("nan")
    return Row(
        way,
        len(outcomes),
        sum(outcome.report.attained for outcome in outcomes),
        1e3 * median(firsts) if firsts else nan,
        1e3 * median(ends) if ends else nan,
        1e3 * ends[min(len(ends) - 1, int(0.99 * len(ends)))] if ends else nan,
        got.answers,
        got.failed,
        got.tokens / took_s,
        1e3 * median(got.ttft_s) if got.ttft_s else nan,
    )


def run(way: str, control: Server, port: int | None, arrivals: Sequence[Arrival], agents: int, seed: int) -> Row:
    """Serve the control goals while agents converse with the port, if there is one."""
    began_s = time.monotonic()
    conversations = Conversations(port, agents, seed) if port is not None else None
    try:
        outcomes = control.serve(arrivals)
    finally:
        took_s = time.monotonic() - began_s
        got = conversations.stop() if conversations is not None else Agents()
    return row_of(way, outcomes, got, took_s)


def measure(arguments: argparse.Namespace, console: Console) -> list[Row]:
    """A row for each way.

    Raises:
        PeerError: a server cannot be started.
        YardstickError: llama-server cannot be built.
        EngineError: the model cannot be loaded.
    """
    workload = load_workload(arguments.workload)
    writer = LlamaEngine(LlamaConfig(arguments.model, n_ctx=arguments.context, n_seq_max=1, n_threads=arguments.threads, n_gpu_layers=0))
    case = Case(arguments.policy, workload, arguments.rate, arguments.seed, arguments.duration, arguments.bounds_scale, rt_alone=True)
    # The same goals for each, with other letters, so that no server finds a prompt of an earlier run in its cache.
    traffic = [write_prompts(writer, case.traffic(), seed) for seed, _ in enumerate(WAYS)]
    writer.shutdown()
    rows: list[Row] = []

    def tell(way: str, control: Server, port: int | None) -> None:
        console.print(way, highlight=False)
        rows.append(run(way, control, port, traffic[len(rows)], arguments.agents, arguments.seed))

    with slice_server(arguments) as control:
        tell(WAYS[0], control, None)
        with gateway() as port:
            tell(WAYS[1], control, port)
        with llama_server(arguments) as agents:
            tell(WAYS[2], control, agents.port)
    with llama_server(arguments) as everything:
        tell(WAYS[3], everything, everything.port)
    return rows


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table(title="control goals, and agents beside them", padding=(0, 1))
    for name in ("", "attained", "TTFT\np50 ms", "end\np50 ms", "end\np99 ms", "agents'\nanswers", "failed", "tokens/s", "TTFT\np50 ms"):
        table.add_column(name, justify="right" if name else "left")
    for row in rows:
        times = (f"{ms:.0f}" for ms in (row.ttft_p50_ms, row.end_p50_ms, row.end_p99_ms))
        agents = (str(row.answers), str(row.failed), f"{row.tokens_per_s:.1f}", f"{row.agent_ttft_p50_ms:.0f}")
        table.add_row(row.way, f"{row.attained} of {row.goals}", *times, *agents)
    console.print(table)


def main() -> int:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")  # all are on this machine
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_servers(parser, "GGUF file, with a chat template")
    parser.add_argument(
        "--workload", default=DEFAULT_WORKLOAD, metavar="NAME", help="whose real-time goals are sent (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, default=1.0, metavar="HZ", help="goals of the workload a second (default: %(default)s)")
    parser.add_argument("--agents", type=int, default=2, metavar="N", help="that converse all the time (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=60.0, metavar="S", help="how long goals arrive (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic (default: %(default)s)")
    parser.add_argument("--bounds-scale", type=float, default=1.0, metavar="FACTOR", help="multiply every SLO bound (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one object for each way")
    arguments = parser.parse_args()
    rclpy.init()
    try:
        arguments.threads = arguments.threads or physical_cores()
        arguments.model = arguments.model or shaped_model(arguments.shape, arguments.type)
        rows = measure(arguments, Console(stderr=True))
    except (PeerError, yardstick.YardstickError, EngineError, OSError) as error:
        print(f"both: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    show(rows, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
