"""A message that is wrong ends nobody: neither the server nor a client's process."""

from __future__ import annotations

import pytest
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.serialization import serialize_message
from serving import READY_S, Peer, serving

from slice_ros.ros.conversions import uuid_msg
from slice_ros.ros.interfaces import Generate
from slice_ros.ros.presence import speak

ENCAPSULATION_SIZE = 4


@pytest.fixture
def peer(ros):
    with serving("wronged", "--engine", "simulated"):
        peer = Peer("wronged")
        peer.client.wait_for_server(READY_S)
        yield peer
        peer.close()


def test_a_parameter_of_a_type_that_there_is_not_leaves_the_server_alive(peer):
    service = peer.node.create_client(SetParameters, "/wronged/set_parameters")
    assert service.wait_for_service(READY_S)
    before = service.call_async(SetParameters.Request(parameters=[Parameter(name="x", value=ParameterValue(type=171))]))
    assert peer.run(peer.client.generate("hello", max_tokens=3)).text
    assert not before.done()  # rclpy's own service raised
    peer.node.destroy_client(service)


def test_feedback_that_is_cut_short_leaves_the_client_its_goals(peer):
    publisher = speak(peer.node, peer.client._topic)
    generation = peer.client.stream("hello", max_tokens=200)
    peer.spin_until(lambda: publisher.get_subscription_count() and generation._is_taken)
    whole = serialize_message(Generate.Impl.FeedbackMessage(goal_id=uuid_msg(generation.goal_id)))
    publisher.publish(whole[: ENCAPSULATION_SIZE + 16 + 3])
    assert peer.run(generation.result()).report.output_tokens == 200
    peer.node.destroy_publisher(publisher)
