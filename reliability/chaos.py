"""Breaks a running server at random, seeded moments, and checks what its clients were promised: ``python -m reliability.chaos``.

Real processes: ``slice-ros serve`` with llama.cpp on a tiny model, clients that load it, DDS on the loopback interface between them.
After each fault, a new goal is sent until one succeeds; at the end, everything must have ended and nothing be left.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from reliability.isolation import isolate
from reliability.processes import Footprint, Fronted, LoadClient, Server, SharedFile, shared_memory_of, wait_until
from reliability.records import read
from reliability.report import Check, conclude
from slice_ros.client import Answer, Generation, SliceClient
from slice_ros.engines.llama.shapes import make_start_model
from slice_ros.ros.interfaces import GoalEvent
from slice_ros.ros.qos import GOAL_EVENTS
from slice_ros.slo import RealTime

NAME = "chaos"
READY_S = 90.0
SERVER_DEATH_S = 2.0
"""A client learns of its server's death within this."""
SERVED_S = 1.0
"""After a fault, a new goal is served within this, and the time that whatever has to start anew takes."""
FOUND_S = 3.0
"""A new node is found within this: Fast DDS says every 3 s who is there, and may not hear what others answer when it says so first."""
HANG_S = 3.0
"""A silent engine is killed after this."""
UNSAVED = "the measured step times cannot be saved"
GRAMMAR = 'root ::= "yes" | "no"'


@dataclass(slots=True)
class Fault:
    """One fault, and how long after it a new goal had been served: after its repair where nothing can be served before."""

    kind: str
    at_s: float
    recovered_s: float = float("nan")
    allowed_s: float = float("nan")
    died: bool = False


