"""The command line in odd places: wrong files, names, bytes, terminals, pipes. Each is one sentence, or just works."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from importlib import import_module
from types import ModuleType

import pytest
import rclpy
from rich.console import Console
from serving import READY_S, Peer, serving
from test_terminal import status

from slice_ros.cli import COMMANDS, main
from slice_ros.client import Answer
from slice_ros.commands.arguments import yaml_string
from slice_ros.commands.send import verdict
from slice_ros.monitor.terminal import draw_figures, draw_status
from slice_ros.scheduling.task import SloReport

FILES = {
    "empty.yaml": b"",
    "tabs.yaml": b"slice_server:\n\tros__parameters:\n\t\ta: 1\n",
    "nameless.yaml": b"ros:\n  status.rate_hz: 1.0\n",
    "latin.yaml": "slice_server: {ros__parameters: {model.path: 'm\u00fcll'}}".encode("latin-1"),
    "cut.yaml": b"slice_server: {ros__parameters: [",
    "date.yaml": b"slice_server: {ros__parameters: {a: 2001-13-01}}",
    "latin.json": '{"title": "m\u00fcll"}'.encode("latin-1"),
}
WRONG = [
    (["serve", "--params-file", "nowhere.yaml"], "nowhere.yaml cannot be read (No such file or directory)"),
    (["serve", "--params-file", "empty.yaml"], "empty.yaml sets no parameter"),
    (["serve", "--params-file", "tabs.yaml"], "tabs.yaml is no YAML in line 2: a tab, where YAML takes spaces"),
    (["serve", "--params-file", "nameless.yaml"], "nameless.yaml sets no parameter: below a node's name or /**, ros__parameters"),
    (["serve", "--params-file", "latin.yaml"], "latin.yaml is no UTF-8 text at byte 47; save it as UTF-8"),
    (["serve", "--params-file", "cut.yaml"], "cut.yaml is no YAML in line 1"),
    (["serve", "--params-file", "date.yaml"], "date.yaml is no YAML: month must be in 1..12"),
    (["serve", "-p", "a=b"], "'a=b' sets no parameter; write NAME:=VALUE"),
    (["serve", "--n-ctx", "many"], "invalid int value: 'many'"),
    (["serve", "--name", "my server"], "'my server' is no name of a node"),
    (["serve", "--namespace", "a b"], "'a b' is no namespace"),
    (["send", "go", "--json-schema", "latin.json"], "latin.json is no UTF-8 text"),
    (["send", "go", "--grammar", "."], ". cannot be read (Is a directory)"),
    (["send", "\udcff\udcfe"], "is no UTF-8 text"),
    (["send", "go", "--stop", "\udcff"], "argument stop: '\\udcff' is no UTF-8 text"),
    (["check"], "one of the arguments prompt --prompt-tokens is required"),
]


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("arguments", "says"), WRONG, ids=[ascii(" ".join(arguments)) for arguments, _ in WRONG])
def test_a_wrong_argument_is_a_sentence(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def ros2_slice(monkeypatch, *arguments: str) -> int:
    """What ros2cli does of its command ``slice``, with its base class's name alone."""
    monkeypatch.setitem(sys.modules, "ros2cli", ModuleType("ros2cli"))
    monkeypatch.setitem(sys.modules, "ros2cli.command", ModuleType("ros2cli.command"))
    monkeypatch.setattr(sys.modules["ros2cli.command"], "CommandExtension", object, raising=False)
    monkeypatch.delitem(sys.modules, "ros2slice.command.slice", raising=False)
    command = import_module("ros2slice.command.slice").SliceCommand()
    parser = ArgumentParser(prog="ros2 slice")
    command.add_arguments(parser, "ros2")
    return command.main(parser=parser, args=parser.parse_args(arguments))


def test_ros2_slice_refuses_what_is_no_text_as_slice_ros_does(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        ros2_slice(monkeypatch, "send", "go \udcff")
    assert ended.value.code == 2
    assert "ros2 slice send: error: argument prompt: 'go \\udcff' is no UTF-8 text" in capsys.readouterr().err


def test_ros2_slice_replaces_what_a_terminal_cannot_show(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(COMMANDS["status"], "run", lambda _: terminal.write("18 °C\n") and 0)
    assert ros2_slice(monkeypatch, "status") == 0
    assert terminal.buffer.getvalue() == b"18 ?C\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_bytes_that_are_no_text_are_refused_by_every_command(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--server", "\udcff"] if command not in {"serve", "demo", "bench", "calibrate", "report"} else [command, "\udcff"])
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_path_reaches_the_server_as_it_is(tmp_path):
    for name in ("a\u3000b", "back\\slash", "both'\"quotes", "new\nline", "\U0001f916", "#, : {}"):
        path = str(tmp_path / name)
        context = rclpy.Context()
        context.init(args=["--ros-args", "-p", f"model:={yaml_string(path)}"])
        try:
            node = rclpy.create_node("n", context=context, automatically_declare_parameters_from_overrides=True)
            assert node.get_parameter("model").value == path
            node.destroy_node()
        finally:
            context.shutdown()


