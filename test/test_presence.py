"""What one client is told of its goals is heard as fast as it comes, in order, and for as long as the client is there."""

from __future__ import annotations

import time

import pytest
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message

from slice_ros.ros import presence
from slice_ros.ros.interfaces import Generate

pytestmark = pytest.mark.usefixtures("ros")
PIECES = 4 * presence.AT_ONCE


@pytest.fixture
def ends():
    """Who speaks, a client that does not listen yet, and the client's executor."""
    speaker, client = rclpy.create_node("speaker"), rclpy.create_node("client")
    executor = SingleThreadedExecutor()
    executor.add_node(client)
    yield speaker, client, executor
    executor.shutdown()
    client.destroy_node()
    speaker.destroy_node()


def say(speaker, topic: str) -> None:
    """All pieces, once they are sure to be there together."""
    voice = presence.speak(speaker, topic)
    while not voice.get_subscription_count():
        time.sleep(0.01)
    for number in range(PIECES):
        message = Generate.Impl.FeedbackMessage()
        message.feedback.tokens = number
        voice.publish(message)


def test_many_pieces_are_heard_in_few_turns_and_in_order(ends) -> None:
    speaker, client, executor = ends
    heard: list[int] = []

    def hear(data: bytes) -> None:
        heard.append(deserialize_message(data, Generate.Impl.FeedbackMessage).feedback.tokens)

    presence.listen(client, "/speaker/c", MutuallyExclusiveCallbackGroup(), hear)
    say(speaker, "/speaker/c")
    in_turns = []
    while len(heard) < PIECES:
        before = len(heard)
        executor.spin_once(timeout_sec=1.0)
        in_turns.append(len(heard) - before)
    assert heard == list(range(PIECES))
    assert max(in_turns) == presence.AT_ONCE


def test_a_client_may_go_while_it_hears(ends) -> None:
    speaker, client, executor = ends
    heard: list[bytes] = []

    def hear(data: bytes) -> None:
        heard.append(data)
        client.destroy_subscription(subscription)

    subscription = presence.listen(client, "/speaker/c", MutuallyExclusiveCallbackGroup(), hear)
    say(speaker, "/speaker/c")
    for _ in range(20):
        executor.spin_once(timeout_sec=0.05)
    assert len(heard) == 1
