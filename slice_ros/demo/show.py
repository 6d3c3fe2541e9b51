"""Starts the server and the robot nodes, shows what happens, ends everything, and says how it went."""

from __future__ import annotations

import json
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
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from slice_ros.monitor.statistics import percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 60.0
"""How long the server may take to publish its first status; the default model is made in this time, too."""
END_S = 15.0


class DemoError(Exception):
    """A process of the demo failed; the sentence holds the last lines it wrote."""


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """What to show.

    Args:
        duration_s: how long the robots send goals.
        rate_hz: goals per second of the three robots together, in the shares of ``robot-mix``.
        policy: scheduling policy.
        engine: engine.kind of the server.
        device_profile: engine.device_profile of the server.
        model: GGUF file; empty is the default model.
        seed: of the traffic.
    """

    duration_s: float = 30.0
    rate_hz: float = 2.0
    rt_share: float = 0.7
    policy: str = ""
    engine: str = "paced"
    device_profile: str = "rtx4060ti-chatglm2-6b-int4"
    model: str = ""
    seed: int = 0

    @property
    def rates_hz(self) -> dict[str, float]:
        rest = self.rate_hz * (1.0 - self.rt_share) / 2.0
        return {"control": self.rate_hz * self.rt_share, "voice": rest, "qa": rest}


def run_demo(config: DemoConfig, console: Console) -> dict[str, Any]:
    """Show it.

    Returns:
        The report, in the form that ``slice-ros demo --json`` writes.

    Raises:
        DemoError: the server or a robot failed.
    """
    confine_to_loopback()
    from slice_ros.monitor.viewer import StatusViewer  # the ROS layer reads its environment when it is imported

    with ExitStack() as stack:
        server = stack.enter_context(_process("server", _server_command(config)))
        viewer = stack.enter_context(StatusViewer())
        with console.status("starting the server (the first time, the default model is made)"):
            _wait_for_first_status(server, viewer)
        robots = {
            label: stack.enter_context(_process(label, _robot_command(label, rate_hz, config)))
            for label, rate_hz in config.rates_hz.items()
        }
        _watch(config, console, viewer, [server, *robots.values()], list(robots.values()))
        records = {label: robot.record() for label, robot in robots.items()}
        status = viewer.status
    return {
        "policy": status.policy,
        "model": status.model,
        "device": status.device,
        "duration_s": config.duration_s,
        "classes": {label: _class_report(record) for label, record in records.items()},
    }


def confine_to_loopback() -> None:
    """Keep the demo's DDS traffic on this machine, in a domain of its own unless one is set."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.pop("ROS_STATIC_PEERS", None)
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"  # Humble does not know the discovery range yet
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(50, 100)))


def report_table(report: dict[str, Any]) -> Table:
    """The report for a terminal of 80 columns; times in milliseconds, p50 / p99."""
    table = Table(title=f"{report['duration_s']:g} s of goals under policy {report['policy']}", caption=report["device"])
    for name in ("class", "goals", "SLO attained", "TTFT", "TPOT", "end to end"):
        table.add_column(name, justify="left" if name == "class" else "right", no_wrap=True)
    for label, c in report["classes"].items():
        share = "" if c["attainment"] is None else f" {c['attainment']:.0%}"
        times = (c[name] for name in ("ttft_ms", "tpot_ms", "e2e_ms"))
        table.add_row(label, str(c["submitted"]), f"{c['attained']}{share}", *(f"{_ms(t['p50'])} / {_ms(t['p99'])}" for t in times))
    return table


def report_examples(report: dict[str, Any]) -> Table:
    """The latest prompt and answer of each class, and how many answers were right, which only the default model's language tells."""
    table = Table(title=f"What {report['model']} said", show_lines=True)
    for name in ("class", "right", "asked", "answered"):
        table.add_column(name, no_wrap=name in ("class", "right"), ratio=1 if name in ("asked", "answered") else None)
    for label, c in report["classes"].items():
        table.add_row(label, f"{c['right']}/{c['completed']}", escape(c["prompt"]), escape(c["answer"]))
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _class_report(record: dict[str, Any]) -> dict[str, Any]:
    report: dict[str, Any] = {name: record[name] for name in ("submitted", "completed", "attained", "right", "prompt", "answer")}
    report["attainment"] = round(record["attained"] / record["submitted"], 4) if record["submitted"] else None
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        values = record[name]
        report[name] = {f"p{share}": round(percentile(values, share / 100), 1) if values else None for share in (50, 99)}
    return report


