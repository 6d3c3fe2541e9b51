"""What SECURITY.md says: no text in logs, SROS2 policies that allow what is opened and little else, no security pretended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import rclpy
from serving import READY_S, Peer, running, serving

from slice_ros.client import SliceClient
from slice_ros.goal import ErrorCode
from slice_ros.monitor.feed import Feed
from slice_ros.ros.distributions import RCLError
from slice_ros.ros.interfaces import Generate

POLICIES = Path(__file__).parent.parent / "config" / "sros2"
SECRET = "xyzzysecretplugh"
CLIENTS = "/slice_server/_clients/"
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
        serving("slice_server", "--engine", "paced", "--n-ctx", "2048", "--ros-args", "--log-level", "debug") as process,
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
    peer = server_and_log[0]
    published = allowed("server", "publish") - COMMON - {f"{CLIENTS}*"}

    def opens_all() -> bool:  # whose an endpoint is may be known later than that it exists
        opened = opened_by(peer.node, "slice_server")
        return published <= opened["publish"] and allowed("server", "execute") <= opened["execute"]

    peer.spin_until(opens_all)
    opened = opened_by(peer.node, "slice_server")
    assert opened["execute"] == allowed("server", "execute")
    assert opened["publish"] | opened["reply"] <= allowed("server", "publish") | allowed("server", "reply")
    missing = allowed("server", "reply") - opened["reply"]
    assert {name.rpartition("/")[2] for name in missing} <= {"get_type_description", "describe_parameters", "set_parameters_atomically"}


def test_the_servers_policy_allows_what_watches_its_clients_and_speaks_to_them(server_and_log):
    peer = server_and_log[0]
    assert peer.run(peer.client.stream("who asks?", max_tokens=2).result()).text  # it is watched, and spoken to, from now on
    for verb in ("subscribe", "publish"):
        peer.spin_until(lambda verb=verb: any(name.startswith(CLIENTS) for name in opened_by(peer.node, "_slice_server_senders")[verb]))
    assert_allowed("server", opened_by(peer.node, "_slice_server_senders"))


def test_a_clients_policy_allows_all_that_a_slice_client_opens_and_no_parameter_of_the_server(server_and_log):
    node = server_and_log[0].node
    heard = {name for name in names(node.get_subscriber_names_and_types_by_node("planner", "/")) if "/_action/" not in name}
    assert not unallowed("client", "subscribe", heard)
    assert not unallowed("client", "publish", names(node.get_publisher_names_and_types_by_node("planner", "/")))
    assert allowed("client", "call") == allowed("server", "execute")
    assert allowed("client", "request") == {"/slice_server/check_slo"}


def test_a_monitor_may_send_nothing_to_the_server():
    assert not allowed("monitor", "request") | allowed("monitor", "call")
    assert allowed("monitor", "publish") <= COMMON
    assert allowed("monitor", "subscribe") <= allowed("server", "publish") | COMMON


def opened_by(node, name: str) -> dict[str, set[str]]:
    """What a node opens, as far as is known yet, by the verb that allows it; actions under their own names."""
    look_up = {
        "publish": node.get_publisher_names_and_types_by_node,
        "subscribe": node.get_subscriber_names_and_types_by_node,
        "reply": node.get_service_names_and_types_by_node,
        "request": node.get_client_names_and_types_by_node,
    }
    known = name in node.get_node_names()
    found = {verb: names(look(name, "/")) if known else set() for verb, look in look_up.items()}
    plain = {verb: {name for name in some if "/_action/" not in name} for verb, some in found.items()}
    return {
        **plain,
        "execute": actions_in(found["publish"] | found["reply"]),
        "call": actions_in(found["subscribe"] | found["request"]),
    }


def actions_in(some: set[str]) -> set[str]:
    return {name.partition("/_action/")[0] for name in some if "/_action/" in name}


def unallowed(role: str, verb: str, some: set[str]) -> set[str]:
    """Those that the policy does not allow; its names may have wildcards."""
    return {name for name in some if not any(fnmatchcase(name, pattern) for pattern in allowed(role, verb))}


def assert_allowed(role: str, opened: dict[str, set[str]]) -> None:
    for verb, some in opened.items():
        assert not unallowed(role, verb, some), (role, verb)


def test_a_monitor_that_only_looks_opens_what_its_policy_allows_and_is_told_when_it_may_not_switch(server_and_log, monkeypatch):
    peer = server_and_log[0]
    node = rclpy.create_node("slice_monitor")
    peer.executor.add_node(node)
    feed = Feed(node)
    try:
        feed.choose("/slice_server")
        peer.spin_until(feed.take)
        assert_allowed("monitor", opened_by(node, "slice_monitor"))

        def refuse(*_):
            raise RCLError("not allowed by the permissions")

        monkeypatch.setattr(node, "create_client", refuse)
        feed.set_policy("orca")
        assert "not allowed by the permissions" in feed.complaint()
    finally:
        feed.close()
        node.destroy_node()


@pytest.mark.parametrize(
    ("role", "node", "arguments"),
    [("cli", "slice_cli", ["send", "a long story", "--raw", "--max-tokens", "1500"]), ("monitor", "slice_monitor", ["top"])],
)
def test_the_policies_fit_the_commands(server_and_log, role, node, arguments):
    peer = server_and_log[0]
    with subprocess.Popen(
        [sys.executable, "-m", "slice_ros.cli", *arguments], stdout=subprocess.DEVNULL, start_new_session=True
    ) as command:
        try:
            peer.spin_until(lambda: node in peer.node.get_node_names())
            peer.spin_until(lambda: "/slice_server/slo_status" in opened_by(peer.node, node)["subscribe"])
            time.sleep(0.5)  # what else it opens has been discovered
            assert_allowed(role, opened_by(peer.node, node))
        finally:
            command.send_signal(signal.SIGINT)
            command.wait(20)


def test_the_dispatchers_policy_allows_all_that_it_opens_before_and_behind_it(server_and_log):
    peer = server_and_log[0]
    with (
        running("serve", "--namespace", "/onboard", "--engine", "simulated"),
        running("dispatch", "--name", "slice_front", "--members", "/onboard/slice_server"),
    ):
        client = SliceClient(peer.node, "/slice_front")
        try:
            client.wait_for_server(READY_S)
            assert peer.run(client.stream("who asks?", max_tokens=2).result()).text
            for node, place in (("slice_front", "/onboard/slice_server/"), ("_slice_front_senders", "/slice_front/")):
                for verb in ("subscribe", "publish"):
                    clients = f"{place}_clients/"
                    peer.spin_until(lambda: any(name.startswith(clients) for name in opened_by(peer.node, node)[verb]))  # noqa: B023
                opened = opened_by(peer.node, node)
                opened["call"] -= {"/slice_front/generate"}  # which it executes
                assert_allowed("dispatcher", {v: {name.replace("slice_front", "slice_server") for name in opened[v]} for v in opened})
        finally:
            client.destroy()


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
    assert not words & {"path", "file", "folder", "directory", "url", "uri"}