@dataclass(slots=True)
class Rig:
    """What the faults act on.

    Args:
        cache: where the server's step times are saved.
        repairs: what is put right when a goal has been served in spite of the fault.
        engine_s: seconds in which an engine starts; measured without a fault.
        measuring_s: the same of one that has to measure its step times.
        node_s: seconds from a node's start to its first success.
        deaths_s: when nodes were killed, ...
        learnt_s: ... and how long the client of a goal that was under way then took to know.
        footprints: what nodes held just before they were ended.
        shared: memory that the server and its engine share with others, ...
        of_clients: ... and that of clients, which the middleware does not let go of where one of them was killed.
    """

    folder: Path
    server: Server | Fronted
    prober: Prober
    rng: random.Random
    pause_s: float
    clock_file: Path | None
    rate: float
    clients: list[LoadClient] = field(default_factory=list)
    killed: list[LoadClient] = field(default_factory=list)
    repairs: ExitStack = field(default_factory=ExitStack)
    engine_s: float = 0.0
    measuring_s: float = 0.0
    node_s: float = 0.0
    deaths_s: list[float] = field(default_factory=list)
    learnt_s: list[float] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    shared: set[SharedFile] = field(default_factory=set)
    of_clients: set[SharedFile] = field(default_factory=set)

    @property
    def model(self) -> Path:
        return self.folder / "model.gguf"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def look(self) -> None:
        """Take down what the server holds before it is ended."""
        self.footprints.append(Footprint.of(self.server.pid))
        self.shared |= shared_memory_of(self.server.pid, self.server.engine_pid)

    def some_time(self) -> float:
        """How long a fault that is repaired lasts."""
        return self.pause_s * self.rng.uniform(0.2, 1.0)

    def forget_step_times(self) -> None:
        """The next engine has to measure."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def kill_engine(self, number: int = signal.SIGKILL) -> bool:
        pid = self.server.engine_pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid is not None

    def new_client(self) -> None:
        number = len(self.clients) + len(self.killed)
        arguments = ("--seed", str(number), "--rate", str(self.rate), "--patience", "90")
        self.clients.append(LoadClient(NAME, self.folder / f"client{number}.jsonl", *arguments))


# ---- faults: each does its damage, repairs it where it must be, and returns how long a new goal may take from then on


def engine_dies(number: int) -> Callable[[Rig], float]:
    def fault(rig: Rig) -> float:
        rig.kill_engine(number)
        return rig.engine_s

    return fault


def engine_stops(rig: Rig) -> float:
    """Stopped as a debugger or a stuck kernel would; it is killed long before it could go on."""
    pid = rig.server.engine_pid
    rig.kill_engine(signal.SIGSTOP)
    wait_until(lambda: rig.server.engine_pid != pid, HANG_S + rig.pause_s)
    return rig.engine_s


def engine_out_of_memory(rig: Rig) -> float:
    """What it asks for from now on is not given."""
    pid = rig.server.engine_pid
    if pid is not None:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            used = psutil.Process(pid).memory_info().vms
            resource.prlimit(pid, resource.RLIMIT_AS, (used, used))
            resource.prlimit(pid, resource.RLIMIT_DATA, (0, 0))
    if not wait_until(lambda: rig.server.engine_pid != pid, rig.some_time()):
        rig.kill_engine()  # it lives on with what it has
    return rig.engine_s


def node_dies(rig: Rig) -> float:
    goal = rig.prober.begin()
    rig.look()
    rig.server.send_signal(signal.SIGKILL)
    rig.deaths_s.append(time.monotonic())
    rig.learnt_s.append(rig.prober.ends_within(goal, READY_S))
    rig.server.wait(5.0)
    wait_until(lambda: not rig.server.orphans(), 5.0)
    rig.server.start()
    return rig.node_s + FOUND_S


def node_stops(rig: Rig) -> float:
    """As at the end of a launch file."""
    rig.look()
    rig.server.send_signal(signal.SIGINT)
    rig.server.wait(10.0)
    rig.server.start()
    return rig.node_s + FOUND_S


def client_dies(rig: Rig) -> float:
    victim = rig.clients.pop(rig.rng.randrange(len(rig.clients)))
    rig.of_clients |= shared_memory_of(victim.pid)
    victim.kill()
    rig.killed.append(victim)
    rig.new_client()
    return 0.0


def client_freezes(rig: Rig) -> float:
    victim = rig.rng.choice(rig.clients)
    victim.send_signal(signal.SIGSTOP)
    time.sleep(rig.some_time())
    victim.send_signal(signal.SIGCONT)
    return 0.0


def model_is_removed(rig: Rig) -> float:
    aside = rig.model.rename(rig.model.with_suffix(".aside"))
    return without_model(rig, aside)


def model_is_replaced(rig: Rig) -> float:
    aside = rig.model.rename(rig.model.with_suffix(".aside"))
    rig.model.write_bytes(b"GGUF" + rig.rng.randbytes(100_000))
    return without_model(rig, aside)


def without_model(rig: Rig, aside: Path) -> float:
    """The engine has to start without its model, until that is put back."""
    pause_s = rig.some_time()
    rig.kill_engine()
    time.sleep(pause_s)
    aside.rename(rig.model)
    return rig.engine_s + 2.0 * pause_s  # the next try may be as far away as the trouble was long


def model_is_cut(rig: Rig) -> float:
    """The file that is mapped into the engine's memory loses its end."""
    pause_s = rig.some_time() / 4.0
    whole = rig.model.read_bytes()
    os.truncate(rig.model, 4096)
    time.sleep(pause_s)
    rig.model.write_bytes(whole)
    rig.kill_engine()
    return rig.engine_s + 2.0 * pause_s


