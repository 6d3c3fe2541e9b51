"""This package's server against llama.cpp's own llama-server: the same goals, in real time, each through the interface it has.

    python benchmarks/peers.py --shape smollm2-135m --threads 2 --rates 0.5,1,2 --json peers.json --plot peers.png
    python benchmarks/peers.py --shape smollm2-135m --threads 1 --rates 1,1.5,2 --bounds-scale auto --repeat 3 --json peers.json

    python benchmarks/peers.py --model SmolLM2-135M-Instruct.Q4_1.gguf --structured --threads 2 --rates 1,2,3,4 --repeat 3

Goals go to slice_server as actions over DDS, to llama-server as streaming HTTP requests. Both run the same model file with as many
threads, KV cells and sequences. Neither is told how long an answer is, only its class's ``max_tokens``: the client hangs up once it has
the tokens it wants, by a cancel request here and by closing the connection there. Tokens are timed where they arrive.

With ``--structured``, real-time goals are questions whose answers have a JSON schema and end by themselves. One more slice_server then
draws each token in a step of its own, also those that the schema forces, and guesses none.

With ``--python-server``, the server among llama-cpp-python's examples is asked, too. It tells no token ids: one event counts as one token.

With ``--repeat`` each rate is run so often, each time with a seed of its own; the servers take turns at being first. The table shows
medians and ranges.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import rclpy
import yardstick
from engine import shaped_model
from forms import MOST_TOKENS, forms
from gguf import GGUFReader
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rich.console import Console
from rich.table import Table

from slice_ros.bench import plots
from slice_ros.bench.replay import write_prompts
from slice_ros.bench.rows import Row, write_rows
from slice_ros.bench.simulate import Outcome
from slice_ros.bench.sweep import Case, fitting_bounds_scale, row_of
from slice_ros.bench.workload import Arrival, Workload
from slice_ros.bench.workload_file import DEFAULT_WORKLOAD, load_workload
from slice_ros.engines.calibration import measure_latency
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.architectures import SHAPES
from slice_ros.engines.llama.loading import device_name, physical_cores
from slice_ros.engines.llama.shapes import QUANTIZATIONS
from slice_ros.goal import ChatMessage, ErrorCode, FinishReason, GoalRequest
from slice_ros.ros import qos
from slice_ros.ros.conversions import message_msg, slo_msg
from slice_ros.ros.interfaces import Generate, SloStatus
from slice_ros.scheduling.engine import EngineError
from slice_ros.scheduling.task import Task

READY_S = 600.0
"""How long a server may take to load its model and measure its steps."""
ENDED_S = 300.0
"""How long goals may go on after the last one was sent."""
NODE = "peers_slice_server"
EACH_DRAWN = Path(__file__).with_name("each_drawn")
AUTO = "auto"


class PeerError(Exception):
    """A server cannot be started, or ended; the message says how."""


class Server(Protocol):
    """Takes goals."""

    def serve(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """Send each goal at its time; what became of them, in order of arrival."""


@dataclass(slots=True)
class Sent:
    """A goal that was sent at its time.

    Args:
        at_s: reading of the monotonic clock.
        token_times_s: readings when the tokens that it wants arrived.
        has_ended: its answer came to an end by itself.
    """

    arrival: Arrival
    at_s: float
    token_times_s: list[float] = field(default_factory=list)
    has_ended: bool = False

    @property
    def is_structured(self) -> bool:
        return bool(self.arrival.request.json_schema)

    @property
    def completed(self) -> bool:
        """Whether all that it wants has arrived: so many tokens, or of a structured answer its end."""
        return self.has_ended if self.is_structured else len(self.token_times_s) == self.arrival.lengths.output_tokens

    def arrived(self, tokens: int) -> None:
        """So many tokens in all have arrived by now."""
        wanted = tokens if self.is_structured else min(tokens, self.arrival.lengths.output_tokens)
        self.token_times_s += [time.monotonic()] * (wanted - len(self.token_times_s))

    def outcome(self) -> Outcome:
        """The same verdict as the scheduler's."""
        request = replace(self.arrival.request, submitted_s=self.at_s)
        task = Task.of(request, self.arrival.lengths.prompt_tokens, order=0)
        task.token_times_s = self.token_times_s
        began_s = self.at_s - self.arrival.time_s
        code = ErrorCode.NONE if self.completed else ErrorCode.INTERNAL
        return Outcome(self.arrival, task.report(completed=self.completed), code, tuple(t - began_s for t in self.token_times_s))


# ---- this package's server


