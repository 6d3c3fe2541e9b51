"""The engine's own process: builds the engine and its scheduler, serves commands from a pipe, and answers with events.

llama.cpp aborts its process on an internal error, and the node's Python must not take the interpreter from the scheduler, so neither shares
a process with the node. ``host.py`` starts this module and speaks with it.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from slice_ros.goal import GoalError
from slice_ros.latency.model import LatencyError, LatencyModel
from slice_ros.parameters.table import Value
from slice_ros.process.preparation import Preparation
from slice_ros.process.protocol import Answer, Cancel, Check, Command, Failed, Ready, SetParameters, Start, Status, Stop, Submit
from slice_ros.scheduling.admission import Admission
from slice_ros.scheduling.clock import MonotonicClock
from slice_ros.scheduling.engine import Engine, EngineError
from slice_ros.scheduling.policies import make_policy
from slice_ros.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)

DEFAULT_PROFILE = "rtx4060ti-chatglm2-6b-int4"


def build_engine(parameters: Mapping[str, Value]) -> tuple[Engine, LatencyModel]:
    """The engine that the parameters ask for, and a latency model of its steps.

    Raises:
        EngineError: no engine can be built of them.
        LatencyError: the device profile is missing or wrong.
    """
    kind, profile = str(parameters["engine.kind"]), str(parameters["engine.device_profile"])
    if kind == "simulated":
        from slice_ros.engines.paced import PacedEngine
        from slice_ros.engines.simulated import SimulatedEngine

        latency = LatencyModel.profile(profile or DEFAULT_PROFILE)
        return PacedEngine(SimulatedEngine(latency), latency), latency

    from slice_ros.engines.llama import LlamaConfig, LlamaEngine

    config = LlamaConfig.from_parameters(parameters)
    engine = LlamaEngine(config)
    if kind == "paced":
        from slice_ros.engines.paced import PacedEngine

        latency = LatencyModel.profile(profile or DEFAULT_PROFILE)
        return PacedEngine(engine, latency), latency
    if profile:
        return engine, LatencyModel.profile(profile)

    from slice_ros.process.saved_latency import saved_or_measured

    latency = saved_or_measured(engine, config, int(parameters["scheduler.max_batch"]))
    engine.forget()
    return engine, latency


class EngineProcess:
    """The threads of the process, and its end: whichever of them cannot go on says why to the node, and ends them all."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._sender = self._start("answers", self._send_all)

    def serve(self) -> NoReturn:
        """Build what the first command asks for, then serve until ``Stop``, or until something breaks or the other end is gone."""
        try:
            start: Start = self._receive()
            built: Future[tuple[Scheduler, Preparation]] = Future()
            # From now on, so that a node which is killed while a large model loads leaves no process behind.
            self._start("commands", lambda: self._receive_all(built))
            scheduler = self._build(start)
            # The scheduler never waits for the pipe, and commands are taken in while a step is computed.
            preparation = Preparation(scheduler, self._answers.put)
            self._start("preparation", preparation.run)
            built.set_result((scheduler, preparation))
            scheduler.run()
        except (EngineError, LatencyError) as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("the engine process cannot go on")
            self._fail(f"the engine process cannot go on: {type(error).__name__}: {error}")
        self._end(Status.STOPPED)

    def _build(self, start: Start) -> Scheduler:
        try:
            engine, latency = build_engine(start.parameters)
        except (EngineError, LatencyError):
            raise
        except Exception as error:
            logger.exception("the engine cannot be built")
            raise EngineError(f"the engine cannot be built: {type(error).__name__}: {error}") from error
        scheduler = Scheduler(
            engine,
            make_policy(str(start.parameters["scheduler.policy"])),
            latency,
            self._answers.put,
            clock=MonotonicClock(),
            max_batch=int(start.parameters["scheduler.max_batch"]),
            max_draft=int(start.parameters["scheduler.max_draft"]),
            admission=Admission(start.parameters["scheduler.admission"]),
        )
        # What is there by now stays, and need not be looked through again: the collector would hold a step up for 20 ms now and then.
        gc.collect()
        gc.freeze()
        self._answers.put(Ready(engine.info, latency))
        return scheduler

    def _start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """A thread without which the process is of no use."""

        def guarded() -> None:
            try:
                work()
            except Exception as error:
                logger.exception("the thread of %s cannot go on", name)
                self._fail(f"the engine process cannot go on: {type(error).__name__}: {error} (in its thread of {name})")

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _fail(self, why: str) -> NoReturn:
        if threading.current_thread() is self._sender:
            with contextlib.suppress(OSError):
                self._connection.send(Failed(why))
        self._answers.put(Failed(why))
        self._end(Status.FAILED)

    def _end(self, status: Status) -> NoReturn:
        """After all answers. The model is not freed: another thread may be reading it, and what a process held is free when it is gone."""
        self._answers.put(None)
        if threading.current_thread() is not self._sender:
            self._sender.join(timeout=5.0)
        os._exit(status)

    def _send_all(self) -> None:
        while (answer := self._answers.get()) is not None:
            try:
                self._connection.send(answer)
            except OSError:
                os._exit(Status.ABANDONED)

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            os._exit(Status.ABANDONED)  # neither a load nor a step under way must delay the end

    def _receive_all(self, built: Future[tuple[Scheduler, Preparation]]) -> None:
        while True:
            command: Command = self._receive()
            scheduler, preparation = built.result()
            if isinstance(command, (Submit, Check)):
                preparation.put(command)
            elif isinstance(command, Cancel):
                preparation.cancel(command.goal_id, GoalError(command.code, command.message))
            elif isinstance(command, SetParameters):
                _adopt(command.values, scheduler)
            elif isinstance(command, Stop):
                scheduler.stop()


def _adopt(values: Mapping[str, Value], scheduler: Scheduler) -> None:
    if "scheduler.policy" in values:
        scheduler.set_policy(make_policy(str(values["scheduler.policy"])))
    if "scheduler.max_batch" in values:
        scheduler.set_max_batch(int(values["scheduler.max_batch"]))
    if "scheduler.max_draft" in values:
        scheduler.set_max_draft(int(values["scheduler.max_draft"]))
    if "scheduler.admission" in values:
        scheduler.set_admission(Admission(values["scheduler.admission"]))


def main() -> None:
    """Serve on the connection whose file descriptor is the only argument."""
    # Ctrl-C reaches every process of the terminal, and SIGTERM those of a service; the node decides what becomes of this one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="[%(levelname)s] [slice_engine]: %(message)s", stream=sys.stderr)
    EngineProcess(Connection(int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