def disk_is_full(rig: Rig) -> float:
    """Neither the node nor the engine that it starts can write to any file, also not the step times that this engine has to measure."""
    saved = rig.cache.rename(rig.cache.with_suffix(".aside"))
    rig.repairs.callback(saved.rename, rig.cache)
    rig.repairs.callback(rig.forget_step_times)
    limits = resource.prlimit(rig.server.host_pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    rig.repairs.callback(resource.prlimit, rig.server.host_pid, resource.RLIMIT_FSIZE, limits)
    rig.kill_engine()
    return rig.measuring_s


def clock_steps(rig: Rig) -> float:
    """The calendar clock of node and engine jumps by up to a day, either way; the monotonic one does not."""
    assert rig.clock_file is not None
    set_clock(rig.clock_file, rig.rng.choice((-1, 1)) * rig.rng.randint(10, 86400))
    return 0.0


def stepping_clock(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """The file that holds the step, and the environment of processes that see it; ``None`` where nothing can be compiled."""
    library, file = folder / "clock.so", folder / "clock.offset"
    source = Path(__file__).with_name("clock.c")
    if shutil.which("cc") is None or subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=False).returncode:
        return None, {}
    file.write_bytes(bytes(8))
    return file, {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(file)}


def set_clock(file: Path, seconds: int) -> None:
    with file.open("r+b") as opened:
        opened.write(struct.pack("=q", seconds))


FAULTS: dict[str, Callable[[Rig], float]] = {
    "engine SIGKILL": engine_dies(signal.SIGKILL),
    "engine SIGSEGV": engine_dies(signal.SIGSEGV),
    "engine SIGABRT": engine_dies(signal.SIGABRT),
    "engine SIGSTOP": engine_stops,
    "engine out of memory": engine_out_of_memory,
    "node SIGKILL": node_dies,
    "node SIGINT": node_stops,
    "client SIGKILL": client_dies,
    "client SIGSTOP": client_freezes,
    "model removed": model_is_removed,
    "model replaced": model_is_replaced,
    "model cut short": model_is_cut,
    "disk full": disk_is_full,
    "clock stepped": clock_steps,
}


class Prober:
    """A node of this process, which sends goals of its own and looks at the server's endpoints and events."""

    def __init__(self) -> None:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("prober")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._client = SliceClient(self.node, f"/{NAME}")
        self.ends: dict[str, int] = {}
        self._events = self.node.create_subscription(GoalEvent, f"/{NAME}/goal_events", self._hear, GOAL_EVENTS)

    def _hear(self, event: GoalEvent) -> None:
        if event.event == GoalEvent.FINISHED:
            goal_id = bytes(event.goal_id.uuid).hex()
            self.ends[goal_id] = self.ends.get(goal_id, 0) + 1

    def spin(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def served_within(self, limit_s: float) -> float:
        """Send goals until one succeeds; seconds until then, infinite if none does."""
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            generation = self._client.send("ready?", max_tokens=1, label="probe", slo=RealTime(deadline_s=SERVED_S), grammar=GRAMMAR)
            tried = time.monotonic()
            while not generation.done and time.monotonic() - tried < limit_s:
                self._executor.spin_once(timeout_sec=0.02)
            if isinstance(generation.end, Answer):
                return time.monotonic() - began
            self.spin(0.02)
        return float("inf")

    def begin(self) -> Generation:
        """A goal that is under way."""
        goal = self._client.send("tell me everything", max_tokens=2000, label="probe")
        wait_until(lambda: goal._is_taken or goal.done, SERVED_S, lambda: self.spin(0.02))
        return goal

    def ends_within(self, goal: Generation, limit_s: float) -> float:
        """Seconds until it has ended; infinite if it does not in time."""
        began_s = time.monotonic()
        return time.monotonic() - began_s if wait_until(lambda: goal.done, limit_s, lambda: self.spin(0.02)) else float("inf")

    def endpoints(self) -> int:
        """Readers and writers on the server's topics and services, this node's included."""
        topics = (f"/{NAME}/slo_status", f"/{NAME}/goal_events", f"/{NAME}/generate/_action/feedback", f"/{NAME}/generate/_action/status")
        return sum(self.node.count_publishers(topic) + self.node.count_subscribers(topic) for topic in topics)

    def close(self) -> None:
        self._client.destroy()
        self.node.destroy_node()
        rclpy.try_shutdown()


def run(
    folder: Path, faults: int, seed: int, clients: int, rate: float, gap_s: float, pause_s: float, slowness: float, *, dispatcher: bool
) -> tuple[list[Check], list[Fault], dict[str, object]]:
    """Do it all; everything it started is gone afterwards."""
    rng = random.Random(seed)
    make_start_model(folder / "model.gguf")
    clock_file, environment = stepping_clock(folder)
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    arguments = ("--model", str(folder / "model.gguf"), "--n-ctx", "4096")
    kind = Fronted if dispatcher else Server
    server = kind(NAME, folder / "server.log", (*arguments, "-p", f"engine.hang_timeout_s:={HANG_S}"), environment)
    prober = Prober()
    rig = Rig(folder, server, prober, rng, pause_s, clock_file, rate)
    try:
        start(rig, prober)
        idle_endpoints, idle = prober.endpoints(), Footprint.of(server.pid)
        for _ in range(clients):
            rig.new_client()
        wait_until(lambda: prober.endpoints() > idle_endpoints, 30.0, lambda: prober.spin(0.2))
        done = break_it(rig, prober, faults, gap_s, slowness)
        rig.of_clients |= shared_memory_of(*(client.pid for client in rig.clients))
        ended = [client.finish(90.0) for client in rig.clients]
        wait_until(lambda: prober.endpoints() <= idle_endpoints, 20.0, lambda: prober.spin(0.2))
        rig.look()
        checks = [*judge_goals(rig, prober.ends, ended=all(ended), slowness=slowness), *judge_faults(done)]
        files, threads = max(found.files for found in rig.footprints), max(found.threads for found in rig.footprints)
        endpoints = prober.endpoints()
        checks += [
            Check("no file descriptor is left open", files <= idle.files + 6, f"{idle.files} when idle, {files} at most at a node's end"),
            Check("no thread is left", threads <= idle.threads + 2, f"{idle.threads} when idle, {threads} at most at a node's end"),
            Check(
                "no DDS reader or writer is left",
                endpoints <= idle_endpoints,
                f"{idle_endpoints} without clients, {endpoints} after they have gone",
            ),
        ]
    finally:
        for client in (*rig.clients, *rig.killed):
            client.kill()
        server.stop()
        prober.close()
    wait_until(lambda: not server.left(), 3.0)
    left = server.left()
    shared = {file.path.name for file in rig.shared if file.size}
    of_clients = [file.size for file in rig.of_clients if file.size]
    log = server.said().splitlines()
    tracebacks = sum(line.startswith("Traceback") for line in log)
    unsaved, full = sum(UNSAVED in line for line in log), sum(fault.kind == "disk full" for fault in done)
    checks += [
        Check("no process is left", not left, f"{len(left)} left"),
        Check("no shared memory is left", not shared, ", ".join(sorted(shared)) or "none"),
        Check("no traceback in the log", not tracebacks, f"{tracebacks}"),
        Check("step times that cannot be saved are told", unsaved >= full, f"{full} times due, {unsaved} times told"),
    ]
    records = read(client.records for client in (*rig.clients, *rig.killed))
    return (
        checks,
        done,
        {
            "goals": len(records),
            "succeeded": sum(record.code == "NONE" for record in records.values()),
            "engine start, s": round(rig.engine_s, 2),
            "engine start with measuring, s": round(rig.measuring_s, 2),
            "node start, s": round(rig.node_s, 2),
            "left of the clients' shared memory": f"{len(of_clients)} files of the middleware's, {sum(of_clients) / 2**10:.0f} KiB",
            "clock stepped": "in node and engine" if clock_file is not None else "not: there is no C compiler",
        },
    )


def start(rig: Rig, prober: Prober) -> None:
    """Start the server, and take the times of starts without a fault.

    Raises:
        RuntimeError: it does not serve.
    """

    def served_after(action: Callable[[], object]) -> float:
        action()
        began = time.monotonic()
        prober.spin(0.2)
        if prober.served_within(READY_S) == float("inf"):
            raise RuntimeError(f"the server did not start: {rig.server.said()[-500:]}")
        return time.monotonic() - began

    served_after(rig.server.start)
    rig.engine_s = served_after(rig.kill_engine)
    rig.forget_step_times()
    rig.measuring_s = served_after(rig.kill_engine)
    rig.server.stop()
    rig.node_s = served_after(rig.server.start)
    prober.spin(1.0)


def break_it(rig: Rig, prober: Prober, faults: int, gap_s: float, slowness: float) -> list[Fault]:
    """Faults of every kind, as many of each as of any other, in random order at random moments."""
    kinds = [kind for kind in FAULTS if rig.clock_file is not None or kind != "clock stepped"]
    schedule = [kinds[i % len(kinds)] for i in range(faults)]
    rig.rng.shuffle(schedule)
    done = []
    for kind in schedule:
        prober.spin(rig.rng.uniform(0.2, 1.8) * gap_s)
        fault = Fault(kind, time.monotonic())
        fault.allowed_s = (SERVED_S + FAULTS[kind](rig)) * slowness
        with rig.repairs:
            fault.recovered_s = prober.served_within(READY_S)
        fault.died = not rig.server.is_running
        done.append(fault)
        print(f"{len(done)}/{faults} {kind}: served after {fault.recovered_s:.2f} s of {fault.allowed_s:.2f}", file=sys.stderr)  # noqa: T201
    return done


def judge_goals(rig: Rig, heard: Mapping[str, int], *, ended: bool, slowness: float) -> list[Check]:
    """What was promised to clients.

    Args:
        heard: how many ends of each goal were published.
        ended: whether every client saw all its goals end.
    """
    living = read(client.records for client in rig.clients).values()
    everyone = read(client.records for client in (*rig.clients, *rig.killed)).values()
    lost = sum(not record.ends for record in living)
    twice = sum(len(record.ends) > 1 for record in everyone) + sum(count > 1 for count in heard.values())
    waits_s = [
        record.ends[0] - death_s
        for record in living
        for death_s in rig.deaths_s
        if record.ends and record.sent_s < death_s < record.ends[0] and record.code == "ENGINE_DIED"
    ]
    waits_s += rig.learnt_s
    late = sum(wait_s > SERVER_DEATH_S * slowness for wait_s in waits_s)
    found = f"{len(rig.deaths_s)} deaths, {len(waits_s)} goals in flight, the last after {max(waits_s, default=0.0):.2f} s"
    return [
        Check("every goal of a living client ends", ended and not lost, f"{len(living)} goals, {lost} without an end"),
        Check("no goal ends twice", not twice, f"{len(heard)} ends published, {twice} twice"),
        Check(f"a client learns of its server's death within {SERVER_DEATH_S:g} s", not late, found),
    ]


def judge_faults(done: Sequence[Fault]) -> list[Check]:
    slow = [f"{fault.kind} {fault.recovered_s:.2f} s" for fault in done if not fault.recovered_s <= fault.allowed_s]
    died = [fault.kind for fault in done if fault.died]
    slowest = max(fault.recovered_s for fault in done)
    return [
        Check(
            f"a new goal is served within {SERVED_S:g} s, the time of a start and, of a node, {FOUND_S:g} s until it is found",
            not slow,
            ", ".join(slow) or f"slowest {slowest:.2f} s",
        ),
        Check("the node outlives everything but its own death", not died, ", ".join(died) or "always"),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=210)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1.5, help="goals a second of each client")
    parser.add_argument("--gap", type=float, default=1.0, help="mean time without faults between two, s")
    parser.add_argument("--pause", type=float, default=10.0, help="how long a fault that is repaired lasts at most, s")
    parser.add_argument("--slowness", type=float, default=1.0, help="times are allowed to be so much longer, for a busy machine")
    parser.add_argument(
        "--dispatcher", action="store_true", help="through a dispatcher, whose only member the server is; it is the node then"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for logs and records; default is a temporary one")
    arguments = parser.parse_args(argv)
    isolate(arguments.seed)
    folder = (arguments.keep or Path(tempfile.mkdtemp(prefix="chaos"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        sizes = (arguments.faults, arguments.seed, arguments.clients, arguments.rate, arguments.gap, arguments.pause)
        checks, faults, figures = run(folder, *sizes, arguments.slowness, dispatcher=arguments.dispatcher)
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)
    rows = {kind: [f for f in faults if f.kind == kind] for kind in FAULTS if any(f.kind == kind for f in faults)}
    figures |= {f"{kind}: times, slowest recovery s": f"{len(of)}, {max(f.recovered_s for f in of):.2f}" for kind, of in rows.items()}
    return conclude("chaos", checks, figures, arguments.json, {"seed": arguments.seed, "faults": [asdict(fault) for fault in faults]})


if __name__ == "__main__":
    sys.exit(main())