class SliceServer:
    """Goals as actions of a ``slice_server`` in a process of its own.

    Args:
        name: of its node.
    """

    def __init__(self, name: str) -> None:
        self._node = rclpy.create_node(f"client_of_{name}")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        deep = {f"{name}_qos_profile": qos.SERVICE for name in ("goal_service", "result_service", "cancel_service", "feedback_sub")}
        self._client = ActionClient(self._node, Generate, f"/{name}/generate", **deep)
        self._state = ""
        self._node.create_subscription(SloStatus, f"/{name}/slo_status", self._hear, 1)

    def _hear(self, status: SloStatus) -> None:
        self._state = status.engine_state

    def wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        until_s = time.monotonic() + READY_S
        while self._state != "ready":
            if process.poll() is not None or time.monotonic() > until_s:
                raise PeerError(f"slice_server is {self._state or 'silent'} and its exit status {process.poll()}; its log is above")
            self._executor.spin_once(timeout_sec=0.1)

    def serve(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        start_s = time.monotonic()
        due = deque(Sent(arrival, start_s + arrival.time_s) for arrival in arrivals)
        goals = list(due)
        open_goals: set[str] = set()
        until_s = start_s + arrivals[-1].time_s + ENDED_S
        while (due or open_goals) and time.monotonic() < until_s:
            while due and due[0].at_s <= time.monotonic():
                self._send(due.popleft(), open_goals)
            self._executor.spin_once(timeout_sec=min(0.1, max(0.0, due[0].at_s - time.monotonic())) if due else 0.1)
        return [goal.outcome() for goal in goals]

    def _send(self, goal: Sent, open_goals: set[str]) -> None:
        request = goal.arrival.request
        message = Generate.Goal(
            prompt=request.prompt,
            messages=[message_msg(message) for message in request.messages],
            json_schema=request.json_schema,
            slo=slo_msg(request.slo),
            max_tokens=request.max_tokens,
            label=request.label,
        )

        def heard(message: Generate.Impl.FeedbackMessage) -> None:
            was_completed = goal.completed
            goal.arrived(message.feedback.tokens)
            if goal.completed and not was_completed:  # feedback may come before the answer to the goal
                sent.add_done_callback(lambda future: future.result().cancel_goal_async())

        def answered(future: rclpy.task.Future) -> None:
            handle = future.result()
            if handle.accepted:
                handle.get_result_async().add_done_callback(ended)
            else:
                open_goals.discard(request.goal_id)

        def ended(future: rclpy.task.Future) -> None:
            result = future.result().result
            goal.arrived(result.report.output_tokens)
            goal.has_ended = result.finish_reason == FinishReason.STOP.value
            open_goals.discard(request.goal_id)

        open_goals.add(request.goal_id)
        sent = self._client.send_goal_async(message, feedback_callback=heard)
        sent.add_done_callback(answered)

    def close(self) -> None:
        self._client.destroy()
        self._executor.shutdown()
        self._node.destroy_node()


@contextmanager
def slice_server(arguments: argparse.Namespace, *, each_drawn: bool = False) -> Iterator[SliceServer]:
    """A server of this package, ready.

    Args:
        each_drawn: each token takes a step of its own: none is forced without one, and none guessed.

    Raises:
        PeerError: it does not come up.
    """
    name, environment = NODE, dict(os.environ)
    if each_drawn:
        name = f"{NODE}_each_drawn"
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(EACH_DRAWN), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "slice_ros.cli", "serve", "--name", name, "--model", str(arguments.model)]
    command += ["--n-ctx", str(arguments.context), "--n-threads", str(arguments.threads), "--n-gpu-layers", str(arguments.gpu_layers)]
    command += ["--max-batch", str(arguments.parallel), "--policy", arguments.policy, "-p", f"context.n_seq_max:={arguments.sequences}"]
    if each_drawn:
        command += ["-p", "scheduler.max_draft:=0"]
    with running(command, environment) as process:
        server = SliceServer(name)
        try:
            server.wait_until_ready(process)
            yield server
        finally:
            server.close()


# ---- servers that speak HTTP


