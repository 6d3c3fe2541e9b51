"""What SECURITY.md says: no text in logs, SROS2 policies that allow what is opened and little else, no security pretended."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from serving import READY_S, Peer, serving

from slice_ros.goal import ErrorCode
from slice_ros.interfaces import Generate
from slice_ros.ros import LAYER, rclpy

POLICIES = Path(__file__).parent.parent / "config" / "sros2"
SECRET = "xyzzysecretplugh"
COMMON = {"/clock", "/bond", "/parameter_events", "/rosout"}
"""What ROS 2 itself or bondpy opens, on one layer or the other."""


def allowed(role: str, verb: str) -> set[str]:
    """Names that a policy allows to publish, subscribe, reply, request, execute or call."""
    tree = ET.parse(POLICIES / f"{role}.policy.xml")
    return {name.text for group in tree.iter() if group.get(verb) == "ALLOW" for name in group}


@pytest.fixture(scope="module")
def server_and_log(tmp_path_factory):
    rclpy.init(args=[])
    path = tmp_path_factory.mktemp("log") / "log"
    with (
        serving("slice_server", "--engine", "paced", "--n-ctx", "2048", "--", "--ros-args", "--log-level", "debug") as process,
        path.open("w") as log,
    ):
        pump = subprocess.Popen(["cat"], stdin=process.stderr, stdout=log)
        peer = Peer("slice_server", "planner")
        peer.client.wait_for_server(2 * READY_S)
        yield peer, path
        peer.close()
        pump.kill()
        pump.wait()
    rclpy.try_shutdown()


def names(found) -> set[str]:
    return {name for name, _ in found}


def test_the_servers_policy_allows_all_that_it_opens_and_nothing_that_nobody_needs(server_and_log):
    node = server_and_log[0].node
    published = names(node.get_publisher_names_and_types_by_node("slice_server", "/"))
    replied = names(node.get_service_names_and_types_by_node("slice_server", "/"))
    plain = {name for name in published | replied if "/_action/" not in name}
    assert plain <= allowed("server", "publish") | allowed("server", "reply")
    assert {name.partition("/_action/")[0] for name in (published | replied) - plain} == allowed("server", "execute")
    assert allowed("server", "publish") - COMMON <= published
    missing = allowed("server", "reply") - replied
    assert {name.rpartition("/")[2] for name in missing} <= {"get_type_description", "describe_parameters", "set_parameters_atomically"}


def test_a_clients_policy_allows_all_that_a_slice_client_opens_and_no_parameter_of_the_server(server_and_log):
    node = server_and_log[0].node
    heard = {name for name in names(node.get_subscriber_names_and_types_by_node("planner", "/")) if "/_action/" not in name}
    assert heard <= allowed("client", "subscribe")
    assert names(node.get_publisher_names_and_types_by_node("planner", "/")) <= allowed("client", "publish")
    assert allowed("client", "call") == allowed("server", "execute")
    assert allowed("client", "request") == {"/slice_server/check_slo"}


def test_a_monitor_may_send_nothing_to_the_server():
    assert not allowed("monitor", "request") | allowed("monitor", "call")
    assert allowed("monitor", "publish") <= COMMON
    assert allowed("monitor", "subscribe") <= allowed("server", "publish") | COMMON


def test_no_prompt_and_no_answer_is_logged_at_any_level(server_and_log):
    peer, log = server_and_log
    answer = peer.run(peer.client.generate(f"{SECRET} go", max_tokens=12))
    assert peer.fails(f"{SECRET} too much", max_tokens=8000, stop=[SECRET]).code is ErrorCode.CONTEXT_EXCEEDED
    assert peer.fails(SECRET, grammar=f'root ::= "{SECRET}" (').code is ErrorCode.INVALID_GRAMMAR
    assert peer.run(peer.client.generate(f"{SECRET} again", max_tokens=2, label="greeting")).text
    text = log.read_text()
    assert "slice_server" in text
    assert SECRET not in text
    assert answer.text not in text


def test_no_field_of_a_goal_is_a_path():
    words = {word for name in Generate.Goal.get_fields_and_field_types() for word in name.split("_")}
    assert not words & {"path", "file", "folder", "directory", "url", "model", "uri"}


@pytest.mark.skipif(LAYER == "rclpy", reason="rclpy has SROS2")
def test_a_layer_without_security_does_not_start_where_security_is_asked_for():
    command = [sys.executable, "-c", "from slice_ros.ros import rclpy; rclpy.init()"]
    ended = subprocess.run(command, env={**os.environ, "ROS_SECURITY_ENABLE": "true"}, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "ROS_SECURITY_ENABLE is true" in ended.stderr
