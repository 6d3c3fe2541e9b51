"""Starts the engine process, speaks with it, and starts a new one when it dies or hangs; no goal is ever left without an end."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from multiprocessing.connection import Connection
from pathlib import Path

from slice_ros.goal import ErrorCode, GoalError, GoalRequest
from slice_ros.parameters.table import Value
from slice_ros.process.last_words import LastWords
from slice_ros.process.protocol import Answer, Cancel, Check, Command, Failed, Ready, SetParameters, Start, Status, Stop, Submit
from slice_ros.process.watchdog import LOOK_PERIOD_S, Watchdog, longest_step_s
from slice_ros.scheduling.engine import EngineError
from slice_ros.scheduling.events import Checked, Event, Finished
from slice_ros.scheduling.scheduler import failed

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 10.0
STOP_TIMEOUT_S = 1.0
"""How long a process that was asked to stop may take before it is killed."""


class EngineState(Enum):
    """As in ``msg/SloStatus.msg``."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class EngineHost:
    """Every goal submitted here gets exactly one ``Finished``, whatever becomes of the process.

    Goals that arrive while the engine (re)starts wait for it; when a start fails, they end with ENGINE_DIED. A process that hangs is
    killed, and so has died; while it loads a model or has nothing to do, silence is no hang.

    Args:
        parameters: checked values of ``parameters.PARAMETERS``.
        on_events: receives events in order; called on a thread of the host, must not block.
        restart: start a new process when one dies.
    """

    def __init__(self, parameters: Mapping[str, Value], on_events: Callable[[list[Event]], None], *, restart: bool = True) -> None:
        self._parameters = dict(parameters)
        self._on_events = on_events
        self._restart = restart
        self._lock = threading.Lock()
        self._in_flight: dict[str, GoalRequest] = {}
        self._waiting: list[GoalRequest] = []
        self._checks: set[str] = set()
        self._commands: queue.SimpleQueue[Command | None] | None = None  # None while no engine is ready
        self._process: subprocess.Popen[bytes] | None = None
        self._killed_for = ""
        self._stopping = threading.Event()
        self._first_start = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="engine supervisor", daemon=True)
        self.state = EngineState.STARTING
        self.restarts = 0
        self.failure = ""
        self.ready: Ready | None = None

    def start(self, timeout_s: float | None = None) -> Ready:
        """Start the engine and wait until it can serve.

        Raises:
            EngineError: it cannot be built (the sentence says why), or took longer than the timeout.
        """
        self._supervisor.start()
        if not self._first_start.wait(timeout_s):
            self.stop()
            raise EngineError(f"the engine was not ready within {timeout_s} s")
        if self.ready is None:
            self._supervisor.join()
            raise EngineError(self.failure or "the engine was stopped before it was ready")
        return self.ready

    @property
    def members(self) -> tuple[()]:
        """None: the engine serves all goals itself."""
        return ()

    @property
    def pid(self) -> int | None:
        """Process id of the engine, if one runs."""
        return None if self._process is None else self._process.pid

    def submit(self, request: GoalRequest) -> None:
        """Hand a goal to the engine, now or when it is ready."""
        with self._lock:
            self._in_flight[request.goal_id] = request
            if self._commands is not None:
                self._commands.put(Submit(request))
                return
            if self.state in (EngineState.STARTING, EngineState.RESTARTING):
                self._waiting.append(request)
                return
        self._end_in_flight(self._gone())

    def cancel(self, goal_id: str, error: GoalError | None = None) -> None:
        """End a goal with CANCELED or another error; one that has ended or is unknown is left as it is."""
        error = error or GoalError(ErrorCode.CANCELED, "the goal was canceled")
        with self._lock:
            request = next((r for r in self._waiting if r.goal_id == goal_id), None)
            if request is not None:
                self._waiting.remove(request)
            elif self._commands is not None:
                self._commands.put(Cancel(goal_id, error.code, error.message))
        if request is not None:
            self._deliver([failed(request, error)])

    def check(self, check_id: str, request: GoalRequest, prompt_tokens: int = 0) -> None:
        """Ask what a goal could expect now; exactly one ``Checked`` answers. ``prompt_tokens`` 0 = count the prompt's own."""
        with self._lock:
            self._checks.add(check_id)
            if self._commands is not None:
                self._commands.put(Check(check_id, request, prompt_tokens))
                return
        self._end_checks()

    def set_parameters(self, values: Mapping[str, Value]) -> None:
        """Go on with other values of live parameters, also after a restart; they have been checked."""
        with self._lock:
            self._parameters.update(values)
            if self._commands is not None:
                self._commands.put(SetParameters(values))

    def stop(self) -> None:
        """End every goal with SHUTTING_DOWN and the process; returns when it is gone."""
        self._stopping.set()
        with self._lock:
            process, is_ready = self._process, self._commands is not None
            if self._commands is not None:
                self._commands.put(Stop())
        if process is not None and not is_ready:
            process.kill()  # it loads a model and hears nothing
        if process is not None:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._supervisor.is_alive():
            self._supervisor.join()
        elif self._supervisor.ident is None:
            self.state = EngineState.STOPPED  # it never started

    # ---- the supervisor's thread

    def _supervise(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stopping.is_set():
            was_ready = self._run_one()
            if self._stopping.is_set():
                break
            if self.ready is not None:
                logger.error("the engine %s: %s", "is lost" if was_ready else "could not start", self.failure)
            # Without a first success there is nothing to go back to: the caller of start() learns why, and tells it.
            if self.ready is None or not self._restart:
                self._set_state(EngineState.FAILED)
                self._end_in_flight(self._gone())
                self._first_start.set()
                return
            self._end_in_flight(self._gone()) if was_ready else self._end_waiting()
            self.restarts += 1
            retry_s = FIRST_RETRY_S if was_ready else min(2 * retry_s, LONGEST_RETRY_S)
            self._stopping.wait(0.0 if was_ready else retry_s)
        self._set_state(EngineState.STOPPED)
        self._end_in_flight(GoalError(ErrorCode.SHUTTING_DOWN, "the server is shutting down; send the goal again when it is back"))
        self._first_start.set()

    def _run_one(self) -> bool:
        """One engine process from birth to death; true if it became ready."""
        try:
            connection, ours, process, words = self._spawn()
        except (OSError, RuntimeError) as error:
            self.failure = f"no process can be started for the engine: {error}"
            return False
        commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        became_ready, told, lost = False, "", "its end is closed"
        over = threading.Event()
        self._killed_for = ""
        try:
            with self._lock:
                start = Start(dict(self._parameters))
            connection.send(start)
            while True:
                answer: Answer = connection.recv()
                if isinstance(answer, Failed):
                    told = answer.message
                    break
                if isinstance(answer, Ready):
                    became_ready = True
                    watchdog = Watchdog(longest_step_s(answer.latency, answer.info), time.monotonic())
                    _thread("engine commands", self._send_all, connection, commands, process, ours)
                    self._open_for_goals(answer, commands, start)
                    _thread("engine watchdog", self._watch, watchdog, process, ours, over)
                    continue
                watchdog.heard()
                self._deliver(answer)
        except EOFError:
            pass
        except OSError as error:
            lost = str(error)
        except Exception as error:
            logger.exception("the engine process sent what cannot be read")
            self._kill(process, ours, f"the engine process {process.pid} sent what cannot be read ({error!r}) and was killed")
        finally:
            with self._lock:
                self._commands = None
                if not self._stopping.is_set():
                    self.state = EngineState.RESTARTING
            over.set()
            commands.put(None)
            connection.close()
            ours.close()
            ended = self._reap(process, words, lost)
            self.failure = self._killed_for or told or ended
            self._end_checks()
        return became_ready

    def _send_all(
        self, connection: Connection, commands: queue.SimpleQueue[Command | None], process: subprocess.Popen[bytes], ours: socket.socket
    ) -> None:
        while (command := commands.get()) is not None:
            try:
                connection.send(command)
            except OSError:
                return  # the supervisor sees the end of the pipe, too
            except Exception as error:
                logger.exception("a command cannot be sent")
                self._kill(process, ours, f"a {type(command).__name__} could not be sent to the engine process {process.pid} ({error!r})")
                return

    def _watch(self, watchdog: Watchdog, process: subprocess.Popen[bytes], ours: socket.socket, over: threading.Event) -> None:
        """Kill a process that hangs; its supervisor takes it from there."""
        while not over.wait(LOOK_PERIOD_S):
            with self._lock:
                has_work = bool(self._in_flight or self._checks)
                timeout_s = float(self._parameters["engine.hang_timeout_s"])
            if watchdog.finds_hang(time.monotonic(), has_work=has_work, timeout_s=timeout_s):
                hang = f"the engine process {process.pid} hung (it said nothing for {watchdog.silent_s:.1f} s) and was killed"
                self._kill(process, ours, hang)
                return

    def _kill(self, process: subprocess.Popen[bytes], ours: socket.socket, why: str) -> None:
        self._killed_for = self._killed_for or why
        process.kill()
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)  # a process that hangs in the kernel dies later, or never

    def _spawn(self) -> tuple[Connection, socket.socket, subprocess.Popen[bytes], LastWords]:
        """Raises:
        OSError: the machine has no process or file descriptor left.
        RuntimeError: it has no thread left.
        """
        # The child finds this very package, however the parent found it.
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        with contextlib.ExitStack() as opened:
            ours, theirs = socket.socketpair()
            opened.enter_context(ours)
            with theirs:
                connection = opened.enter_context(Connection(os.dup(ours.fileno())))
                process = subprocess.Popen(
                    [sys.executable, "-m", "slice_ros.process.main", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": path},
                )
            assert process.stderr is not None  # a pipe
            opened.enter_context(process.stderr)
            opened.callback(process.wait)
            opened.callback(process.kill)
            words = LastWords(process.stderr)
            opened.pop_all()
        with self._lock:
            self._process = process
            if self._stopping.is_set():
                process.kill()
        return connection, ours, process, words

    def _reap(self, process: subprocess.Popen[bytes], words: LastWords, lost: str) -> str:
        """Wait for a process whose pipe is lost; says how it ended, if it was not asked to."""
        killed = False
        try:
            status = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            killed = True
            process.kill()
            try:
                status = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                return f"the engine process {process.pid} was killed, but the kernel does not let it go; look at its device"
        if self._stopping.is_set():
            return ""
        if killed:
            return f"the engine process {process.pid} could not be heard any more ({lost}) and was killed"
        if status == Status.ABANDONED:
            return f"the engine process {process.pid} ended because nobody was left at the other end of its pipe (here: {lost})"
        said = words.wait(STOP_TIMEOUT_S)
        signals = {number.value: number.name for number in signal.Signals}  # real-time ones have no name
        how = f"was ended by {signals.get(-status, f'signal {-status}')}" if status < 0 else f"ended with status {status}"
        return f"the engine process {process.pid} {how}" + (f"; the last it said was: {said}" if said else "")

    def _open_for_goals(self, ready: Ready, commands: queue.SimpleQueue[Command | None], start: Start) -> None:
        with self._lock:
            changed = {name: value for name, value in self._parameters.items() if value != start.parameters[name]}
            if changed:  # while the engine started
                commands.put(SetParameters(changed))
            self.ready = ready
            self.failure = ""
            self.state = EngineState.READY
            self._commands = commands
            for request in self._waiting:
                commands.put(Submit(request))
            self._waiting.clear()
            if self._stopping.is_set():
                commands.put(Stop())
        self._first_start.set()

    def _set_state(self, state: EngineState) -> None:
        with self._lock:
            self.state = state

    def _deliver(self, events: list[Event]) -> None:
        """Pass events on, but only one end for each goal."""
        passed: list[Event] = []
        with self._lock:
            for event in events:
                if isinstance(event, Finished):
                    if self._in_flight.pop(event.goal_id, None) is None:
                        continue
                elif isinstance(event, Checked):
                    self._checks.discard(event.check_id)
                passed.append(event)
        if passed:
            try:
                self._on_events(passed)
            except Exception:
                logger.exception("what receives the engine's events failed")  # the engine is not to blame, and goes on

    def _gone(self) -> GoalError:
        return GoalError(ErrorCode.ENGINE_DIED, f"{self.failure or 'the engine process is gone'}; send the goal again")

    def _end_in_flight(self, error: GoalError) -> None:
        """End the goals the dead engine held; those that wait for the next one stay."""
        with self._lock:
            waiting = {request.goal_id for request in self._waiting} if self.state is EngineState.RESTARTING else set()
            lost = [request for request in self._in_flight.values() if request.goal_id not in waiting]
        self._deliver([failed(request, error) for request in lost])

    def _end_checks(self) -> None:
        with self._lock:
            lost, self._checks = self._checks, set()
        error = self._gone()
        self._deliver([Checked(check_id, None, error.code, error.message) for check_id in lost])

    def _end_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        self._deliver([failed(request, self._gone()) for request in waiting])


def _thread(name: str, work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, name=name, daemon=True).start()
