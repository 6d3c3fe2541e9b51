"""The real processes of a run: a server with its engine, and clients that load it; started, watched and ended for sure."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple

import psutil

STOP_S = 10.0
NICENESS = 10
"""Of clients: hundreds of them are not to take from the server the time that they would not take from it on other cores."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds.

    Args:
        memory: resident bytes that it has allocated. Those of files (libraries, the model) are left out, which are its own or not depending
            on who else has them at the moment.
    """

    memory: int
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        process = psutil.Process(pid)
        memory = process.memory_info()
        return cls(memory.rss - memory.shared, process.num_fds(), process.num_threads())


def busy_s(pid: int) -> float:
    """Processor time that a process has taken until now."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class Process:
    """One whose log goes to a file.

    Args:
        command: what it runs.
        log: file for what it says.
        environment: added to this process's own.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        self._command = command
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
        )
        # Through a pipe, as of a launch file: so what it says is heard even when it cannot write to files any more.
        self._logger = threading.Thread(target=_copy, args=(self._process.stdout, self.log), daemon=True)
        self._logger.start()

    @property
    def pid(self) -> int:
        assert self._process is not None, "start() comes first"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended in time."""
        assert self._process is not None
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """End it as a terminal would, and make sure."""
        if self._process is None:
            return
        if self.is_running:
            self.send_signal(signal.SIGINT)
        if not self.wait(STOP_S):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._logger.join(STOP_S)

    def orphans(self) -> list[int]:
        """Processes of its session that are still there; only sensible after its end."""
        return [pid for pid in session_of(self.pid) if pid != self.pid]

    def left(self) -> list[int]:
        """It, and processes of its session, as far as they are there."""
        return session_of(self.pid)

    def said(self) -> str:
        """What is in its log."""
        return self.log.read_text(errors="replace")


class Server(Process):
    """A ``slice-ros serve`` process, or of another verb, its engine beside it.

    Args:
        name: node name.
        log: file for standard error of node and engine.
        arguments: of the command.
        environment: added to this process's own.
        verb: what the command is to do.
        prefix: what the command begins with, as to run it in another network.
    """

    def __init__(
        self,
        name: str,
        log: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        verb: str = "serve",
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        options = ("--n-threads", "1") if verb == "serve" else ()
        super().__init__([*prefix, sys.executable, "-m", "slice_ros.cli", verb, "--name", name, *options, *arguments], log, environment)

    @property
    def host_pid(self) -> int:
        """The process that starts the engine."""
        return self.pid

    @property
    def engine_pid(self) -> int | None:
        """The engine that runs now, if there is one."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                if child.status() != psutil.STATUS_ZOMBIE:
                    return child.pid
        return None


class Gateway(Process):
    """A ``slice-ros gateway`` process before a server.

    Args:
        server: node name of the server.
        log: file for standard error.
    """

    def __init__(self, server: str, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        super().__init__([sys.executable, "-m", "slice_ros.cli", "gateway", "--server", f"/{server}", "--port", str(self.port)], log)

    def wait_for_port(self, timeout_s: float) -> bool:
        """Whether it listens in time."""

        def listens() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return True
            return False

        return wait_until(listens, timeout_s)


class Fronted:
    """A dispatcher of that name, and its only member, in place of a :class:`Server`; its process is the dispatcher's.

    Args:
        name: node name of the dispatcher.
        log: file for the dispatcher's standard error; the member's is beside it.
        arguments: of the member's command.
        environment: added to this process's own.
    """

    def __init__(self, name: str, log: Path, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        limits = [part for flag, value in pairwise(arguments) if flag == "-p" and value.startswith("limits.") for part in (flag, value)]
        self.member = f"{name}_member"
        """Name of the member's node."""
        self._member = Server(self.member, log.with_name("member.log"), arguments, environment)
        self._dispatcher = Server(name, log, ("--members", f"/{self.member}", *limits), environment, verb="dispatch")

    def start(self) -> None:
        """Start whatever does not run."""
        for process in (self._member, self._dispatcher):
            if not process.is_running:
                process.start()

    def stop(self) -> None:
        self._dispatcher.stop()
        self._member.stop()

    @property
    def pid(self) -> int:
        return self._dispatcher.pid

    @property
    def host_pid(self) -> int:
        return self._member.pid

    @property
    def engine_pid(self) -> int | None:
        return self._member.engine_pid

    @property
    def is_running(self) -> bool:
        return self._dispatcher.is_running and self._member.is_running

    def send_signal(self, number: int) -> None:
        self._dispatcher.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        return self._dispatcher.wait(timeout_s)

    def orphans(self) -> list[int]:
        return self._dispatcher.orphans()

    def left(self) -> list[int]:
        return [*self._dispatcher.left(), *self._member.left()]

    def said(self) -> str:
        return self._dispatcher.said() + self._member.said()


class LoadClient:
    """A ``python -m reliability.load`` process, its records in a file.

    Args:
        stands_back: behind the server, with which it shares the cores. On a machine that others use as well, these take its time then.
    """

    def __init__(self, server: str, records: Path, *arguments: str, stands_back: bool = False) -> None:
        self.records = records
        self._process = subprocess.Popen(
            [sys.executable, "-m", "reliability.load", "--server", server, "--records", str(records), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        if stands_back:
            _stand_back(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def finish(self, timeout_s: float) -> bool:
        """Have it send no more, see its goals out, and end; whether it did in time."""
        if self.is_running:
            self.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended by itself in time; if not, it is killed."""
        try:
            return self._process.wait(timeout_s) == 0
        except subprocess.TimeoutExpired:
            self.kill()
            return False

    def kill(self) -> None:
        if self.is_running:
            self._process.kill()
        self._process.wait()


def _stand_back(pid: int) -> None:
    """Be nice, as a process and, where Linux shares time out between sessions first (``sched_autogroup``), as a session."""
    with suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(f"{NICENESS}")


def _copy(stream: IO[bytes], path: Path) -> None:
    with stream, path.open("ab", buffering=0) as file:
        for line in stream:
            file.write(line)


def session_of(leader: int) -> list[int]:
    """Processes of a session, zombies left out."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


class SharedFile(NamedTuple):
    """One in /dev/shm; another one may take its name when it has gone."""

    path: Path
    inode: int

    @property
    def size(self) -> int:
        """Bytes; 0 where it has gone."""
        with suppress(FileNotFoundError):
            found = self.path.stat()
            return found.st_size if found.st_ino == self.inode else 0
        return 0


def shared_memory_of(*pids: int | None) -> set[SharedFile]:
    """What is processes' own in /dev/shm: files that they hold open, and of Fast DDS, which holds a lock file, those that are locked."""
    found = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):  # closed meanwhile, or removed
                opened = entry.readlink()
                if opened.is_relative_to("/dev/shm"):
                    path = opened.with_name(opened.name.removesuffix("_el"))
                    found.add(SharedFile(path, path.stat().st_ino))
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float, idle: Callable[[], None] = lambda: time.sleep(0.05)) -> bool:
    """Whether the condition came to hold in time; ``idle`` fills the time between two looks."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        idle()
    return condition()
