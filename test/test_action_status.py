"""The states of an action's goals on this package's own ROS layer: everybody's are published, and each client looks for its own."""

from __future__ import annotations

import random
import time

import pytest

from slice_ros.interfaces import Generate, GoalStatus
from slice_ros.ros import LAYER, ActionClient, ActionServer, Node, SingleThreadedExecutor

if LAYER == "rclpy":
    pytest.skip("rclpy has its own", allow_module_level=True)

from slice_ros.rclpy_dds import messages
from slice_ros.rclpy_dds.action import server as server_module
from slice_ros.rclpy_dds.action.client import _state_of

LONG_S = 20.0
GoalStatusArray = messages.message("action_msgs/msg/GoalStatusArray")
States = messages.codec(GoalStatusArray.__msgtype__)


pytestmark = pytest.mark.usefixtures("ros")


def an_array(states):
    """A message with these states, each of a goal with an id and a stamp of random bytes."""
    rng = random.Random(0)
    array = GoalStatusArray(status_list=[GoalStatus(status=state) for state in states])
    for entry in array.status_list:
        entry.goal_info.goal_id.uuid[:] = list(rng.randbytes(16))
        entry.goal_info.stamp.sec, entry.goal_info.stamp.nanosec = rng.randrange(2**31), rng.randrange(10**9)
    return array


def test_a_goal_is_found_among_others_without_decoding_them():
    array = an_array([GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_ABORTED, GoalStatus.STATUS_SUCCEEDED] * 3)
    data = States.encode(array)
    assert [_state_of(bytes(entry.goal_info.goal_id.uuid), data) for entry in array.status_list] == [2, 6, 4] * 3
    assert _state_of(bytes(16), data) is None


def test_nor_do_bytes_that_end_early_say_anything_wrong():
    (entry,) = (array := an_array([GoalStatus.STATUS_ABORTED])).status_list
    data, goal_id = States.encode(array), bytes(entry.goal_info.goal_id.uuid)
    for length in range(len(data) + 1):
        assert _state_of(goal_id, data[:length]) in (None, GoalStatus.STATUS_ABORTED)


def test_where_states_take_long_to_publish_they_are_published_seldom_and_the_last_ones_are_told(monkeypatch):
    monkeypatch.setattr(server_module, "STATUS_SHARE", 1e-3)  # as if there were a thousand goals
    node, executor = Node("busy"), SingleThreadedExecutor()
    executor.add_node(node)

    async def succeed(handle):
        handle.succeed()
        return Generate.Result()

    server, client, heard = ActionServer(node, Generate, "~/generate", succeed), ActionClient(node, Generate, "~/generate"), []
    node.create_subscription(GoalStatusArray, "~/generate/_action/status", heard.append, 100)

    def until(condition):
        deadline_s = time.monotonic() + LONG_S
        while not condition():
            assert time.monotonic() < deadline_s
            executor.spin_once(timeout_sec=0.05)

    until(client.server_is_ready)
    handles = []
    for _ in range(30):
        future = client.send_goal_async(Generate.Goal(prompt="x"))
        until(future.done)
        handles.append(future.result())
    until(lambda: all(handle.status == GoalStatus.STATUS_SUCCEEDED for handle in handles))
    until(lambda: [entry.status for entry in heard[-1].status_list] == [GoalStatus.STATUS_SUCCEEDED] * 30)
    assert len(heard) < 15  # each goal has three states
    server.destroy()
    executor.shutdown()
    node.destroy_node()