def test_standard_input_that_is_no_text_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert main(["send", "-"]) == 2
    assert capsys.readouterr().err == "slice-ros send: standard input is no UTF-8 text at byte 0\n"


@pytest.mark.usefixtures("files")
def test_a_schema_may_be_of_any_unicode(tmp_path):
    from slice_ros.commands.arguments import text_file

    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "schema.json").write_text('{"title": "m\u00fcll"}', encoding=encoding)
        assert json.loads(text_file(str(tmp_path / "schema.json"))) == {"title": "m\u00fcll"}


def test_the_verdict_tells_what_there_is():
    report = SloReport(True, True, True, True, ttft_s=0.02, e2e_s=0.02, prompt_tokens=3, output_tokens=1, steps=1)
    whole, cut = Answer("x", "stop", report), Answer("x", "length", report)
    assert verdict(whole, is_best_effort=False) == "SLO met: TTFT 20 ms, end to end 0.020 s, 3 + 1 tokens"
    assert verdict(cut, is_best_effort=False) == "SLO met: TTFT 20 ms, end to end 0.020 s, 3 + 1 tokens, cut at max_tokens"
    assert verdict(whole, is_best_effort=True).startswith("SLO of a best-effort goal (--real-time makes it a promise) met: ")


def test_figures_fit_80_columns_and_the_view_its_lines():
    figures = status().classes[0]
    figures.label, figures.attained, figures.e2e_ms_p99 = "manipulation of x", 12000, 99999.0
    figures.submitted = figures.completed = 12345
    message = status(classes=[figures] * 4, model="SmolLM2-135M-Instruct.Q4_1.gguf", device="AMD EPYC 7B13, 2 threads", tokens_per_s=1234)
    for view in (draw_figures(message), draw_status(message, title="/slice_server   (Ctrl-C leaves)", height=24)):
        console = Console(width=80, height=24, record=True, file=io.StringIO())
        console.print(view)
        lines = console.export_text().splitlines()
        assert len(lines) <= 24
        assert all(len(line) <= 80 for line in lines)
        (row,) = {line for line in lines if line.startswith("manipul")}
        assert "12345" in row
        assert row.endswith("100.0")


@pytest.fixture(scope="module")
def server():
    rclpy.init(args=[])
    with serving("odd", "--engine", "simulated"):
        peer = Peer("odd")
        peer.client.wait_for_server(READY_S)
        yield peer
        peer.close()
    rclpy.try_shutdown()


def slice_ros(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "slice_ros.cli", *arguments, "--server", "/odd"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_an_answer_that_nobody_reads_any_more_is_canceled(server):
    with slice_ros("send", "a long story", "--raw", "--max-tokens", "8000") as sending:
        assert sending.stdout.read(5)
        sending.stdout.close()
        error = sending.stderr.read()
    assert sending.returncode == 141
    assert error == b""
    server.spin_until(lambda: server.status().running == 0)


def test_a_terminal_that_cannot_show_an_answer_shows_what_it_can(server):
    with slice_ros("send", "go", "--max-tokens", "3", "--json", env={**os.environ, "PYTHONIOENCODING": "ascii"}) as sending:
        out, error = sending.communicate(timeout=60)
    assert (sending.returncode, error) == (0, b"")
    assert out.isascii()


def test_top_tells_line_after_line_where_nothing_can_be_drawn_over(server):
    with slice_ros("top", env={**os.environ, "TERM": "dumb"}, text=True) as top:
        assert any("policy" in top.stdout.readline() for _ in range(3))
        top.send_signal(2)
        _, error = top.communicate(timeout=30)
    assert (top.returncode, error) == (130, "")


def test_check_says_whether_a_goal_would_be_in_time(server):
    fits = ["check", "--prompt-tokens", "10", "--max-tokens", "10", "--real-time", "--deadline", "20"]
    with slice_ros(*fits, text=True) as checking:
        out, error = checking.communicate(timeout=60)
    assert (checking.returncode, error) == (0, "")
    assert out.startswith("would meet its SLO: TTFT ")
    with slice_ros("check", "hello", "--max-tokens", "100", "--real-time", "--deadline", "0.05", text=True) as checking:
        out, _ = checking.communicate(timeout=60)
    assert checking.returncode == 1
    assert out.startswith("would miss its SLO: TTFT ")
    with slice_ros("check", "hello", "--real-time", text=True) as checking:
        _, error = checking.communicate(timeout=60)
    assert checking.returncode == 2
    assert "no bound" in error
