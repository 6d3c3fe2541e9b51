"""Forged samples arrive, over UDP, where the graph says that somebody listens: what ``make fuzz`` stands on."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import serialize_message
from std_msgs.msg import String
from std_srvs.srv import SetBool

pytest.importorskip("psutil", reason="pip install 'slice_ros[test]'")
from reliability.rtps import GUID_SIZE, PREFIX_SIZE, Sender, about, sample

ARRIVAL_S = 20.0


class Party:
    """A node with a participant and an executor of its own."""

    def __init__(self, name: str) -> None:
        self.context = Context()
        rclpy.init(args=[], context=self.context)
        self.node = rclpy.create_node(name, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@contextmanager
def parties(*names: str):
    made = [Party(name) for name in names]
    sender = Sender([os.getpid()])
    try:
        yield *made, sender
    finally:
        sender.close()
        for party in made:
            party.close()


def guid(endpoints_of, topic: str, node: str) -> bytes:
    """GUID of the node's writer, or reader, as soon as the graph tells it."""
    found = []

    def look() -> bool:
        found[:] = [
            bytes(endpoint.endpoint_gid)[:GUID_SIZE] for endpoint in endpoints_of(topic, no_mangle=True) if endpoint.node_name == node
        ]
        return bool(found)

    until(look)
    return found[0]


def until(condition, *who: Party, act=lambda: None) -> None:
    """Act and spin until it holds."""
    deadline_s = time.monotonic() + ARRIVAL_S
    while not condition():
        assert time.monotonic() < deadline_s, "timed out"
        act()
        for party in who:
            party.executor.spin_once(timeout_sec=0.05)
        time.sleep(0.01)


def test_a_forged_sample_arrives_as_a_message_of_the_writer_whose_name_it_bears():
    heard = []
    with parties("listener", "forger") as (listener, forger, sender):
        listener.node.create_subscription(String, "chat", lambda message: heard.append(message.data), 10)
        publisher = forger.node.create_publisher(String, "chat", 10)
        until(publisher.get_subscription_count, listener)
        writer = guid(forger.node.get_publishers_info_by_topic, "rt/chat", "forger")
        sequence = iter(range(1, 1000))
        until(
            lambda: heard,
            listener,
            act=lambda: sender.send(sample(writer, next(sequence), serialize_message(String(data="forged")))),
        )
        sender.send(sample(bytes(PREFIX_SIZE) + writer[PREFIX_SIZE:], 2000, serialize_message(String(data="nobody's"))))
        sender.send(sample(writer, 3000, serialize_message(String(data="last"))))  # what is missing between is none
        until(lambda: heard[-1] == "last", listener)
    assert set(heard) == {"forged", "last"}


def test_a_forged_request_is_served_and_a_forged_reply_ends_a_call():
    served = []

    def serve(request, response):
        served.append(request.data)
        return response

    with parties("server", "caller", "forger") as (server, caller, forger, sender):
        service = server.node.create_service(SetBool, "switch", serve)
        client = caller.node.create_client(SetBool, "switch")
        mouth = forger.node.create_client(SetBool, "switch")
        until(lambda: client.service_is_ready() and mouth.service_is_ready(), server)
        writer = guid(forger.node.get_publishers_info_by_topic, "rq/switchRequest", "forger")
        waiting = guid(forger.node.get_subscriptions_info_by_topic, "rr/switchReply", "caller")
        sequence = iter(range(1, 1000))
        request = serialize_message(SetBool.Request(data=True))
        until(
            lambda: served,
            server,
            act=lambda: sender.send(sample(writer, number := next(sequence), request, about(bytes(GUID_SIZE), number))),
        )
        assert served[0] is True

        server.node.destroy_service(service)
        forger.node.create_service(SetBool, "switch", serve)
        until(client.service_is_ready, forger)
        call = client.call_async(SetBool.Request())
        writer = guid(forger.node.get_publishers_info_by_topic, "rr/switchReply", "forger")
        reply = serialize_message(SetBool.Response(message="forged"))
        until(call.done, caller, act=lambda: sender.send(sample(writer, next(sequence), reply, about(waiting, 1))))
        assert call.result().message == "forged"


def test_a_forged_list_of_a_participants_nodes_changes_the_graph_of_others():
    from rmw_dds_common.msg import Gid, NodeEntitiesInfo, ParticipantEntitiesInfo

    with parties("observer", "forger") as (observer, forger, sender):
        until(lambda: "forger" in observer.node.get_node_names(), observer)
        publisher = forger.node.create_publisher(String, "chat", 10)
        until(lambda: publisher.get_subscription_count() == 0 and observer.node.count_publishers("chat") == 1, observer)
        prefix = guid(forger.node.get_publishers_info_by_topic, "rt/chat", "forger")[:PREFIX_SIZE]
        endpoints = forger.node.get_publishers_info_by_topic("ros_discovery_info", no_mangle=True)
        writer = next(bytes(e.endpoint_gid)[:GUID_SIZE] for e in endpoints if bytes(e.endpoint_gid).startswith(prefix))
        nodes = [NodeEntitiesInfo(node_namespace="/", node_name="nobody")]
        said = serialize_message(ParticipantEntitiesInfo(gid=Gid(data=[*prefix, 0, 0, 1, 0xC1]), node_entities_info_seq=nodes))
        sequence = iter(range(1000, 2000))
        until(lambda: "nobody" in observer.node.get_node_names(), observer, act=lambda: sender.send(sample(writer, next(sequence), said)))