class LlamaServer:
    """Goals as requests to a ``llama-server`` on this machine."""

    health = "/health"

    def __init__(self, port: int) -> None:
        self.port = port

    def _asked(self, goal: Sent) -> tuple[str, dict[str, Any]]:
        """Where to send a goal, and what to send, beside its answer's length."""
        return "/completion", {
            "prompt": goal.arrival.request.prompt,
            "n_predict": goal.arrival.request.max_tokens,
            "ignore_eos": True,
            "return_tokens": True,
        }

    def _told(self, event: dict[str, Any]) -> int:
        """Tokens that an event brings."""
        return len(event.get("tokens", ()))

    def serve(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        return asyncio.run(self._serve(arrivals))

    async def _serve(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        start_s = time.monotonic()
        goals = [Sent(arrival, start_s + arrival.time_s) for arrival in arrivals]
        tasks = [asyncio.create_task(self._complete(goal)) for goal in goals]
        await asyncio.wait(tasks, timeout=arrivals[-1].time_s + ENDED_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [goal.outcome() for goal in goals]

    async def _complete(self, goal: Sent) -> None:
        """Send a goal at its time and take its tokens in: server-sent events, each a ``data:`` line with a JSON object."""
        await asyncio.sleep(max(0.0, goal.at_s - time.monotonic()))
        path, asked = chat_completion(goal.arrival.request) if goal.is_structured else self._asked(goal)
        body = json.dumps({"temperature": 0.0, "stream": True, **asked}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return
        try:
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
            async for line in reader:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    (choice,) = event.get("choices") or ({},)
                    new = bool(choice.get("delta", {}).get("content")) if goal.is_structured else self._told(event)
                    goal.arrived(len(goal.token_times_s) + new)
                    goal.has_ended = choice.get("finish_reason") == "stop"
                    if goal.completed:
                        break
        except OSError:
            pass  # what has arrived counts
        finally:
            writer.close()

    def wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        until_s = time.monotonic() + READY_S
        while not asyncio.run(self._is_healthy()):
            if process.poll() is not None or time.monotonic() > until_s:
                raise PeerError(f"the server on port {self.port} is not healthy and its exit status {process.poll()}; its log is above")
            time.sleep(0.2)

    async def _is_healthy(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(f"GET {self.health} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            line = await reader.readline()
            writer.close()
        except OSError:
            return False
        return b" 200 " in line


def chat_completion(request: GoalRequest) -> tuple[str, dict[str, Any]]:
    """A goal's question with its schema, as in OpenAI's interface; an event's new content counts as one token."""
    schema = {"name": "answer", "schema": json.loads(request.json_schema)}
    return "/v1/chat/completions", {
        "model": "default",
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": request.max_tokens,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


class PythonServer(LlamaServer):
    """Goals as requests to the server among llama-cpp-python's examples.

    Args:
        ends: tokens that end an answer, which it must not write.
    """

    health = "/healthz"

    def __init__(self, port: int, ends: Sequence[int]) -> None:
        super().__init__(port)
        self._never = {str(token): -1e9 for token in ends}

    def _asked(self, goal: Sent) -> tuple[str, dict[str, Any]]:
        request = goal.arrival.request
        return "/v1/completions", {"prompt": request.prompt, "max_tokens": request.max_tokens, "logit_bias": self._never}

    def _told(self, _: dict[str, Any]) -> int:
        return 1


@contextmanager
def llama_server(arguments: argparse.Namespace) -> Iterator[LlamaServer]:
    """A llama-server, ready.

    Raises:
        PeerError: it does not come up.
        YardstickError: it cannot be built.
    """
    port = free_port()
    gpu_layers = arguments.gpu_layers if arguments.gpu_layers >= 0 else 999
    command = [yardstick.program("llama-server"), "-m", str(arguments.model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-c", str(arguments.context), "--kv-unified", "--parallel", str(arguments.parallel), "-b", "512", "-ub", "512"]
    command += ["-t", str(arguments.threads), "-tb", str(arguments.threads), "-ngl", str(gpu_layers), "--no-webui", "--log-disable"]
    with running(command, yardstick.environment()) as process:
        server = LlamaServer(port)
        server.wait_until_ready(process)
        yield server


@contextmanager
def python_server(arguments: argparse.Namespace) -> Iterator[PythonServer]:
    """llama-cpp-python's server, ready.

    Raises:
        PeerError: it does not come up.
        YardstickError: it cannot be had.
    """
    port = free_port()
    model = {
        "path": str(arguments.model),
        "alias": "default",
        "n_ctx": arguments.context,
        "n_seq_max": arguments.parallel,
        "kv_unified": True,
        "n_batch": 512,
        "n_ubatch": 512,
        "threads": arguments.threads,
        "threads_batch": arguments.threads,
        "n_gpu_layers": arguments.gpu_layers,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"server": {"host": "127.0.0.1", "port": port}, "model": model}, file)
        file.flush()
        command, environment = yardstick.python_server()
        with running([*command, "-C", file.name], environment) as process:
            server = PythonServer(port, ends_of(arguments.model))
            server.wait_until_ready(process)
            yield server


def ends_of(model: Path) -> list[int]:
    """Tokens that end an answer, as the model's file names them."""
    fields = GGUFReader(model).fields
    names = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    return sorted({int(fields[name].contents()) for name in names if name in fields})


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def running(command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ---- both


def measure(arguments: argparse.Namespace, console: Console) -> list[Row]:
    """A row for each run: of each rate and server, and of this package's server with real-time goals alone.

    Raises:
        PeerError: a server cannot be started.
        YardstickError: llama-server cannot be built.
        EngineError: the model cannot be loaded.
    """
    workload = load_workload(arguments.workload)
    config = LlamaConfig(arguments.model, n_ctx=arguments.context, n_seq_max=1, n_threads=arguments.threads, n_gpu_layers=0)
    scale = bounds_scale(arguments, workload)
    console.print(f"every SLO bound times {scale:g}", highlight=False)
    writer = LlamaEngine(config)
    peers: dict[str, Callable[[], AbstractContextManager[Server]]] = {"llama-server": partial(llama_server, arguments)}
    if arguments.python_server:
        peers["llama-cpp-python"] = partial(python_server, arguments)
    if arguments.structured:
        peers[f"{arguments.policy}, each drawn"] = partial(slice_server, arguments, each_drawn=True)
    peers[arguments.policy] = partial(slice_server, arguments)
    cases = in_turn(workload, arguments, scale, list(peers))
    # Other letters in each, so that no server finds a prompt of an earlier run in its cache.
    traffic = [write_prompts(writer, case.traffic(), seed) for seed, case in enumerate(cases)]
    if arguments.structured:
        traffic = [structured(arrivals, case.seed) for arrivals, case in zip(traffic, cases, strict=True)]
    writer.shutdown()
    device = device_name(replace(config, n_gpu_layers=arguments.gpu_layers))
    rows: list[Row] = []
    with ExitStack() as stack:
        servers = {name: stack.enter_context(server()) for name, server in peers.items()}
        for case, arrivals in zip(cases, traffic, strict=True):
            alone = ", real-time goals alone" * case.rt_alone
            console.print(f"{case.rate_hz:g} goals/s to {case.policy}{alone}, seed {case.seed}", highlight=False)
            began_s = time.monotonic()
            outcomes = servers[case.policy].serve(arrivals) if arrivals else []
            rows.append(row_of(case, "llama", device, outcomes, time.monotonic() - began_s))
            if arguments.json:
                write_rows(arguments.json, rows)
    return rows


def bounds_scale(arguments: argparse.Namespace, workload: Workload) -> float:
    """The factor on all bounds: the one given, or the smallest with which each class's goals meet theirs alone on this machine."""
    if arguments.bounds_scale != AUTO:
        return float(arguments.bounds_scale)
    sizes = {"n_ctx": arguments.context, "n_seq_max": arguments.parallel}
    engine = LlamaEngine(LlamaConfig(arguments.model, n_threads=arguments.threads, n_gpu_layers=arguments.gpu_layers, **sizes))
    try:
        return fitting_bounds_scale(workload, measure_latency(engine, max_batch=arguments.parallel))
    finally:
        engine.shutdown()


def structured(arrivals: Sequence[Arrival], seed: int) -> list[Arrival]:
    """The same traffic, whose real-time goals ask for the answers of ``forms`` in turn, after the prompts that they had.

    None asks for a pose: its numbers have no bounds, and a small model may not end one.
    """
    asked = {name: form for name, form in forms(len(arrivals), seed).items() if name != "pose"}
    turns = cycle(asked.items())
    changed = []
    for i, arrival in enumerate(arrivals):
        request = arrival.request
        if request.slo.is_real_time:
            name, (prompts, schema) = next(turns)
            request = replace(
                request,
                prompt="",
                messages=(ChatMessage("user", f"{request.prompt}\n{prompts[i]}"),),
                json_schema=json.dumps(schema),
                label=name,
                max_tokens=MOST_TOKENS,
            )
        changed.append(replace(arrival, request=request))
    return changed


def in_turn(workload: Workload, arguments: argparse.Namespace, scale: float, servers: Sequence[str]) -> list[Case]:
    """Each rate as often as asked for, with a seed each time, and another server first; the last one with real-time goals alone, too."""
    runs = [*((name, False) for name in servers), (servers[-1], True)]
    return [
        Case(name, workload, rate_hz, arguments.seed + repeat, arguments.duration, scale, rt_alone=alone)
        for rate_hz in arguments.rates
        for repeat in range(arguments.repeat)
        for name, alone in (*runs[repeat % len(runs) :], *runs[: repeat % len(runs)])
    ]


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the runs, those of a rate and server together."""
    title = "share of goals that met every bound; ms of real-time goals"
    several = "\nof several runs: median, least, greatest" if len({row.seed for row in rows}) > 1 else ""
    table = Table(title=title + several, padding=(0, 0))
    for name in ("goals/s", "server", "all", "RT", "BE", "TTFT\np50", "TTFT\np99", "TPOT\np99", "end", "failed"):
        table.add_column(name, justify="left" if name == "server" else "right", no_wrap=True)
    for rate_hz in dict.fromkeys(row.rate_hz for row in rows):
        table.add_section()
        of_rate = [row for row in rows if row.rate_hz == rate_hz]
        for policy, alone in sorted({(row.policy, row.rt_alone) for row in of_rate}, key=lambda server: (server[1], server[0])):
            runs = [row for row in of_rate if (row.policy, row.rt_alone) == (policy, alone)]
            shares = ("attainment", "attainment_rt", "attainment_be")
            times = ("ttft_ms_p50_rt", "ttft_ms_p99_rt", "tpot_ms_p99_rt")
            table.add_row(
                f"{rate_hz:g}",
                f"{policy}{', RT alone' * alone}",
                *(told([getattr(row, name) for row in runs], 3) for name in shares),
                *(told([getattr(row, name) for row in runs], 0) for name in times),
                told([1e3 * row.e2e_s_mean_rt for row in runs], 0),
                str(sum(row.failed for row in runs)),
            )
    console.print(table)


def told(values: Sequence[float], digits: int) -> str:
    """One value, or of several the median, the least and the greatest, one below the other."""
    several = (statistics.median(values), min(values), max(values)) if len(values) > 1 else values
    return "\n".join(f"{value:.{digits}f}" for value in several)


def factor(text: str) -> str:
    """What ``--bounds-scale`` takes.

    Raises:
        ArgumentTypeError: it is neither a number above 0 nor auto.
    """
    try:
        right = text == AUTO or 0.0 < float(text) < 1e4
    except ValueError:
        right = False
    if not right:
        raise argparse.ArgumentTypeError(f"it is {text!r}; it must be a number above 0, or auto")
    return text


def add_servers(parser: argparse.ArgumentParser, model_help: str) -> None:
    """Give a benchmark the options that say which model servers have, and how much of the machine."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", type=Path, metavar="PATH", help=model_help)
    model.add_argument("--shape", choices=sorted(SHAPES), help="a model of that public shape with random weights")
    parser.add_argument("--type", default="q4_0", choices=sorted(QUANTIZATIONS), help="type of its matrices (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of llama.cpp in each server; 0 = the physical cores (default)")
    parser.add_argument("--gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU, if there is one; -1 = all (default)")
    parser.add_argument("--context", type=int, default=8192, metavar="TOKENS", help="KV cells of each server (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=16, metavar="N", help="goals in one step at most (default: %(default)s)")
    parser.add_argument(
        "--sequences",
        type=int,
        default=64,
        metavar="N",
        help="goals that slice_server may hold KV of, to pause them (default: %(default)s)",
    )
    parser.add_argument("--policy", default="slack", help="of slice_server (default: %(default)s)")


def main() -> int:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")  # both sides are on this machine
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_servers(parser, "GGUF file; slice_server's answers may end early with one that ends them")
    parser.add_argument("--workload", default=DEFAULT_WORKLOAD, metavar="NAME", help="as for slice-ros bench (default: %(default)s)")
    parser.add_argument(
        "--rates", type=lambda text: [float(rate) for rate in text.split(",")], default=[0.5, 1.0, 2.0], metavar="HZ,...",
        help="goals a second (default: 0.5,1,2)",
    )  # fmt: skip
    parser.add_argument("--duration", type=float, default=60.0, metavar="S", help="how long goals arrive (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="runs of each rate, with seeds from --seed on (default: %(default)s)"
    )
    parser.add_argument(
        "--bounds-scale", type=factor, default="1", metavar="FACTOR",
        help="multiply every SLO bound; auto = as little as lets goals meet theirs alone (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--structured", action="store_true", help="real-time goals ask for JSON; with an instruct model")
    parser.add_argument("--python-server", action="store_true", help="ask llama-cpp-python's server, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one row for each run, as slice-ros bench does")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw attainment against the rate")
    arguments = parser.parse_args()
    rclpy.init()
    try:
        arguments.threads = arguments.threads or physical_cores()
        arguments.model = arguments.model or shaped_model(arguments.shape, arguments.type)
        rows = measure(arguments, Console(stderr=True))
        if arguments.plot:
            plots.plot_rows(rows, arguments.plot)
    except (PeerError, yardstick.YardstickError, EngineError, plots.PlotError, OSError) as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    show(rows, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