# ---- processes


class _Process:
    """A process of the demo; what it writes goes to files, so that the screen stays the view's."""

    def __init__(self, name: str, command: Sequence[str], output: IO[str], errors: IO[str]) -> None:
        self.name = name
        self._output, self._errors = output, errors
        # A session of its own: Ctrl-C reaches the demo alone, which then ends everything in order.
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True)

    @property
    def status(self) -> int | None:
        return self._process.poll()

    def check(self) -> None:
        if self.status:
            raise DemoError(f"the {self.name} process ended with status {self.status}:\n{self._tail()}")

    def record(self) -> dict[str, Any]:
        self._output.seek(0)
        lines = self._output.read().splitlines()
        if not lines:
            raise DemoError(f"the {self.name} process wrote no record:\n{self._tail()}")
        record: dict[str, Any] = json.loads(lines[-1])
        return record

    def stop(self) -> None:
        if self.status is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tail(self) -> str:
        self._errors.seek(0)
        return "".join(self._errors.readlines()[-15:])


@contextmanager
def _process(name: str, command: Sequence[str]) -> Iterator[_Process]:
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = _Process(name, command, output, errors)
        try:
            yield process
        finally:
            process.stop()


def _server_command(config: DemoConfig) -> list[str]:
    command = [sys.executable, "-m", "slice_ros.cli", "serve", "--engine", config.engine]
    if config.engine != "llama":
        # The imitated device is fast enough for one thread of ours, and a second one would take the robots' time.
        command += ["--device-profile", config.device_profile, "--n-threads", "1"]
    if config.policy:
        command += ["--policy", config.policy]
    if config.model:
        command += ["--model", config.model]
    return command


def _robot_command(label: str, rate_hz: float, config: DemoConfig) -> list[str]:
    options = {"rate": rate_hz, "duration": config.duration_s, "seed": config.seed}
    return [sys.executable, "-m", "slice_ros.demo.robot", label, *(f"--{name}={value}" for name, value in options.items())]


# ---- watching


def _wait_for_first_status(server: _Process, viewer: Any) -> None:
    deadline = time.monotonic() + START_S
    while viewer.status is None:
        viewer.spin(0.1)
        server.check()
        if server.status is not None or time.monotonic() > deadline:
            raise DemoError(f"the server published no status within {START_S:g} s")


def _watch(config: DemoConfig, console: Console, viewer: Any, processes: Sequence[_Process], robots: Sequence[_Process]) -> None:
    from slice_ros.monitor.terminal import draw_status

    began = time.monotonic()
    title = f"{config.rate_hz:g} goals/s for {config.duration_s:g} s"
    next_line_s = began + 5.0
    with ExitStack() as stack:
        live = stack.enter_context(Live(console=console, auto_refresh=False)) if console.is_terminal else None
        while any(robot.status is None for robot in robots):
            viewer.spin(0.1)
            for process in processes:
                process.check()
            elapsed = time.monotonic() - began
            if live is not None:
                live.update(draw_status(viewer.status, title=f"{title}: {min(elapsed, config.duration_s):.0f} s"), refresh=True)
            elif time.monotonic() > next_line_s:
                next_line_s += 5.0
                figures = ", ".join(f"{c.label} {c.attained}/{c.completed + c.failed}" for c in viewer.status.classes)
                console.print(f"{elapsed:3.0f} s: SLO attained of ended: {figures}")
        viewer.spin(1.0)
