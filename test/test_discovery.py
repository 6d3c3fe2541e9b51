"""What Cyclone's discovery knows, as the layer over Cyclone DDS reads it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from slice_ros.ros import LAYER, Node, rclpy

if LAYER != "rclpy":
    from slice_ros.rclpy_dds import network
    from slice_ros.rclpy_dds.dds import Participant

pytestmark = pytest.mark.skipif(LAYER == "rclpy", reason="of the layer over Cyclone DDS")


@pytest.fixture
def participant():
    rclpy.init(args=[])
    node = Node("tester")
    yield node.context.participant
    node.destroy_node()
    rclpy.try_shutdown()


def test_several_threads_may_ask_who_is_there(participant):
    def own():
        everybody = (*participant.publications(), *participant.subscriptions())
        return {endpoint.guid: endpoint for endpoint in everybody if endpoint.guid[:12] == participant.guid[:12]}

    first = own()
    assert {"typehash", "serviceid"} <= {key for endpoint in first.values() for key in endpoint.user_data}
    with ThreadPoolExecutor(4) as pool:
        assert all(seen == first for seen in pool.map(lambda _: own(), range(80)))


def test_a_closed_participant_says_so():
    participant = Participant(network.domain_id())
    participant.close()
    with pytest.raises(RuntimeError, match="cannot see who is in the domain"):
        participant.publications()
