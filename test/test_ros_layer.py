"""Nodes of two processes over real DDS: this one, and ``ros_peer.py`` on each layer that is installed.

Both ends are exchanged by running the tests once with SLICE_ROS_LAYER=dds and once with SLICE_ROS_LAYER=rclpy.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from slice_ros.interfaces import (
    UUID,
    CancelGoal,
    ChatMessage,
    ClassStatus,
    Generate,
    GoalStatus,
    Log,
    ParameterEvent,
    SetBool,
    SloStatus,
    String,
)
from slice_ros.ros import LAYER, ActionClient, Node, Parameter, QoSProfile, SingleThreadedExecutor, qos

PEER = Path(__file__).with_name("ros_peer.py")
LONG_S = 20.0
"""Nothing here takes a second; a busy machine gets this long."""
DEEP = QoSProfile(depth=2000)
BURST = {f"{name}_qos_profile": DEEP for name in ("goal_service", "result_service", "cancel_service", "feedback_sub")}


@contextmanager
def peer_process(layer: str, *arguments: str):
    """A peer, ready."""
    environment = {**os.environ, "SLICE_ROS_LAYER": layer, "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp", "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(PEER.parent.parent), environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(PEER), *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            first = process.stdout.readline()
            assert first == "ready\n", process.stderr.read()
            yield process
        finally:
            process.terminate()  # rather than kill it: what it ran is counted by make coverage
            try:
                process.wait(LONG_S)
            except subprocess.TimeoutExpired:
                process.kill()


class Harness:
    """A node of this process, and what tests do with it."""

    def __init__(self, name: str = "tester") -> None:
        self.node = Node(name)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.clients: dict[str, ActionClient] = {}

    def until(self, condition, timeout_s: float = LONG_S):
        """Spin until the condition is true; returns its value."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, "timed out"
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def result(self, future):
        self.executor.spin_until_future_complete(future, timeout_sec=LONG_S)
        assert future.done(), "timed out"
        return future.result()

    def call(self, srv_type, name: str, **fields):
        client = self.node.create_client(srv_type, name)
        assert client.wait_for_service(timeout_sec=LONG_S)
        try:
            return self.result(client.call_async(srv_type.Request(**fields)))
        finally:
            self.node.destroy_client(client)

    def action_client(self, peer: str) -> ActionClient:
        if peer not in self.clients:
            self.clients[peer] = ActionClient(self.node, Generate, f"{peer}/generate", **BURST)
            assert self.clients[peer].wait_for_server(timeout_sec=LONG_S)
        return self.clients[peer]

    def goal(self, peer: str, prompt: str, **options):
        """The handle of a goal."""
        return self.result(self.action_client(peer).send_goal_async(Generate.Goal(prompt=prompt), **options))

    def finished(self, peer: str, prompt: str, **options):
        """Status and result of a goal."""
        response = self.result(self.goal(peer, prompt, **options).get_result_async())
        return response.status, response.result

    def close(self) -> None:
        for client in self.clients.values():
            client.destroy()
        self.executor.shutdown()
        self.node.destroy_node()


def require(layer: str) -> None:
    if layer == "rclpy" and importlib.util.find_spec("rclpy") is None:
        pytest.skip("rclpy is not installed here")
    if layer == "dds" and importlib.util.find_spec("cyclonedds") is None:
        pytest.skip("cyclonedds is not installed here")


pytestmark = pytest.mark.usefixtures("ros")


@pytest.fixture(scope="module", params=["dds", "rclpy"])
def layer(request):
    require(request.param)
    return request.param


@pytest.fixture(scope="module")
def peer(layer):
    """The full name of a peer that runs through the module's tests."""
    with peer_process(layer, "--ros-args", "-r", f"__ns:=/{layer}"):
        yield f"/{layer}/peer"


@pytest.fixture(scope="module")
def here(ros):
    harness = Harness()
    yield harness
    harness.close()


# ---- topics


