"""Tries to break the gateway, and breaks what is behind it: ``python -m reliability.door``. Who asks rightly gets the same answer.

Three parts. Wrong bytes, headers and bodies, connections half open, readers that do not read. Load: many streams at once for long, beside
which the gateway must not grow. Faults: of the engine, the server, the gateway itself, and of clients.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import openai

from reliability.inputs import NASTY, damaged
from reliability.isolation import isolate
from reliability.processes import Footprint, Gateway, Server
from reliability.report import Check, conclude
from slice_ros.engines.llama.shapes import make_start_model

NAME = "door"
READY_S = 90.0
END_S = 60.0
"""Any request has ended after this, on a busy machine, too."""
LATE_S = 5.0
"""After a fault, a request is served within this, and the time that whatever has to start anew takes."""
AT_ONCE = 20
"""Wrong connections at a time."""
WAIT_S = 2.0
"""How long one of them waits for an answer."""
GROWTH = 0.05
TOKENS = 24
RIGHT = {"model": "default", "prompt": "where is the dock?", "max_tokens": TOKENS}
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Rig:
    """A server, a gateway before it, and a client that knows the right answer."""

    def __init__(self, folder: Path, seed: int, slowness: float) -> None:
        make_start_model(folder / "model.gguf")
        arguments = ("--model", str(folder / "model.gguf"), "--n-ctx", "16384", "--device-profile", "rtx4060ti-chatglm2-6b-int4")
        self.server = Server(NAME, folder / "server.log", (*arguments, "-p", "scheduler.client_share:=1.0"))
        self.gateway = Gateway(NAME, folder / "gateway.log")
        url = f"http://127.0.0.1:{self.gateway.port}/v1"
        self._client: Any = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=END_S)
        self.rng = random.Random(seed)
        self.slowness = slowness
        self.start_s = 0.0
        self.expected = ""
        self.broken: list[str] = []
        self.ends: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()

    async def begin(self) -> None:
        began_s = time.monotonic()
        self.server.start()
        await self.open_door()
        self.start_s = await self.served_within(READY_S) + time.monotonic() - began_s
        self.expected = await self.ask()

    async def open_door(self) -> None:
        self.gateway.start()
        await asyncio.get_running_loop().run_in_executor(None, self.gateway.wait_for_port, READY_S)

    def close(self) -> None:
        self.gateway.stop()
        self.server.stop()

    async def ask(self) -> str:
        """The text of a stream.

        Raises:
            openai.APIError: it did not come to its end.
        """
        stream = await self._client.completions.create(**RIGHT, stream=True)
        pieces, is_whole = [], False
        async for piece in stream:
            pieces.append(piece.choices[0].text)
            is_whole |= piece.choices[0].finish_reason is not None
        if not is_whole:
            raise openai.APIConnectionError(message="the stream broke off", request=stream.response.request)
        return "".join(pieces)

    async def look(self, doing: str) -> None:
        """Does a right request get the right answer?"""
        try:
            text = await self.ask()
        except openai.APIError as error:
            self.broken.append(f"{doing}: {error}")
            return
        if text != self.expected:
            self.broken.append(f"{doing}: the answer was {text[:80]!r}")

    async def served_within(self, limit_s: float) -> float:
        """Ask until an answer comes; seconds until then, infinite if none does."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < limit_s:
            with suppress(openai.APIError):
                await self.ask()
                return time.monotonic() - began_s
            await asyncio.sleep(0.1)
        return float("inf")

    async def loop(self, over: asyncio.Event) -> None:
        """Ask again and again, and note how each request ends."""
        while not over.is_set():
            try:
                text = await asyncio.wait_for(self.ask(), END_S)
                self.ends["answered" if text == self.expected else "another text"] += 1
            except asyncio.TimeoutError:
                self.ends["no end"] += 1
            except openai.APIStatusError as error:
                self.ends[f"status {error.status_code}"] += 1
            except openai.APIConnectionError:
                self.ends["connection lost"] += 1
                await asyncio.sleep(0.1)
            except openai.APIError:
                self.ends["error in the stream"] += 1

    async def metrics(self) -> dict[str, float]:
        heard = await self.talk([b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"], END_S)
        return {name: float(value) for name, value in re.findall(r"^([a-z_]+) (\S+)$", heard.decode(), re.MULTILINE)}

    async def talk(self, pieces: Sequence[bytes], wait_s: float, gap_s: float = 0.0) -> bytes:
        """Send bytes, with so much time between them; what is heard until the connection is closed, or for so long."""
        heard = bytearray()
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(gap_s)
                with suppress(asyncio.TimeoutError):
                    while more := await asyncio.wait_for(reader.read(65536), wait_s):
                        heard += more
            finally:
                writer.transport.abort()
        return bytes(heard)


# ---- wrong input


def request(body: Any, rng: random.Random, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    path = rng.choice(("/v1/completions", "/v1/chat/completions"))
    lines = [("host", "localhost"), ("content-type", "application/json"), ("content-length", str(len(content))), *headers]
    return f"POST {path} HTTP/1.1\r\n{''.join(f'{n}: {v}' + chr(13) + chr(10) for n, v in lines)}\r\n".encode("utf-8", "replace") + content


def a_body(rng: random.Random) -> dict[str, Any]:
    """One with a field or two that are wrong."""
    body: dict[str, Any] = {**RIGHT, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    values: tuple[Any, ...] = (
        *NASTY,
        None,
        True,
        -1,
        0,
        1e308,
        2**64,
        [],
        {},
        [[]],
        {"type": "json_schema"},
        [{"type": "text"}],
        "default:control",
    )
    names = (
        *body,
        "stop",
        "stream",
        "seed",
        "temperature",
        "slo",
        "response_format",
        "logprobs",
        "priority",
        "grammar",
        "regex",
        "tools",
        "x",
    )
    for _ in range(rng.randint(1, 2)):
        body[rng.choice(names)] = rng.choice(values)
    if rng.random() < 0.7:
        del body[rng.choice(("messages", "prompt"))]
    return body


async def random_bytes(rig: Rig) -> bytes:
    return await rig.talk([rig.rng.randbytes(rig.rng.randint(1, 3000))], WAIT_S)


async def damaged_request(rig: Rig) -> bytes:
    return await rig.talk([damaged(request(RIGHT, rig.rng), rig.rng)], WAIT_S)


async def wrong_body(rig: Rig) -> bytes:
    return await rig.talk([request(a_body(rig.rng), rig.rng, [("connection", "close")])], END_S)


async def deep_or_long_body(rig: Rig) -> bytes:
    body = rig.rng.choice((b"[" * 500_000, b'{"a":' * 100_000, b"x" * 2_000_000, b'"' + b"\\u0000" * 100_000 + b'"'))
    return await rig.talk([request(body, rig.rng, [("connection", "close")])], END_S)


async def huge_headers(rig: Rig) -> bytes:
    rng = rig.rng
    headers = [(f"x-{rng.choice(('slo-', ''))}{i}", "y" * rng.choice((0, 10, 3000))) for i in range(rng.choice((1, 50, 200, 5000)))]
    return await rig.talk([request(RIGHT, rng, headers)], WAIT_S)


async def half_open(rig: Rig) -> bytes:
    whole = request(RIGHT, rig.rng)
    return await rig.talk([whole[: rig.rng.randrange(len(whole))]], WAIT_S)


async def slow_writer(rig: Rig) -> bytes:
    whole = request(RIGHT, rig.rng, [("connection", "close")])
    cuts = sorted(rig.rng.sample(range(len(whole)), 5))
    return await rig.talk([whole[i:j] for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True)], END_S, gap_s=0.05)


async def slow_reader(rig: Rig) -> bytes:
    """Asks for much, and does not read."""
    many = request({**RIGHT, "stream": True, "max_tokens": 200}, rig.rng) * 5
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", rig.gateway.port, limit=1)
        writer.write(many)
        await asyncio.sleep(WAIT_S)
        writer.transport.abort()
    return b""


async def hang_up(rig: Rig) -> bytes:
    return await rig.talk([request({**RIGHT, "max_tokens": 500, "stream": rig.rng.random() < 0.5}, rig.rng)], rig.rng.uniform(0.0, 0.3))


WRONG: Sequence[Callable[[Rig], Awaitable[bytes]]] = (
    random_bytes,
    damaged_request,
    wrong_body,
    deep_or_long_body,
    huge_headers,
    half_open,
    slow_writer,
    slow_reader,
    hang_up,
)


async def fuzz(rig: Rig, cases: int) -> list[Check]:
    unclear: list[str] = []
    kinds = [WRONG[i % len(WRONG)] for i in range(cases)]
    rig.rng.shuffle(kinds)
    for begin in range(0, cases, AT_ONCE):
        some = kinds[begin : begin + AT_ONCE]
        for kind, heard in zip(some, await asyncio.gather(*(kind(rig) for kind in some)), strict=True):
            status = STATUS.match(heard)
            rig.statuses[status[1].decode() if status else "closed"] += 1
            if heard and (status is None or status[1] == b"500"):
                unclear.append(f"{kind.__name__}: {heard[:200]!r}")
        await rig.look("beside wrong input")
    left = (await rig.metrics()).get("slice_gateway_in_flight_requests", -1.0)
    return [
        Check(
            "a right request beside wrong ones gets the right answer", not rig.broken, "; ".join(rig.broken[:3]) or f"{cases} wrong ones"
        ),
        Check("what the gateway says is HTTP, and never of a defect of its own", not unclear, "; ".join(unclear[:3]) or "yes"),
        Check("no goal is left of clients that have gone", left == 0.0, f"{left:g} in flight"),
    ]


# ---- faults


async def engine_dies(rig: Rig) -> float:
    pid = rig.server.engine_pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    return rig.start_s


async def server_dies(rig: Rig) -> float:
    rig.server.send_signal(signal.SIGKILL)
    rig.server.wait(5.0)
    await asyncio.sleep(rig.rng.uniform(0.0, 2.0))
    rig.server.start()
    return rig.start_s


async def server_stops(rig: Rig) -> float:
    return await _stands_still(rig.server, rig)


async def _stands_still(process: Server | Gateway, rig: Rig) -> float:
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(rig.rng.uniform(0.5, 3.0))
    process.send_signal(signal.SIGCONT)
    return 0.0


async def gateway_dies(rig: Rig) -> float:
    rig.gateway.send_signal(signal.SIGKILL)
    rig.gateway.wait(5.0)
    began_s = time.monotonic()
    await rig.open_door()
    return time.monotonic() - began_s


async def gateway_stops(rig: Rig) -> float:
    return await _stands_still(rig.gateway, rig)


async def gateway_ends(rig: Rig) -> float:
    rig.gateway.send_signal(signal.SIGTERM)
    if not await asyncio.get_running_loop().run_in_executor(None, rig.gateway.wait, 10.0 * rig.slowness):
        rig.broken.append("the gateway did not end within 10 s of a SIGTERM")
    await rig.open_door()
    return 0.0


async def clients_hang_up(rig: Rig) -> float:
    await asyncio.gather(*(hang_up(rig) for _ in range(AT_ONCE)))
    return 0.0


FAULTS: Sequence[Callable[[Rig], Awaitable[float]]] = (
    engine_dies,
    server_dies,
    server_stops,
    gateway_dies,
    gateway_stops,
    gateway_ends,
    clients_hang_up,
)


async def chaos(rig: Rig, faults: int) -> list[Check]:
    rig.ends.clear()
    over, slow = asyncio.Event(), []
    agents = [asyncio.create_task(rig.loop(over)) for _ in range(3)]
    kinds = [FAULTS[i % len(FAULTS)] for i in range(faults)]
    rig.rng.shuffle(kinds)
    slowest_s = 0.0
    for kind in kinds:
        await asyncio.sleep(rig.rng.uniform(0.1, 1.0))
        allowed_s = (LATE_S + await kind(rig)) * rig.slowness
        took_s = await rig.served_within(READY_S)
        slowest_s = max(slowest_s, took_s)
        print(f"{kind.__name__}: served after {took_s:.2f} s of {allowed_s:.2f}", file=sys.stderr)  # noqa: T201
        if took_s > allowed_s or not rig.gateway.is_running:
            slow.append(f"{kind.__name__} {took_s:.2f} s")
    over.set()
    await asyncio.gather(*agents)
    known = {"answered", "connection lost", "error in the stream"}
    strange = {end: count for end, count in rig.ends.items() if end not in known and not re.match(r"status (499|503)$", end)}
    return [
        Check(
            "a request is served again after every fault", not slow, "; ".join(slow[:5]) or f"{faults} faults, slowest {slowest_s:.2f} s"
        ),
        Check(
            "every request ends: with its answer, a status, an error in its stream, or its connection",
            not strange,
            str(strange or dict(rig.ends)),
        ),
        Check("and a SIGTERM ends the gateway", not rig.broken, "; ".join(rig.broken[:3]) or "yes"),
    ]


# ---- load


async def soak(rig: Rig, streams: int, seconds: float) -> tuple[list[Check], dict[str, object]]:
    idle = Footprint.of(rig.gateway.pid)
    rig.ends.clear()
    over, looks, began_s = asyncio.Event(), list[int](), time.monotonic()
    agents = [asyncio.create_task(rig.loop(over)) for _ in range(streams)]
    while time.monotonic() - began_s < seconds:
        await asyncio.sleep(min(1.0, seconds / 20.0))
        looks.append(Footprint.of(rig.gateway.pid).memory)
    over.set()
    await asyncio.gather(*agents)
    took_s = time.monotonic() - began_s
    fifth = max(1, len(looks) // 5)
    early, late = median(looks[fifth : 2 * fifth] or looks), median(looks[-fifth:])
    files = Footprint.of(rig.gateway.pid).files
    for _ in range(100):
        if files <= idle.files + 2:
            break
        await asyncio.sleep(0.1)  # connections that are kept alive
        files = Footprint.of(rig.gateway.pid).files
    wrong = {end: count for end, count in rig.ends.items() if end != "answered"}
    checks = [
        Check(f"{streams} streams at once get all of their text, again and again", not wrong, str(dict(rig.ends))),
        Check(
            "the gateway's memory does not grow",
            late / early - 1.0 < GROWTH * rig.slowness,
            f"{late / early - 1.0:+.1%} to {late / 2**20:.0f} MiB",
        ),
        Check("no file descriptor is left open", files <= idle.files + 2, f"{idle.files} before, {files} after"),
    ]
    return checks, {"streams": f"{rig.ends['answered']} of {TOKENS} tokens in {took_s:.0f} s, {streams} at once"}


async def run(rig: Rig, cases: int, faults: int, streams: int, seconds: float) -> tuple[list[Check], dict[str, object]]:
    await rig.begin()
    checks = await fuzz(rig, cases)
    soaked, figures = await soak(rig, streams, seconds)
    checks += soaked
    checks += await chaos(rig, faults)
    return checks, {"wrong input was answered with": dict(rig.statuses.most_common()), **figures, "requests beside faults": dict(rig.ends)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000, help="wrong connections")
    parser.add_argument("--faults", type=int, default=70)
    parser.add_argument("--streams", type=int, default=200, help="at once")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long they go on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slowness", type=float, default=1.0, help="times are allowed to be so much longer, for a busy machine")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the logs; default is a temporary one")
    arguments = parser.parse_args(argv)
    isolate(arguments.seed)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="door"))
    folder.mkdir(parents=True, exist_ok=True)
    rig = Rig(folder, arguments.seed, arguments.slowness)
    try:
        checks, figures = asyncio.run(run(rig, arguments.cases, arguments.faults, arguments.streams, arguments.seconds))
        tracebacks = (folder / "gateway.log").read_text(errors="replace").count("Traceback")
    finally:
        rig.close()
        if arguments.keep is None:
            shutil.rmtree(folder)
    checks.append(Check("no traceback in the gateway's log", not tracebacks, f"{tracebacks}"))
    return conclude("door", checks, figures, arguments.json, {"seed": arguments.seed})


if __name__ == "__main__":
    sys.exit(main())
