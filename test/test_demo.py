"""The demo end to end: server, robot and people as processes over DDS, what is seen of them, and what it comes to."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console
from serving import children_of, is_alive

from slice_ros.demo.log import Log
from slice_ros.demo.results import complaints, sentence, table
from slice_ros.demo.show import DemoConfig, run_demo
from slice_ros.demo.terminal import draw_run
from slice_ros.demo.traffic import KINDS
from slice_ros.demo.views import Lines, Moment, Screen
from slice_ros.demo.world import make_floor

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


def pose(t, x, state="driving", bumps=0, people=()):
    return {"what": "pose", "t": t, "x": x, "y": 1.7, "heading": 0.0, "state": state, "bumps": bumps, "people": list(people)}


def sent(t, goal, label, seat=None):
    return {"what": "sent", "t": t, "goal": goal, "label": label, "seat": seat, "prompt": "?"}


def ended(t, goal, *, attained=True, **fields):
    times = {"ttft_s": 0.1, "tpot_s": 0.01, "e2e_s": 0.3}
    return {"what": "ended", "t": t, "goal": goal, "answer": "!", "attained": attained, "right": attained, **times, **fields}


def log_of(events, policy="slack") -> Log:
    log = Log(policy, 0, make_floor(0))
    log.read(json.dumps(event) for event in events)
    return log


STORY = [
    pose(0.0, 1.2, "waiting"), sent(0.0, "n1", "navigation"), sent(0.0, "c1", "control"), ended(0.3, "c1"), ended(0.5, "n1"),
    sent(0.7, "c2", "control"), sent(1.0, "v1", "voice", seat=2), pose(1.0, 1.3, people=[(2.8, 1.7)]), sent(1.4, "c3", "control"),
    ended(1.9, "c2", attained=False), pose(2.0, 2.2, "bumped", bumps=1), ended(2.0, "c3"), ended(3.0, "v1"),
    sent(3.2, "v2", "voice", seat=1), sent(3.9, "c4", "control"), pose(4.0, 3.0, "finished", bumps=1),
    ended(4.3, "c4", attained=False, error="CANCELED"), ended(4.4, "v2", attained=False, error="CANCELED"),
]  # fmt: skip


# ---- logs and figures


def test_figures_are_those_of_the_log():
    figures = log_of(STORY).figures()
    assert (figures.bumps, figures.late, figures.commands, figures.right) == (1, 1, 4, 3)  # c4 was not due yet when the tour ended
    assert figures.tour_s == 4.0
    assert figures.classes == {"control": (2, 3), "navigation": (1, 1), "voice": (1, 2), "qa": (0, 0)}
    assert figures.attained() == (4, 6)


def test_the_past_is_not_judged_by_what_came_after():
    log = log_of(STORY)
    early = log.figures(1.5)
    assert (early.bumps, early.late, early.commands, early.tour_s) == (0, 1, 3, None)  # c2 was due at 1.4 s
    assert log.figures(1.3).late == 0
    assert log.pose(1.5).state == "driving"
    assert [log.asking(t) for t in (0.5, 2.0, 3.1, 4.0, 6.0)] == [{}, {2: "waiting"}, {2: "in time"}, {1: "waiting", 2: "in time"}, {}]


def test_a_command_that_never_comes_is_late():
    log = log_of([sent(0.0, "c1", "control"), pose(0.5, 1.3), pose(1.0, 1.4)])
    assert log.figures(0.5).commands == 0
    assert log.figures().late == 1


def test_only_the_default_policy_is_held_to_the_promise():
    bad = log_of(STORY)
    assert len(complaints([bad])) == 1
    assert "slack: the robot bumped once, was answered late once in 4" in complaints([bad])[0]
    assert complaints([log_of(STORY, policy="orca")]) == []
    good = [event for event in STORY if event.get("goal") != "c2"]
    assert complaints([log_of([{**event, "bumps": 0} if event["what"] == "pose" else event for event in good])]) == []
    unfinished = log_of([pose(0.0, 1.2)])
    assert "gave its tour up" in complaints([unfinished])[0]


def test_events_that_nobody_knows_are_refused():
    with pytest.raises(ValueError, match="'dance'"):
        log_of([{"what": "dance", "t": 0.0}])


# ---- views


def printed(renderable, height: int = 50) -> str:
    console = Console(width=110, height=height, file=io.StringIO(), record=True)
    console.print(renderable)
    return console.export_text()


def test_the_map_shows_robot_people_and_figures():
    log = log_of(STORY)
    text = printed(draw_run(log, 1.2))
    assert all(room in text for room in log.floor.rooms)
    assert all(landmark in text for landmark in log.floor.landmarks)
    assert text.count("→") == 1
    assert text.count("☻") == 1
    assert text.count("☺") == len(log.floor.seats)
    assert text.count("?") == 1
    assert "bumps 0" in text
    text = printed(draw_run(log, 2.1))
    assert "✖" in text
    assert "answered late 1 of 4" in text


def test_the_table_sums_over_seeds():
    text = printed(table([log_of(STORY), log_of(STORY), log_of(STORY, "orca")]))
    row = next(line for line in text.splitlines() if "slack" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["slack", "2", "2 of 8", "4.0 s", "2 of 4", "0 of 0", "8 of 12"]


def test_a_pipe_gets_lines_and_no_drawing():
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    lines, log = Lines(console), log_of(STORY)
    for at_s in (0.0, 1.0, 5.1, 5.2, 10.1):
        lines.draw(Moment([log], 1, at_s, None))
    text = console.file.getvalue()
    assert "\x1b" not in text
    assert [line.split(":")[0].strip() for line in text.splitlines()] == ["run 1 of 1", "5 s", "10 s"]


def test_a_terminal_is_drawn_live():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    with Screen(console) as screen:
        screen.draw(Moment([log_of(STORY, "orca"), log_of(STORY)], 3, 2.1, None))
    text = console.file.getvalue()
    assert "run 2 of 3" in text
    assert sentence(log_of(STORY, "orca")) in text
    assert "━" in text


def test_the_window_paints_what_the_log_says():
    window = pytest.importorskip("slice_ros.demo.window", reason="no Qt for Python", exc_type=ImportError)
    view = window.Window()
    log, images = log_of(STORY), []
    for at_s in (1.2, 2.1):
        view.draw(Moment([log], 1, at_s, None))
        images.append(view.widget.grab().toImage())
    assert images[0].width() > 100
    assert images[0] != images[1]
    view.widget.close()
    with pytest.raises(KeyboardInterrupt):
        view.draw(Moment([log], 1, 3.0, None))


def test_an_animation_moves(tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    from slice_ros.demo.animation import record

    path = tmp_path / "demo.gif"
    record([log_of(STORY, "orca"), log_of(STORY)], path)
    with image.open(path) as animation:
        assert animation.format == "GIF"
        assert animation.n_frames > 10
        frames = set()
        for index in range(animation.n_frames):
            animation.seek(index)
            frames.add(animation.convert("RGB").tobytes())
        assert len(frames) > 3


# ---- for real


class Watcher:
    """A view that keeps what it was shown."""

    def __init__(self) -> None:
        self.moments: list[tuple[float, str]] = []
        self.statuses = []

    def draw(self, moment: Moment) -> None:
        self.moments.append((moment.at_s, moment.log.policy))
        self.statuses.append(moment.status)


SLOW = pytest.mark.timeout(300)  # processes take long to start where others are at work


@pytest.fixture(scope="module")
def short_tour():
    watcher = Watcher()
    log, other = run_demo(DemoConfig(policies=("slack", "orca"), limit_s=6.0), watcher)
    return log, other, watcher


@SLOW
def test_nodes_and_server_are_seen_while_they_work(short_tour):
    log, other, watcher = short_tour
    assert (log.policy, other.policy) == ("slack", "orca")
    assert {policy for _, policy in watcher.moments} == {"slack", "orca"}
    statuses = [status for status in watcher.statuses if status is not None]
    assert {status.policy for status in statuses} == {"slack", "orca"}
    assert "paced" in statuses[0].device
    assert {c.label for status in statuses for c in status.classes} == set(KINDS)


def test_the_robot_drives_and_asks_at_its_rate_whoever_schedules(short_tour):
    for log in short_tour[:2]:
        assert log.poses[0].at == pytest.approx(log.floor.spots[0], abs=0.01)
        assert log.end_s == pytest.approx(6.0, abs=1.5)
        commands = [goal.sent_s for goal in log.goals.values() if goal.label == "control"]
        assert len(commands) == pytest.approx(6.0 / 0.7, abs=2)
        assert sum(goal.ended_s is not None for goal in log.goals.values()) == len(log.goals), "a goal was forgotten"
        assert any(goal.answer for goal in log.goals.values())


def test_people_ask_the_same_under_each_policy(short_tour):
    traces = [[(goal.label, goal.prompt, goal.seat) for goal in log.goals.values() if goal.seat is not None] for log in short_tour[:2]]
    shorter = min(map(len, traces))
    assert shorter > 0
    for label in ("voice", "qa"):
        one, other = ([asked for asked in trace if asked[0] == label] for trace in traces)
        number = min(len(one), len(other))
        assert one[:number] == other[:number]


def test_the_verdicts_are_the_servers(short_tour):
    for log in short_tour[:2]:
        figures = log.figures()
        assert figures.late <= figures.commands <= len(log.goals)
        for goal in log.goals.values():
            if goal.attained:
                assert goal.e2e_s <= (KINDS[goal.label].slo.deadline_s or 60.0)


@SLOW
def test_the_command_tells_a_pipe_how_it_went_and_ends_with_its_promise(tmp_path):
    report = tmp_path / "demo.json"
    command = [sys.executable, "-m", "slice_ros.cli", "demo", "--policies", "slack", "--limit", "4", "--engine", "simulated"]
    done = subprocess.run([*command, "--json", str(report)], capture_output=True, text=True, timeout=200, check=False)
    assert "\x1b" not in done.stdout
    assert "run 1 of 1: policy slack, seed 0" in done.stdout
    assert done.returncode == 1, "a tour takes longer than that"
    assert "gave its tour up" in done.stderr
    (run,) = json.loads(report.read_text())
    assert run["policy"] == "slack"
    assert {goal["label"] for goal in run["goals"]} <= set(KINDS)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_demo_whose_terminal_is_closed_leaves_no_process(number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests were started with nohup, and the demo will take it that it was")
    command = [sys.executable, "-m", "slice_ros.cli", "demo", "--engine", "simulated", "--policies", "slack"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as demo:
        deadline = time.monotonic() + 60.0
        while len(children := children_of(demo.pid)) < 3:
            assert demo.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        demo.send_signal(number)
        assert demo.wait(30) == 128 + number
    assert not any(map(is_alive, children))