def test_a_message_comes_back_as_it_was_sent(here, peer):
    sent = SloStatus(policy="slice", model="naïve 日本語 🤖", queued=3, kv_total=2**32 - 1, steps=2**64 - 1, step_ms=float("inf"))
    sent.stamp.sec, sent.stamp.nanosec = -5, 999_999_999
    sent.classes = [ClassStatus(label=f"c{i}", attainment=i / 3) for i in range(5)]
    sent.mask.goals, sent.mask.labels = ["a", ""], ["", "b"]
    sent.mask.cells, sent.mask.service_classes, sent.mask.slack_ms = [0, -1, 512], [0, 1, 255], [1.5, -2.5]
    got = []
    subscription = here.node.create_subscription(SloStatus, f"{peer}/echo", got.append, 10)
    publisher = here.node.create_publisher(SloStatus, f"{peer}/in", 10)
    here.until(lambda: publisher.get_subscription_count() and here.node.count_publishers(f"{peer}/echo"))
    here.until(lambda: got or publisher.publish(sent))
    here.node.destroy_subscription(subscription)
    here.node.destroy_publisher(publisher)
    assert got[0] == sent


def test_a_thousand_messages_arrive_in_order(here, peer):
    got = []
    subscription = here.node.create_subscription(String, "/ordered", lambda message: got.append(int(message.data)), DEEP)
    publisher = here.node.create_publisher(String, "/ordered", DEEP)
    here.until(publisher.get_subscription_count)
    for i in range(1000):
        publisher.publish(String(data=str(i)))
    here.until(lambda: len(got) == 1000)
    here.node.destroy_subscription(subscription)
    here.node.destroy_publisher(publisher)
    assert got == list(range(1000))


