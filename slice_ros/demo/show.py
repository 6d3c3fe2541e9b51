"""Starts the server and the demo's nodes for each policy in turn, shows what happens, and ends everything."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slice_ros.demo.log import Log
from slice_ros.demo.traffic import ASKED, RATE_HZ, TOUR_LIMIT_S
from slice_ros.demo.views import Moment, View
from slice_ros.demo.world import make_floor

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 60.0
"""How long the server may take to publish its first status; the default model is made in this time, too."""
LEAD_S = 0.2
"""From the moment when all nodes are ready to the begin of the traffic."""
END_S = 15.0
LOOK_S = 0.1


class DemoError(Exception):
    """A process of the demo failed; the sentence holds the last lines it wrote."""


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """What to show.

    Args:
        policies: scheduling policies, in this order.
        seeds: of floor and traffic; every policy runs with each of them.
        rate_hz: questions per second of each kind.
        limit_s: when the robot gives its tour up.
        engine: engine.kind of the server.
        device_profile: engine.device_profile of the server.
        model: GGUF file; empty is the default model.
    """

    policies: tuple[str, ...] = ("orca", "slice", "slack")
    seeds: tuple[int, ...] = (0,)
    rate_hz: float = RATE_HZ
    limit_s: float = TOUR_LIMIT_S
    engine: str = "paced"
    device_profile: str = "rtx4060ti-chatglm2-6b-int4"
    model: str = ""


def run_demo(config: DemoConfig, view: View) -> list[Log]:
    """Show it.

    Returns:
        What happened in each run, seed by seed.

    Raises:
        DemoError: the server or a node failed.
    """
    from slice_ros.ros.distributions import confine_to_loopback

    confine_to_loopback()
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(50, 100)))
    logs: list[Log] = []
    runs = [(seed, policy) for seed in config.seeds for policy in config.policies]
    for seed, policy in runs:
        logs.append(Log(policy, seed, make_floor(seed)))
        _run(config, logs, len(runs), view)
    return logs


def _run(config: DemoConfig, logs: Sequence[Log], runs: int, view: View) -> None:
    """One run, of which the last log becomes full."""
    from slice_ros.monitor.viewer import StatusViewer  # the ROS layer reads its environment when it is imported

    log = logs[-1]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slice_ros-demo-")))
        server = stack.enter_context(_process("server", _server_command(config, log.policy), directory))
        viewer = stack.enter_context(StatusViewer())
        view.draw(Moment(logs, runs, 0.0, None))
        _wait_for_first_status(server, viewer)
        nodes = [stack.enter_context(_process(label, _node_command(label, config, log.seed), directory)) for label in ("control", *ASKED)]
        begin_s = _begin(nodes, log)
        robot, *people = nodes
        while robot.status is None:
            viewer.spin(LOOK_S)
            _look([server, robot, *people], log)
            view.draw(Moment(logs, runs, time.monotonic() - begin_s, viewer.status))
        for process in people:
            process.stop()
        _look([robot, *people], log)
        view.draw(Moment(logs, runs, log.end_s, viewer.status))


def _begin(nodes: Sequence[_Process], log: Log) -> float:
    """Wait for all nodes and have them begin together; returns when, on the monotonic clock."""
    deadline_s = time.monotonic() + START_S
    while log.ready < len(nodes):
        time.sleep(LOOK_S)
        _look(nodes, log)
        if time.monotonic() > deadline_s:
            raise DemoError(f"only {log.ready} of {len(nodes)} nodes were ready within {START_S:g} s")
    begin_s = time.monotonic() + LEAD_S
    for node in nodes:
        node.tell(str(begin_s))
    time.sleep(LEAD_S)
    return begin_s


def _look(processes: Sequence[_Process], log: Log) -> None:
    """Read what the nodes have written, and see that all go well."""
    for process in processes:
        process.check()
        log.read(process.new_lines())


# ---- processes


class _Process:
    """A process of the demo; what it writes goes to files, so that the screen stays the view's."""

    def __init__(self, name: str, command: Sequence[str], directory: Path) -> None:
        self.name = name
        output, self._errors = directory / f"{name}.jsonl", directory / f"{name}.txt"
        with output.open("w") as out, self._errors.open("w") as errors:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends everything in order.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=errors, text=True, start_new_session=True)
        self._output = output.open()
        self._rest = ""

    @property
    def status(self) -> int | None:
        return self._process.poll()

    def check(self) -> None:
        if self.status:
            raise DemoError(f"the {self.name} process ended with status {self.status}:\n{self._tail()}")

    def new_lines(self) -> list[str]:
        """The whole lines written since the last call."""
        *lines, self._rest = (self._rest + self._output.read()).split("\n")
        return lines

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None  # it is a pipe
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        if self.status is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.stop()
        self._output.close()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _tail(self) -> str:
        return "\n".join(self._errors.read_text().splitlines()[-15:])


@contextmanager
def _process(name: str, command: Sequence[str], directory: Path) -> Iterator[_Process]:
    process: _Process | None = None
    try:
        with _undisturbed():
            process = _Process(name, command, directory)
        yield process
    finally:
        if process is not None:
            process.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What a signal raises is raised at the end: nobody could end a process that was started and is not known yet."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def _server_command(config: DemoConfig, policy: str) -> list[str]:
    command = [sys.executable, "-m", "slice_ros.cli", "serve", "--engine", config.engine, "--policy", policy]
    if config.engine != "llama":
        # The imitated device is fast enough for one thread of ours, and a second one would take the nodes' time.
        command += ["--device-profile", config.device_profile, "--n-threads", "1"]
    if config.model:
        command += ["--model", config.model]
    return command


def _node_command(label: str, config: DemoConfig, seed: int) -> list[str]:
    options = {"rate": config.rate_hz, "limit": config.limit_s, "seed": seed}
    return [sys.executable, "-m", "slice_ros.demo.robot", label, "--together", *(f"--{name}={value}" for name, value in options.items())]


def _wait_for_first_status(server: _Process, viewer: Any) -> None:
    deadline = time.monotonic() + START_S
    while viewer.status is None:
        viewer.spin(0.1)
        server.check()
        if server.status is not None or time.monotonic() > deadline:
            raise DemoError(f"the server published no status within {START_S:g} s")
