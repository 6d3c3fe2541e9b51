"""A bag of goal events becomes the benchmark's rows and figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("rosbags")
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from slice_ros.cli import main
from slice_ros.monitor.bag import BagError, read_bag
from slice_ros.paths import share_dir

SERVERS = ("/slice_server", "/robot1/slice_server")
BEGIN_NS = 1_700_000_000 * 10**9


@pytest.fixture(params=[1])
def bag(tmp_path, request):
    """Of so many servers: three goals under slack, one of which missed its deadline, one without an end; and one under orca."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for file in (share_dir() / "msg").glob("*.msg"):
        store.register(get_types_from_msg(file.read_text(), f"slice_ros/msg/{file.stem}"))
    types = store.types

    def event(kind, goal, *, policy="slack", attained=True, label="control", output_tokens=5):
        duration = types["builtin_interfaces/msg/Duration"]
        slo = types["slice_ros/msg/Slo"](
            "", 1, duration(0, 0), duration(0, 0), duration(2, 0), 0.0, 0, BEST_EFFORT=0, REAL_TIME=1, CONTINUE=0, ABORT=1
        )
        nan = math.nan
        report = types["slice_ros/msg/SloReport"](
            attained, True, True, attained, 100.0, 25.0, 200.0, 1.0, 7, 0, output_tokens, output_tokens, nan, nan, nan
        )
        uuid = types["unique_identifier_msgs/msg/UUID"](np.full(16, goal, dtype="uint8"))
        stamp = types["builtin_interfaces/msg/Time"](0, 0)
        return types["slice_ros/msg/GoalEvent"](stamp, kind, uuid, label, policy, slo, report, "length" if kind == 2 else "", 0, "", "", "")

    path = tmp_path / "bag"
    with Writer(path, version=9) as writer:
        connections = [
            writer.add_connection(f"{server}/goal_events", "slice_ros/msg/GoalEvent", typestore=store)
            for server in SERVERS[: request.param]
        ]
        told = [
            (0.0, event(0, 1)), (0.1, event(1, 1)), (0.2, event(2, 1)),
            (1.0, event(0, 2)), (1.2, event(2, 2, attained=False)),
            (2.0, event(0, 3)),
            (3.0, event(0, 4, policy="orca")), (4.0, event(2, 4, policy="orca")),
        ]  # fmt: skip
        for time_s, message in told:
            data = store.serialize_cdr(message, "slice_ros/msg/GoalEvent")
            for connection in connections:
                writer.write(connection, BEGIN_NS + int(time_s * 1e9), data)
    return path


def test_goals_that_began_and_ended_are_read_by_policy(bag):
    recording = read_bag(bag)
    assert {policy: len(outcomes) for policy, outcomes in recording.outcomes.items()} == {"slack": 2, "orca": 1}
    first, second = recording.outcomes["slack"]
    assert (first.arrival.time_s, second.arrival.time_s) == (0.0, 1.0)
    assert first.token_times_s == pytest.approx((0.1, 0.125, 0.15, 0.175, 0.2))
    assert first.is_real_time
    assert recording.duration_s == 4.0


def test_rows_tell_the_attainment_of_each_policy(bag):
    slack, orca = read_bag(bag).rows("drive")
    assert (slack.policy, slack.goals, slack.attainment_rt, slack.rate_hz) == ("slack", 2, 0.5, 0.67)
    assert (orca.policy, orca.goals, orca.attainment, orca.rate_hz) == ("orca", 1, 1.0, 1.0)


@pytest.mark.parametrize("bag", [2], indirect=True)
def test_servers_are_told_apart(bag):
    names = [f"{policy} of {server}" for server in SERVERS for policy in ("slack", "orca")]
    assert {row.policy: row.goals for row in read_bag(bag).rows("drive")} == dict(zip(names, (2, 1, 2, 1), strict=True))


@pytest.mark.parametrize("lost", ["metadata", "files"])
def test_a_bag_whose_recorder_was_killed_is_read_by_its_files(bag, lost):
    about = bag / "metadata.yaml"
    if lost == "metadata":
        about.unlink()
    else:
        about.write_text("rosbag2_bagfile_information:\n  files: []\n")  # as `ros2 bag reindex` leaves it
    assert len(read_bag(bag).outcomes["slack"]) == 2


def test_the_command_prints_writes_and_draws(bag, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["report", str(bag), "--json", str(tmp_path / "rows.json"), "--plot", str(tmp_path / "goals.png")]) == 0
    assert "slack" in capsys.readouterr().out
    assert (tmp_path / "goals.png").stat().st_size > 1000
    assert main(["bench", "--from", str(tmp_path / "rows.json")]) == 0


def test_what_is_no_bag_is_a_sentence(tmp_path, capsys):
    with pytest.raises(BagError, match="nowhere"):
        read_bag(tmp_path / "nowhere")
    assert main(["report", str(tmp_path)]) == 1
    assert "cannot be read as a bag" in capsys.readouterr().err
