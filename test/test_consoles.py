"""What README and docs show of a session in a shell, run again: what each command prints is what stands there, but for times."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParametersAtomically
from serving import READY_S, serving
from smollm2 import needs_smollm2

from slice_ros.cli import main
from slice_ros.commands.session import Session

ROOT = Path(__file__).parent.parent
ASKS = {"cancel", "check", "models", "policy", "send"}
"""Commands of slice-ros that are run, ..."""
SETS = {"describe", "set"}
"""... and those of `ros2 param`, by their services. Others need ROS 2 itself, or are looked at by their own tests."""
ELSEWHERE = re.compile(r"^\$ (ros2 (launch|lifecycle)|slice-ros serve|curl)\b", re.MULTILINE)
"""A session with one of these is of another server, or of one in another state."""
ON_TIME = "--deadline 0.05"
"""Where the shown goal breaks off, the machine decides."""
TRIES = 4
"""A busy machine may be late once."""
TYPES = {bool: "bool", int: "integer", float: "double", str: "string"}


class Command(NamedTuple):
    line: str
    shown: str


def sessions(page: Path) -> Iterator[str]:
    """The blocks of a page that show commands and what they print."""
    yield from re.findall(r"^```\n(\$ .*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


PAGES = [
    pytest.param(page, id=page.name, marks=[needs_smollm2] if page.name == "models.md" else [])  # which lists it
    for page in sorted((ROOT / "docs").glob("*.md"))
    if any(sessions(page))
]


def commands(session: str) -> list[Command]:
    parts = re.split(r"^\$ (.*)\n", session, flags=re.MULTILINE)[1:]
    return [Command(line.partition("  #")[0].strip(), shown) for line, shown in zip(parts[::2], parts[1::2], strict=True)]


def shape(text: str) -> list[str]:
    """What is printed without times, without how many steps these allowed, and without blanks at the ends of lines."""
    if text.startswith('{"goal_id"'):
        answer = json.loads(text)
        return [answer["text"], answer["finish_reason"], *answer, *answer["report"]]
    return [line.rstrip() for line in re.sub(r" in \d+ steps", "", re.sub(r"\d+(\.\d+)? (m?s)\b", r"# \2", text)).strip().splitlines()]


@pytest.fixture
def shell(capsys, monkeypatch, tmp_path):
    """Runs a command of a page beside a server; what it prints, or ``None`` where it is not run here."""
    monkeypatch.chdir(tmp_path)

    def run(line: str, server: str = "/slice_server") -> str | None:
        _, *words = shlex.split(line.replace("ros2 slice", "slice-ros"))
        if line.startswith("ros2 param") and words[1] in SETS:
            with Session(server, READY_S) as session:
                return _set(session, *words[3:]) if words[1] == "set" else "\n".join(_described(session, name) for name in words[3:])
        if line.startswith("echo"):
            return subprocess.run(line, shell=True, check=True, stdout=subprocess.PIPE, text=True).stdout
        if line.startswith(("slice-ros", "ros2 slice")) and words[0] in ASKS and ON_TIME not in line:
            capsys.readouterr()
            main([*words, *(() if words[0] == "models" else ("--server", server, "--timeout", str(READY_S)))])
            return "".join(capsys.readouterr())
        return None

    return run


def _set(session: Session, name: str, text: str) -> str:
    value = yaml.safe_load(text)
    kind = TYPES[type(value)]
    told = ParameterValue(type=getattr(ParameterType, f"PARAMETER_{kind.upper()}"), **{f"{kind}_value": value})
    request = SetParametersAtomically.Request(parameters=[Parameter(name=name, value=told)])
    result = session.call(SetParametersAtomically, "set_parameters_atomically", request).result
    return "Set parameter successful" if result.successful else f"Setting parameter failed: {result.reason}"


def _described(session: Session, name: str) -> str:
    (told,) = session.call(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=[name])).descriptors
    (kind,) = [kind for kind in TYPES.values() if getattr(ParameterType, f"PARAMETER_{kind.upper()}") == told.type]
    lines = [f"Parameter name: {name}", f"  Type: {kind}", f"  Description: {told.description}", "  Constraints:"]
    for limits in told.integer_range:
        lines += [f"    Min value: {limits.from_value}", f"    Max value: {limits.to_value}", f"    Step: {limits.step}"]
    return "\n".join([*lines, f"    Additional constraints: {told.additional_constraints}"])


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with serving("slice_server", "--engine", "paced"):
        yield


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("page", PAGES)
def test_commands_print_what_the_pages_say(page, shell):
    shell("slice-ros policy slack")  # whatever another page has changed
    for session in sessions(page):
        if not ELSEWHERE.search(session):
            for command in commands(session):
                agrees(command, shell)


def agrees(command: Command, shell: Callable[..., str | None], *server: str) -> None:
    for _ in range(TRIES):
        printed = shell(command.line, *server)
        if printed is None or shape(printed) == shape(command.shown):
            return
    assert shape(printed) == shape(command.shown), command.line


@needs_smollm2
def test_five_minutes_with_a_real_model_are_as_the_readme_shows_them(shell, capsys, monkeypatch):
    (session,) = [session for session in sessions(ROOT / "README.md") if "slice-ros serve" in session]
    *asked, chat = commands(session)
    with serving("real_server", "--engine", "paced", "--model", "smollm2"):
        for command in asked:
            agrees(command, shell, "/real_server")
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(re.findall("^> (.*)", chat.shown, re.MULTILINE))))
        assert main([*shlex.split(chat.line)[1:], "--server", "/real_server"]) == 0
    out, err = map(shape, capsys.readouterr())
    shown = shape(re.sub("^> .*\n", "", chat.shown, flags=re.MULTILINE).replace("/slice_server", "/real_server"))
    assert sorted(out + err) == sorted(shown)
    assert [line for line in shown if line in out] == out
