"""The command line against a running server: what each verb says, as text and as JSON, and its exit status."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from serving import READY_S, children_of, serving

from slice_ros.cli import main
from slice_ros.client import SliceClient
from slice_ros.goal import ChatMessage

SERVER = "/commands"
HERE = ("--server", SERVER, "--timeout", str(READY_S))
STORY = ("a long story", "--max-tokens", "20000", "--deadline", "1000", "--label")
NOBODY = ("--server", "/nobody", "--timeout", "0.3")


@pytest.fixture(scope="module", autouse=True)
def server():
    with serving("commands", "--engine", "simulated", "-p", "limits.max_tokens:=20000") as process:
        yield process


@pytest.fixture
def slice_ros(capsys):
    """Runs a command; its exit status, and what it printed to standard output and to standard error."""

    def run(*arguments):
        capsys.readouterr()
        status = main(arguments)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def status(slice_ros):
    ended, out, err = slice_ros("status", *HERE, "--json")
    assert ended == 0, err
    return json.loads(out)


def goals_in_hand(slice_ros, label, count):
    """Their ids, once the server tells of so many of that label; a status may be older than what was just sent or has just ended."""
    deadline = time.monotonic() + READY_S
    while True:
        mask = status(slice_ros)["mask"]
        rows = zip(mask["goals"], mask["labels"], mask["slack_ms"], strict=True)
        goals = [goal for goal, name, slack in rows if name == label and slack is not None]
        if len(goals) == count:
            return goals
        assert time.monotonic() < deadline, mask


@contextmanager
def started(*arguments, server=SERVER, **environment):
    """A command in a process of its own."""
    command = [sys.executable, "-m", "slice_ros.cli", *arguments, "--server", server, "--timeout", str(READY_S)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, env=os.environ | environment)
    try:
        with process:
            yield process
    finally:
        process.kill()


# ---- send


def test_send_prints_the_text_and_tells_how_it_went_beside_it(slice_ros):
    ended, out, err = slice_ros("send", "x" * 40, "--max-tokens", "3", *HERE)
    assert (ended, out) == (0, "xxx\n")
    assert err.startswith("SLO met: TTFT ")
    assert err.endswith("10 + 3 tokens, cut at max_tokens\n")


def test_send_prints_one_object_as_json(slice_ros):
    ended, out, _ = slice_ros("send", "go", "--deadline", "0.0001", "--max-tokens", "2", "--json", *HERE)
    answer = json.loads(out)
    assert (ended, answer["text"], answer["finish_reason"]) == (1, "xx", "length")  # it missed its SLO
    assert (answer["report"]["attained"], answer["report"]["output_tokens"]) == (False, 2)
    assert "logprobs" not in answer


def test_what_is_not_known_is_null_in_json(slice_ros):
    _, out, _ = slice_ros("send", "go", "--max-tokens", "1", "--json", *HERE)
    assert json.loads(out)["report"]["tpot_s"] is None  # one token has no gap


def test_send_reads_a_prompt_from_its_standard_input(slice_ros, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 80)))
    _, _, err = slice_ros("send", "-", "--max-tokens", "1", *HERE)
    assert "20 + 1 tokens" in err


def test_send_puts_a_system_message_before_the_prompt(slice_ros):
    _, _, err = slice_ros("send", "x" * 40, "--system", "y" * 40, "--max-tokens", "1", *HERE)
    assert "20 + 1 tokens" in err


def test_what_is_said_is_a_message_where_the_model_has_a_template_unless_it_is_to_be_raw(slice_ros, monkeypatch):
    sent = []
    told = SimpleNamespace(chat_template="model")
    monkeypatch.setattr("slice_ros.commands.send.status_of", lambda *_: told)
    monkeypatch.setattr("slice_ros.client.SliceClient.send", recorded(SliceClient.send, sent))
    for template, options in (("model", ()), ("model", ("--raw",)), ("", ())):
        told.chat_template = template
        assert slice_ros("send", "x" * 40, "--max-tokens", "1", *options, *HERE)[0] == 0
    assert sent == [[ChatMessage("user", "x" * 40)], "x" * 40, "x" * 40]


def recorded(send, prompts):
    def record(client, prompt, **options):
        prompts.append(prompt)
        return send(client, prompt, **options)

    return record


# ---- chat


def test_chat_holds_a_conversation_and_tells_how_each_answer_kept_its_slo(slice_ros):
    lines = (
        "x" * 40,
        "y" * 40,
        "/preset dance",
        "hello",
        "/preset",
        "/dance",
        "/system " + "z" * 40,
        "x" * 40,
        "/new",
        "x" * 40,
        "/quit",
        "never",
    )
    with started("chat", "--max-tokens", "2") as chat:
        out, err = chat.communicate("\n".join(lines), timeout=READY_S)
    assert chat.returncode == 0, err
    assert out.split() == ["xx"] * 4
    said = err.splitlines()
    assert said[0].startswith(f"simulated on {SERVER}; ")
    # With what was said and answered before; then with a system message, and nothing else.
    assert [line.split(", ")[-2] for line in said if line.startswith("SLO met")] == [f"{n} + 2 tokens" for n in (10, 20, 20, 20)]
    assert any("preset is 'dance'" in line for line in said)
    assert "there is no /dance; there are /preset NAME, /system TEXT, /new, /quit" in said


def test_ctrl_c_ends_an_answer_and_not_the_conversation(slice_ros):
    with started("chat", "--max-tokens", "20000", "--label", "chat") as chat:
        chat.stdin.write("tell me everything\n")
        chat.stdin.flush()
        assert chat.stdout.read(1) == "x"
        chat.send_signal(signal.SIGINT)
        out, err = chat.communicate("/quit\n", timeout=READY_S)
    assert chat.returncode == 0, err
    assert len(out) < 20000
    goals_in_hand(slice_ros, "chat", 0)


def test_a_goal_that_fails_is_a_sentence_or_an_object_and_status_1(slice_ros):
    missed = ("send", "go", "--deadline", "0.05", "--on-miss", "abort", "--max-tokens", "1000", *HERE)
    ended, _, err = slice_ros(*missed)
    assert ended == 1
    assert "SLO_MISSED" in err
    ended, out, _ = slice_ros(*missed, "--json")
    answer = json.loads(out)
    assert (ended, answer["error_code"]) == (1, "SLO_MISSED")
    assert set(answer["text"]) == {"x"}


@pytest.mark.parametrize(
    "command", [["send", "go"], ["status"], ["policy"], ["policy", "orca"], ["cancel", "--all"], ["top"]], ids=" ".join
)
def test_where_nobody_answers_a_command_says_whom_it_asked_and_for_how_long(slice_ros, command):
    ended, out, err = slice_ros(*command, *NOBODY)
    assert (ended, out) == (1, "")
    assert err.startswith(f"slice-ros {command[0]}: ")
    assert "/nobody within 0.3 s" in err


def test_a_server_that_is_starting_is_waited_for(slice_ros):
    with serving("late", "--engine", "simulated") as late:
        until_s = time.monotonic() + READY_S
        while not children_of(late.pid):
            assert time.monotonic() < until_s
            time.sleep(0.01)
        (engine,) = children_of(late.pid)
        os.kill(engine, signal.SIGSTOP)  # it measures for long
        try:
            ended, _, err = slice_ros("send", "go", "--server", "/late", "--timeout", "5")
            assert (ended, err.splitlines()) == (
                1,
                [
                    "/late is starting; waiting for it",
                    "slice-ros send: /late is there, but still configuring after 5 s; see what it says where it runs",
                ],
            )
            with started("send", "go", "--max-tokens", "2", server="/late") as sent:
                assert sent.stderr.readline() == "/late is starting; waiting for it\n"
                os.kill(engine, signal.SIGCONT)
                assert sent.communicate(timeout=READY_S)[0] == "xx\n"
                assert sent.returncode == 0
        finally:
            os.kill(engine, signal.SIGCONT)


def test_a_server_that_cannot_start_says_why_in_its_log_and_at_the_end():
    with serving("wrong", "--model", "/nowhere/x.gguf") as wrong:
        said = wrong.stderr.read()
        assert wrong.wait(READY_S) == 1
    assert said.count("/nowhere/x.gguf") == 2
    assert said.splitlines()[-1].startswith("slice_server cannot start: there is no model '/nowhere/x.gguf'")


# ---- status


def test_status_tells_policy_engine_and_classes(slice_ros):
    slice_ros("send", "go", "--max-tokens", "1", "--label", "shown", *HERE)
    deadline = time.monotonic() + READY_S
    while "shown" not in (figures := slice_ros("status", *HERE)[1]):
        assert time.monotonic() < deadline, figures
    assert "policy slack" in figures
    assert "model simulated" in figures


def test_status_as_json_is_the_whole_message(slice_ros):
    slice_ros("send", "go", "--max-tokens", "1", *HERE)
    deadline = time.monotonic() + READY_S
    while not ((told := status(slice_ros))["classes"] and told["kv_total"]):  # the engine tells of itself now and then
        assert time.monotonic() < deadline, told
    assert (told["policy"], told["model"], told["engine_state"], told["kv_total"]) == ("slack", "simulated", "ready", 32768)
    assert {"ttft_ms_p50", "attainment"} <= set(told["classes"][0])


# ---- policy


def test_policy_says_which_is_in_force_and_changes_it(slice_ros):
    assert slice_ros("policy", *HERE)[:2] == (0, "slack\n")
    assert slice_ros("policy", "orca", *HERE)[:2] == (0, "orca\n")
    assert json.loads(slice_ros("policy", "--json", *HERE)[1]) == {"policy": "orca"}
    assert slice_ros("policy", "slack", *HERE)[:2] == (0, "slack\n")


# ---- cancel


def test_the_begin_of_an_id_is_enough_to_cancel_a_goal(slice_ros):
    with started("send", *STORY, "begun", "--json") as sender:
        (goal,) = goals_in_hand(slice_ros, "begun", 1)
        assert slice_ros("cancel", goal[:6].upper(), *HERE)[:2] == (0, f"canceling {goal}\n")
        answer = json.loads(sender.communicate(timeout=READY_S)[0])
    assert (sender.returncode, answer["goal_id"], answer["error_code"]) == (1, goal, "CANCELED")
    ended, out, err = slice_ros("cancel", goal, *HERE)
    assert (ended, out) == (1, "nothing to cancel\n")
    assert "is unknown or has ended" in err


def test_all_goals_can_be_canceled_whoever_sent_them(slice_ros):
    with started("send", *STORY, "all") as one, started("send", *STORY, "all") as two:
        goals = goals_in_hand(slice_ros, "all", 2)
        ended, out, _ = slice_ros("cancel", "--all", "--json", *HERE)
        assert (ended, sorted(json.loads(out)["canceling"])) == (0, sorted(goals))
        assert [sender.wait(READY_S) for sender in (one, two)] == [1, 1]
    assert slice_ros("cancel", "--all", *HERE)[:2] == (0, "nothing to cancel\n")


def test_an_id_that_no_goal_has_is_refused(slice_ros):
    ended, _, err = slice_ros("cancel", "not-hex", *HERE)
    assert ended == 2
    assert "'not-hex' is no goal id" in err
    ended, _, err = slice_ros("cancel", "00000000", *HERE)
    assert ended == 1
    assert "no goal in hand begins with 00000000" in err


# ---- top


def test_top_draws_until_ctrl_c(slice_ros):
    with started("top", FORCE_COLOR="1") as top:  # as if it wrote to a terminal
        assert any("slack" in line for line in top.stdout)
        top.send_signal(signal.SIGINT)
        assert top.wait(READY_S) == 130