def test_a_late_subscriber_gets_the_last_transient_local_message(here, peer):
    latched = QoSProfile(depth=1, durability=qos.DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = here.node.create_publisher(String, "/latched", latched)
    publisher.publish(String(data="before"))
    publisher.publish(String(data="last"))
    got = []
    subscription = here.node.create_subscription(String, "/latched", got.append, latched)
    here.until(lambda: got)
    here.node.destroy_subscription(subscription)
    here.node.destroy_publisher(publisher)
    assert [message.data for message in got] == ["last"]


# ---- services


def test_a_service_answers(here, peer):
    assert not here.call(SetBool, f"{peer}/flip", data=True).success
    answer = here.call(SetBool, f"{peer}/flip", data=False)
    assert answer.success
    assert answer.message == "flipped"


def test_the_first_request_after_waiting_is_always_answered(here, peer):
    for i in range(10):
        other = Harness(f"first_{i}")
        try:
            assert other.call(SetBool, f"{peer}/flip", data=False).success
        finally:
            other.close()


def test_two_hundred_requests_at_once_are_all_answered(here, peer):
    client = here.node.create_client(SetBool, f"{peer}/flip", qos_profile=DEEP)
    assert client.wait_for_service(timeout_sec=LONG_S)
    futures = [client.call_async(SetBool.Request(data=bool(i % 2))) for i in range(200)]
    here.until(lambda: all(future.done() for future in futures))
    here.node.destroy_client(client)
    assert [future.result().success for future in futures] == [not i % 2 for i in range(200)]


def test_a_service_callback_may_be_a_coroutine(here, peer):
    assert here.call(SetBool, f"{peer}/slow", data=True).success


def test_a_service_that_nobody_offers_does_not_become_ready(here, peer):
    client = here.node.create_client(SetBool, "/nobody")
    began = time.monotonic()
    assert not client.wait_for_service(timeout_sec=0.3)
    assert time.monotonic() - began >= 0.3
    assert not client.service_is_ready()
    future = client.call_async(SetBool.Request())
    here.executor.spin_until_future_complete(future, timeout_sec=0.2)
    assert not future.done()
    here.node.destroy_client(client)


def test_a_round_trip_takes_little_time(here, peer):
    client = here.node.create_client(SetBool, f"{peer}/flip")
    assert client.wait_for_service(timeout_sec=LONG_S)
    times = []
    for _ in range(100):
        began = time.perf_counter()
        here.result(client.call_async(SetBool.Request()))
        times.append(time.perf_counter() - began)
    here.node.destroy_client(client)
    assert sorted(times)[10] < 0.02  # 0.5 ms on an idle machine; the quickest tenth, for a noisy one


# ---- parameters


def standard_service(name: str):
    if LAYER == "rclpy":
        return getattr(importlib.import_module("rcl_interfaces.srv"), name)
    return importlib.import_module("slice_ros.rclpy_dds.messages").service(f"rcl_interfaces/srv/{name}")


class RemoteParameters:
    """A node's parameters through the standard services, as ``ros2 param`` calls them."""

    def __init__(self, here: Harness, node: str) -> None:
        self.here, self.node = here, node

    def call(self, service: str, name: str, **fields):
        return self.here.call(standard_service(service), f"{self.node}/{name}", **fields)

    def names(self):
        return set(self.call("ListParameters", "list_parameters").result.names)

    def get(self, name):
        (value,) = self.call("GetParameters", "get_parameters", names=[name]).values
        message = Parameter(name).to_parameter_msg()
        message.value = value
        return Parameter.from_parameter_msg(message).value

    def set(self, name, value) -> str:
        """Empty, or why not."""
        (result,) = self.call("SetParameters", "set_parameters", parameters=[Parameter(name, value=value).to_parameter_msg()]).results
        return "" if result.successful else result.reason or "no reason given"

    def describe(self, name):
        (descriptor,) = self.call("DescribeParameters", "describe_parameters", names=[name]).descriptors
        return descriptor


def test_parameters_are_listed_read_described_and_set(here, peer):
    remote = RemoteParameters(here, peer)
    assert {"speed", "name", "gains", "fixed", "use_sim_time"} <= remote.names()
    assert remote.get("speed") == 1.5
    assert list(remote.get("gains")) == [1.0, 2.0]
    assert remote.describe("speed").description == "metres per second"
    assert remote.describe("speed").floating_point_range[0].to_value == 10.0
    assert remote.describe("fixed").read_only
    assert remote.set("speed", 2.5) == ""
    assert remote.get("speed") == 2.5
    remote.set("speed", 1.5)


def test_a_parameter_that_must_not_be_set_so_says_why_and_stays(here, peer):
    remote = RemoteParameters(here, peer)
    assert "out of range" in remote.set("speed", 11.0)
    assert "type" in remote.set("speed", "fast")
    assert "read-only" in remote.set("fixed", 8)
    assert "name is empty" in remote.set("name", "")
    assert remote.set("unheard_of", 1)
    assert remote.get("speed") == 1.5
    assert remote.get("fixed") == 7


def test_a_change_of_a_parameter_is_announced(here, peer):
    got = []
    subscription = here.node.create_subscription(ParameterEvent, "/parameter_events", got.append, 100)
    here.until(lambda: here.node.count_publishers("/parameter_events") >= 2 and subscription)
    remote = RemoteParameters(here, peer)

    def announced():
        remote.set("name", f"n{time.monotonic_ns()}")
        return [event for event in got if event.node == peer and [p.name for p in event.changed_parameters] == ["name"]]

    here.until(announced)
    here.node.destroy_subscription(subscription)


def test_arguments_name_the_node_remap_its_topics_and_set_its_parameters(here, layer, tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    name: everyone\n    speed: 3.0\n"
        "/args/other:\n  ros__parameters:\n    gains: [4.0]\n"
        "/somewhere/else:\n  ros__parameters:\n    speed: 9.0\n"
    )
    arguments = ["--ros-args", "-r", "__ns:=/args", "-r", "__node:=other", "-r", "remapped:=/elsewhere", "--params-file", str(file)]
    with peer_process(layer, *arguments, "-p", "speed:=4.5"):
        remote = RemoteParameters(here, "/args/other")
        assert remote.get("speed") == 4.5
        assert remote.get("name") == "everyone"
        assert list(remote.get("gains")) == [4.0]
        here.until(lambda: here.node.count_subscribers("/elsewhere") == 1)


# ---- actions


def test_a_goal_is_accepted_gives_feedback_and_a_result(here, peer):
    got = []
    handle = here.goal(peer, "echo 20", feedback_callback=lambda message: got.append(message.feedback))
    assert handle.accepted
    here.until(lambda: len(got) == 20)
    ended = here.result(handle.get_result_async())
    assert ended.status == GoalStatus.STATUS_SUCCEEDED
    assert ended.result.text == "done: echo 20"
    assert [feedback.tokens for feedback in got] == list(range(1, 21))


@pytest.mark.skipif(LAYER == "rclpy", reason="rclpy drops the feedback that it has not handled when the result is there")
def test_a_result_does_not_overtake_the_feedback_before_it(here, peer):
    for _ in range(10):
        got = []
        here.finished(peer, "echo 50", feedback_callback=got.append)
        assert len(got) == 50


def test_feedback_of_one_goal_does_not_reach_another(here, peer):
    mine, others = [], []
    futures = [
        here.action_client(peer).send_goal_async(Generate.Goal(prompt="echo 3"), feedback_callback=mine.append),
        here.action_client(peer).send_goal_async(Generate.Goal(prompt="echo 4"), feedback_callback=others.append),
    ]
    handles = [here.result(future) for future in futures]
    here.until(lambda: len(mine) >= 3 and len(others) >= 4)
    for handle in handles:
        here.result(handle.get_result_async())
    assert len(mine) == 3
    assert len(others) == 4


def test_a_goal_can_be_rejected(here, peer):
    assert not here.goal(peer, "").accepted


def test_a_goal_can_be_aborted(here, peer):
    status, result = here.finished(peer, "abort")
    assert status == GoalStatus.STATUS_ABORTED
    assert result.error_msg == "as asked"


@pytest.mark.parametrize("prompt", ["raise", "forget"])
def test_a_goal_whose_callback_fails_or_forgets_its_state_counts_as_aborted(here, peer, prompt):
    status, _ = here.finished(peer, prompt)
    assert status == GoalStatus.STATUS_ABORTED
    assert here.finished(peer, "echo 1")[0] == GoalStatus.STATUS_SUCCEEDED


def test_a_goal_can_be_canceled_and_an_ended_one_cannot(here, peer):
    handle = here.goal(peer, "wait")
    result = handle.get_result_async()
    response = here.result(handle.cancel_goal_async())
    assert response.return_code == CancelGoal.Response.ERROR_NONE
    assert [bytes(info.goal_id.uuid) for info in response.goals_canceling] == [bytes(handle.goal_id.uuid)]
    ended = here.result(result)
    assert ended.status == GoalStatus.STATUS_CANCELED
    assert ended.result.error_code == Generate.Result.CANCELED
    assert here.result(handle.cancel_goal_async()).return_code == CancelGoal.Response.ERROR_GOAL_TERMINATED


def canceled(here, peer, **fields):
    client = here.node.create_client(CancelGoal, f"{peer}/generate/_action/cancel_goal")
    assert client.wait_for_service(timeout_sec=LONG_S)
    request = CancelGoal.Request()
    for name, value in fields.items():
        setattr(request.goal_info, name, value)
    try:
        return here.result(client.call_async(request))
    finally:
        here.node.destroy_client(client)


def test_canceling_an_unknown_goal_is_told_so(here, peer):
    response = canceled(here, peer, goal_id=UUID(uuid=list(uuid.uuid4().bytes)))
    assert response.return_code == CancelGoal.Response.ERROR_UNKNOWN_GOAL_ID


def test_cancel_without_id_and_time_means_all_goals(here, peer):
    handles = [here.goal(peer, "wait") for _ in range(3)]
    results = [handle.get_result_async() for handle in handles]
    response = canceled(here, peer)
    assert {bytes(info.goal_id.uuid) for info in response.goals_canceling} == {bytes(handle.goal_id.uuid) for handle in handles}
    assert {here.result(result).status for result in results} == {GoalStatus.STATUS_CANCELED}


def test_cancel_with_a_time_means_the_goals_accepted_until_then(here, peer):
    early = here.goal(peer, "wait")
    time.sleep(0.1)
    late = here.goal(peer, "wait")
    between = early.stamp  # rcl's own stamp of the goal is a little later than the one it tells the client
    between.sec, between.nanosec = divmod(between.sec * 10**9 + between.nanosec + 50_000_000, 10**9)
    response = canceled(here, peer, stamp=between)
    assert [bytes(info.goal_id.uuid) for info in response.goals_canceling] == [bytes(early.goal_id.uuid)]
    here.result(early.get_result_async())
    here.result(late.cancel_goal_async())
    here.result(late.get_result_async())


def test_a_result_asked_for_late_or_twice_is_still_there(here, peer):
    handle = here.goal(peer, "echo 1")
    first = here.result(handle.get_result_async())
    again = here.result(handle.get_result_async())
    assert first == again


def test_the_result_of_an_unknown_goal_has_status_unknown(here, peer):
    service = Generate.Impl.GetResultService
    response = here.call(service, f"{peer}/generate/_action/get_result", goal_id=UUID(uuid=list(uuid.uuid4().bytes)))
    assert response.status == GoalStatus.STATUS_UNKNOWN


def test_a_goal_id_can_be_used_once(here, peer):
    goal_id = UUID(uuid=list(uuid.uuid4().bytes))
    assert here.goal(peer, "echo 1", goal_uuid=goal_id).accepted
    assert not here.goal(peer, "echo 1", goal_uuid=goal_id).accepted


def test_two_hundred_goals_at_once_wait_for_each_other_and_all_end(here, peer):
    got = []
    client = here.action_client(peer)
    sent = [client.send_goal_async(Generate.Goal(prompt="together 200"), feedback_callback=got.append) for _ in range(200)]
    here.until(lambda: all(future.done() for future in sent))
    results = [future.result().get_result_async() for future in sent]
    here.until(lambda: all(future.done() for future in results), timeout_s=60.0)
    assert {future.result().status for future in results} == {GoalStatus.STATUS_SUCCEEDED}
    assert LAYER == "rclpy" or len(got) == 200


def test_the_status_topic_tells_late_comers_what_became_of_a_goal(here, peer):
    from slice_ros.interfaces import GoalStatusArray

    handle = here.goal(peer, "echo 1")
    here.result(handle.get_result_async())
    got = []
    profile = qos.qos_profile_action_status_default
    subscription = here.node.create_subscription(GoalStatusArray, f"{peer}/generate/_action/status", got.append, profile)

    def known():
        states = {bytes(state.goal_info.goal_id.uuid): state.status for state in got[-1].status_list} if got else {}
        return states.get(bytes(handle.goal_id.uuid)) == GoalStatus.STATUS_SUCCEEDED

    here.until(known)
    here.node.destroy_subscription(subscription)


# ---- who is there


def test_nodes_topics_and_services_are_discovered(here, peer, layer):
    node = here.node
    here.until(lambda: ("peer", f"/{layer}") in node.get_node_names_and_namespaces())
    here.until(lambda: (f"{peer}/tick", ["std_msgs/msg/String"]) in node.get_topic_names_and_types())
    here.until(lambda: (f"{peer}/flip", ["std_srvs/srv/SetBool"]) in node.get_service_names_and_types_by_node("peer", f"/{layer}"))
    published = dict(node.get_publisher_names_and_types_by_node("peer", f"/{layer}"))
    assert published[f"{peer}/generate/_action/feedback"] == ["slice_ros/action/Generate_FeedbackMessage"]
    (info,) = node.get_publishers_info_by_topic(f"{peer}/tick")
    assert (info.node_name, info.node_namespace, info.topic_type) == ("peer", f"/{layer}", "std_msgs/msg/String")


def test_what_a_node_logs_is_on_rosout(here, peer):
    got = []
    profile = QoSProfile(depth=100, durability=qos.DurabilityPolicy.TRANSIENT_LOCAL)
    subscription = here.node.create_subscription(Log, "/rosout", got.append, profile)
    here.finished(peer, "raise")
    here.until(lambda: [log for log in got if log.name.startswith(peer[1:].replace("/", ".")) and "as asked" in log.msg])
    here.node.destroy_subscription(subscription)


# ---- ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_spinning_node_and_clients_notice_at_once(here, layer, number):
    with peer_process(layer, "--ros-args", "-r", "__ns:=/ending") as process:
        client = ActionClient(here.node, Generate, "/ending/peer/generate")
        assert client.wait_for_server(timeout_sec=LONG_S)
        process.send_signal(number)
        here.until(lambda: not client.server_is_ready())
        assert process.wait(LONG_S) == 0, process.stderr.read()
        assert process.stdout.read().startswith("ended by")
        client.destroy()
    here.until(lambda: ("peer", "/ending") not in here.node.get_node_names_and_namespaces())


def test_a_killed_server_is_noticed(here):
    """Here, with this package's own network configuration: DDS's usual lease of 10 s is cut to 3 s on the loopback interface."""
    require("dds")
    with peer_process("dds", "--ros-args", "-r", "__ns:=/killed") as process:
        client = ActionClient(here.node, Generate, "/killed/peer/generate")
        assert client.wait_for_server(timeout_sec=LONG_S)
        process.kill()
        here.until(lambda: not client.server_is_ready())
        client.destroy()


VANISHING = """
import sys
from slice_ros.interfaces import Generate
from slice_ros.ros import LAYER, ActionClient, rclpy
rclpy.init(args=[])
node = rclpy.create_node("vanishing")
client = ActionClient(node, Generate, sys.argv[1])
assert client.wait_for_server(timeout_sec=20.0)
sent = client.send_goal_async(Generate.Goal(prompt="wait"))
rclpy.spin_until_future_complete(node, sent, timeout_sec=20.0)
sent.result().get_result_async()
print("sent", flush=True)
rclpy.spin(node)
"""


def test_a_client_that_vanishes_leaves_the_server_serving(here, peer):
    command = [sys.executable, "-c", VANISHING, f"{peer}/generate"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PEER.parent.parent), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "sent\n"
        process.kill()
    assert here.finished(peer, "echo 2")[0] == GoalStatus.STATUS_SUCCEEDED
    canceled(here, peer)
    assert here.finished(peer, "echo 2")[0] == GoalStatus.STATUS_SUCCEEDED


def test_bytes_that_are_no_message_do_no_harm(here, peer):
    """A publisher of this process sends whatever bytes its layer lets it; the peer drops them and goes on."""
    publisher = here.node.create_publisher(SloStatus, f"{peer}/in", 10)
    here.until(publisher.get_subscription_count)
    for bad in (b"\x00\x01\x00\x00" + b"\xff" * 8, b"\x00\x01\x00\x00", b"\x00\x09\x00\x00" + bytes(64)):
        try:
            publisher.publish(bad)
        except RuntimeError:
            continue  # Cyclone DDS 11 refuses it already here
    here.node.destroy_publisher(publisher)
    assert here.finished(peer, "echo 2")[0] == GoalStatus.STATUS_SUCCEEDED


def test_a_chat_of_nested_messages_reaches_the_server(here, peer):
    goal = Generate.Goal(prompt="echo 1", messages=[ChatMessage(role="user", content="…"), ChatMessage()], stop=["a", ""])
    goal.slo.ttft.sec = 1
    handle = here.result(here.action_client(peer).send_goal_async(goal))
    assert here.result(handle.get_result_async()).status == GoalStatus.STATUS_SUCCEEDED
