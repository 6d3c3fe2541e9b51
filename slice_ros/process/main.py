"""The engine's own process: builds the engine and its scheduler, serves commands from a pipe, and answers with events.

llama.cpp aborts its process on an internal error, and the node's Python must not take the interpreter from the scheduler, so neither shares
a process with the node. ``host.py`` starts this module and speaks with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection

from slice_ros.goal import GoalError
from slice_ros.latency.model import LatencyError, LatencyModel
from slice_ros.parameters.table import Value
from slice_ros.process.preparation import Preparation
from slice_ros.process.protocol import Answer, Cancel, Check, Command, Failed, Ready, SetParameters, Start, Stop, Submit
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


def serve(connection: Connection) -> int:
    """Build what the first command asks for, then serve until ``Stop`` or until the other end is gone.

    Returns:
        The process's exit status, 1, when the engine could not be built; else it ends the process with status 0.
    """
    start: Start = connection.recv()
    built: Future[tuple[Scheduler, Preparation]] = Future()
    # From now on, so that a node which is killed while a large model loads leaves no process behind.
    threading.Thread(target=_receive_all, args=(connection, built), name="commands", daemon=True).start()
    try:
        engine, latency = build_engine(start.parameters)
    except (EngineError, LatencyError) as error:
        connection.send(Failed(str(error)))
        return 1
    except Exception as error:
        logger.exception("the engine cannot be built")
        connection.send(Failed(f"the engine cannot be built: {type(error).__name__}: {error}"))
        return 1
    answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
    scheduler = Scheduler(
        engine,
        make_policy(str(start.parameters["scheduler.policy"])),
        latency,
        answers.put,
        clock=MonotonicClock(),
        max_batch=int(start.parameters["scheduler.max_batch"]),
        admission=Admission(start.parameters["scheduler.admission"]),
    )
    answers.put(Ready(engine.info, latency))
    # The scheduler never waits for the pipe, and commands are taken in while a step is computed.
    sender = threading.Thread(target=_send_all, args=(connection, answers), name="answers", daemon=True)
    preparation = Preparation(scheduler, answers.put)
    preparer = threading.Thread(target=preparation.run, name="preparation", daemon=True)
    sender.start()
    preparer.start()
    built.set_result((scheduler, preparation))
    scheduler.run()
    answers.put(None)
    sender.join(timeout=5.0)
    # Without freeing the model: the preparation's thread may be reading it, and what a process held is free when it is gone.
    os._exit(0)


def _send_all(connection: Connection, answers: queue.SimpleQueue[Answer | None]) -> None:
    while (answer := answers.get()) is not None:
        try:
            connection.send(answer)
        except OSError:
            return  # the node is gone; the receiver sees it, too


def _receive_all(connection: Connection, built: Future[tuple[Scheduler, Preparation]]) -> None:
    while True:
        try:
            command: Command = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # nobody is left to answer to; neither a load nor a step under way must delay the end
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
    if "scheduler.admission" in values:
        scheduler.set_admission(Admission(values["scheduler.admission"]))


def main() -> None:
    """Serve on the connection whose file descriptor is the only argument."""
    # Ctrl-C reaches every process of the terminal; the node decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="[%(levelname)s] [slice_engine]: %(message)s", stream=sys.stderr)
    status = 1
    with contextlib.closing(Connection(int(sys.argv[1]))) as connection:
        status = serve(connection)
    sys.exit(status)


if __name__ == "__main__":
    main()
