"""The command line: help for every command, sentences and exit status 2 for wrong arguments."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest
import rclpy
from rclpy.executors import ExternalShutdownException
from serving import READY_S, Peer, serving

from slice_ros.cli import COMMANDS, main, make_parser
from slice_ros.commands.serve import ros_arguments
from slice_ros.ros.distributions import RCLError, refusal


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    page = capsys.readouterr().out
    assert "usage: slice-ros " + command in page
    assert not {"None", "False", "[]", ""} & {default.strip(" )") for default in re.findall(r"\(default:([^)]*\))", page)}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--policy", "fifo"], "invalid choice: 'fifo'"),
        (["demo", "--limit", "soon"], "invalid float value: 'soon'"),
        (["dance"], "invalid choice: 'dance'"),
        (["send", "go", "--json-schema", "velocty"], "velocty cannot be read"),
        (["send", "go", "--max-tokens", "-1"], "--max-tokens: -1 is out of range"),
        (["send", "go", "--seed", "4294967296"], "in 0 to 4294967295"),
    ],
)
def test_wrong_arguments_end_with_status_2_and_say_which(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_real_time_goal_without_a_bound_is_refused_before_anything_is_sent(capsys):
    assert main(["send", "go", "--real-time"]) == 2
    assert "no bound" in capsys.readouterr().err


def test_a_temperature_below_zero_is_refused_before_anything_is_sent(capsys):
    assert main(["send", "go", "--temperature", "-1"]) == 2
    assert "temperature is -1.0; it must be 0 (greedy) to 1000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--limit", "0"], "limit is 0.0; it must be above 0"),
        (["--seeds", "-1"], "seeds is -1; it must be above 0"),
        (["--policies", "orca,fifo"], "there is no policy 'fifo'"),
        (["--record", "demo.mp4"], "must end in .gif"),
    ],
)
def test_a_demo_of_nothing_is_refused(arguments, says, capsys):
    assert main(["demo", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["send", "go"], ["status"], ["top"]], ids=lambda arguments: arguments[0])
def test_what_ros_refuses_is_a_sentence(arguments, monkeypatch, capsys):
    def refuse(*_args, **_options):
        raise RCLError(
            "failed to create topic [rr/slice_cli/get_parametersReply] for unknown reasons, at /src/rmw.cpp:1941, at /src/rcl.c:159"
        )

    monkeypatch.setattr(rclpy, "create_node", refuse)
    try:
        assert main(arguments) == 1
    finally:
        rclpy.try_shutdown()
    sentence = capsys.readouterr().err.strip()
    assert sentence == (
        f"slice-ros {arguments[0]}: ROS refuses it: failed to create topic [rr/slice_cli/get_parametersReply] for unknown reasons"
    )


@pytest.mark.parametrize("end", [ExternalShutdownException(), RCLError("the given context is not valid, rcl_shutdown() was called")])
def test_a_signal_that_ros_notices_ends_a_command_with_130(end, monkeypatch, capsys):
    def interrupted(*_args, **_options):
        raise end

    monkeypatch.setattr(rclpy, "create_node", interrupted)
    try:
        assert main(["status"]) == 130
    finally:
        rclpy.try_shutdown()
    assert capsys.readouterr().err == ""


def test_where_sros2_is_on_what_ros_refuses_says_where_to_look(monkeypatch):
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    assert "SECURITY.md" in refusal(RCLError("error creating node"))


def test_an_error_that_is_not_of_ros_is_not_hidden(monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(rclpy, "create_node", fail)
    try:
        with pytest.raises(RuntimeError, match="a bug"):
            main(["status"])
    finally:
        rclpy.try_shutdown()


def test_serve_hands_its_options_on_as_ros_parameters():
    parsed = make_parser().parse_args(["serve", "--engine", "simulated", "--n-ctx", "512", "-p", "status.rate_hz:=4.0", "--name", "llm"])
    arguments = ros_arguments(parsed)
    pairs = {(arguments[i], arguments[i + 1]) for i in range(len(arguments) - 1)}
    assert ("-r", "__node:=llm") in pairs
    assert ("-p", 'engine.kind:="simulated"') in pairs
    assert ("-p", "context.n_ctx:=512") in pairs
    assert ("-p", "status.rate_hz:=4.0") in pairs
    assert not any("scheduler.policy" in argument for argument in arguments)


def test_a_send_that_is_told_to_end_cancels_its_goal_and_says_which_signal_it_was():
    rclpy.init(args=[])
    peer = Peer("interrupted")
    try:
        with serving("interrupted", "--engine", "simulated"):
            peer.client.wait_for_server(READY_S)
            command = [
                sys.executable,
                "-m",
                "slice_ros.cli",
                "send",
                "a long story",
                "--raw",
                "--max-tokens",
                "8000",
                "--server",
                "/interrupted",
            ]
            hung_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]  # these tests may run under nohup
            for number in (signal.SIGINT, signal.SIGTERM, *hung_up):
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as sending:
                    assert sending.stdout.read(1)
                    sending.send_signal(number)
                    error = sending.communicate(timeout=10)[1]
                assert sending.returncode == 128 + number
                assert error == b""
                peer.spin_until(lambda: peer.status().running == 0)
            with subprocess.Popen(["nohup", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True) as sending:
                assert sending.stdout.read(1)
                sending.send_signal(signal.SIGHUP)
                peer.spin_until(lambda: peer.status().running == 1)
                assert sending.poll() is None
                sending.terminate()
                sending.communicate(timeout=10)
            assert sending.returncode == 128 + signal.SIGTERM
    finally:
        peer.close()
        rclpy.try_shutdown()


def test_a_goal_among_many_is_canceled_by_the_begin_of_its_id():
    rclpy.init(args=[])
    peer = Peer("crowded")
    try:
        with serving("crowded", "--engine", "simulated"):
            peer.client.wait_for_server(READY_S)
            crowd = [peer.client.send(f"goal {i}", max_tokens=5000) for i in range(100)]
            peer.spin_until(lambda: all(generation._is_taken for generation in crowd))
            shown = set(peer.status().mask.goals)  # only some of them
            hidden = next(generation for generation in crowd if generation.goal_id not in shown)
            command = [sys.executable, "-m", "slice_ros.cli", "cancel", hidden.goal_id[:12], "--server", "/crowded"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as canceling:
                peer.spin_until(lambda: canceling.poll() is not None)
                assert canceling.stdout.read() == f"canceling {hidden.goal_id}\n"
            peer.spin_until(lambda: hidden.done)
            assert sum(generation.done for generation in crowd) == 1
            peer.client.cancel_all()
            peer.spin_until(lambda: all(generation.done for generation in crowd))
    finally:
        peer.close()
        rclpy.try_shutdown()
