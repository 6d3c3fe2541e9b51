"""Somebody on the same domain who means no good: hears what is said to some nodes, and says there what is no message."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import rclpy
from action_msgs.srv import CancelGoal
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.signals import SignalHandlerOptions

from reliability.inputs import class_of, damaged
from reliability.rtps import GUID_SIZE, HEADER, PREFIX_SIZE, Sender, about, sample
from slice_ros.ros.distributions import RCLError

DISCOVERY_S = 60.0
"""Everybody is found within this, on a busy machine, too, ..."""
SETTLE_S = 2.0
"""... and no more of them comes after so long without another."""
ANSWER_S = 10.0
"""A request that is right is answered within this."""
TRIES = 3
"""A packet may be lost, and a busy process late."""
RAW = 0.1
"""Share of packets that carry no sample, ..."""
RANDOM = 0.2
"""... of samples that are random bytes, ..."""
OTHER = 0.1
"""... and of those that are right messages of another topic."""
LEAST = 4
"""Bytes of a sample from a publisher: its readers would wait for a shorter one, and take nothing more from it."""
SPOKEN = 1000
"""More than a participant's own writer has said of its nodes."""

TRUSTED = ("rq/", "rr/")
"""Begin of the names of a service's topics. There, rmw_fastrtps (9.3) takes a sequence for as long as it says it is, and fills the memory
with it: so what is said there is a message of the type, whatever it holds. On other topics, what is none is refused, and may be said."""

ENDING = (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVE_SHUTDOWN, "deactivate", "shutdown")
HARMS: Mapping[Any, Callable[[Any], bool]] = {
    ChangeState.Request: lambda request: (request.transition.label or request.transition.id) in ENDING,
    CancelGoal.Request: lambda request: (
        bool(request.goal_info.stamp.sec or request.goal_info.stamp.nanosec) or not any(request.goal_info.goal_id.uuid)
    ),
}
"""What everybody on a domain may ask for, and all goals feel. The attacker leaves it out; and that a goal takes the id of another one."""


@dataclass(slots=True)
class Topic:
    """One to which somebody listens who is attacked.

    Args:
        name, type_name: as DDS has them.
        listeners: GUIDs of these readers.
        qos: what they ask for.
        examples: serialized messages.
        heard: what was said there last.
        number: of the latest request to the service.
    """

    name: str
    type_name: str
    listeners: Sequence[bytes]
    qos: QoSProfile
    examples: Sequence[bytes] = ()
    heard: bytes = b""
    number: int = 1

    @property
    def kind(self) -> Any:
        """Class of its messages."""
        return class_of(self.type_name)

    @property
    def service(self) -> Any:
        """Class of the service whose requests or replies these are."""
        return class_of(self.type_name.removesuffix("_Request_").removesuffix("_Response_"))

    @property
    def ros_name(self) -> str:
        """Of the topic, or of the service."""
        return "/" + self.name.partition("/")[2].removesuffix("Request").removesuffix("Reply")


@dataclass(slots=True)
class Voice:
    """How something is said on a topic: by a publisher, or forged in the name of a writer that itself says nothing (more).

    Args:
        entity: publisher, client or service; ``None`` where the middleware itself speaks.
        writer: GUID of its writer.
        waiting: GUIDs of the readers that wait for the reply which is said, or to the request.
        said: number of its latest sample.
    """

    topic: Topic
    entity: Any
    writer: bytes
    waiting: Sequence[bytes]
    said: int = 0


class Attacker:
    """Says one thing at a time, on any topic.

    Args:
        examples: makes messages of a class.
        nodes: names of those that are attacked, ...
        pids: ... and their processes.
        believed: name of a server whose replies are not forged: no goal outlives a wrong one of the server that has it.
    """

    def __init__(
        self,
        rng: random.Random,
        examples: Callable[[Any], Sequence[Any]],
        nodes: Collection[str],
        pids: Collection[int],
        *,
        believed: str = "",
    ) -> None:
        self._rng = rng
        self._believed = f"rr/{believed}/"
        self._sender = Sender(pids)
        self._said: set[bytes] = set()
        self._ears = _node("ears")
        self.topics = self._find(nodes)
        for topic in self.topics.values():
            topic.examples = [serialize_message(message) for message in examples(topic.kind)]
        self._taps = {
            topic.name: self._ears.create_subscription(topic.kind, topic.ros_name, lambda _: None, 10, raw=True)
            for topic in self.topics.values()
            if topic.name.startswith("rt/")
        }
        self.come()

    def _find(self, nodes: Collection[str]) -> dict[str, Topic]:
        """Topics to which these nodes listen.

        Raises:
            RuntimeError: one of them is not there.
        """
        found: dict[str, Topic] = {}
        missing = set(nodes)
        began_s = news_s = time.monotonic()
        while missing or time.monotonic() < news_s + SETTLE_S:
            if time.monotonic() > began_s + DISCOVERY_S:
                raise RuntimeError(f"no readers of {', '.join(missing) or 'all nodes'} were found within {DISCOVERY_S:g} s")
            time.sleep(0.2)
            names = [name for name, _ in self._ears.get_topic_names_and_types(no_demangle=True)]
            readers = {name: self._ears.get_subscriptions_info_by_topic(name, no_mangle=True) for name in names}
            theirs = [reader for those in readers.values() for reader in those if reader.node_name in nodes]
            missing = set(nodes) - {reader.node_name for reader in theirs}
            attacked = {guid_of(reader)[:PREFIX_SIZE] for reader in theirs}
            before, found = found, {}
            for name, those in readers.items():
                if name.startswith(self._believed):
                    continue
                if of_attacked := [reader for reader in those if guid_of(reader)[:PREFIX_SIZE] in attacked]:
                    first = of_attacked[0]
                    found[name] = Topic(name, first.topic_type, [guid_of(reader) for reader in of_attacked], first.qos_profile)
            if any(name not in before or before[name].listeners != topic.listeners for name, topic in found.items()):
                news_s = time.monotonic()
        return found

    def come(self) -> None:
        """As somebody new, whom everybody has yet to discover."""
        self._said.clear()
        self._mouth = mouth = _node("mouth")
        own = next(guid_of(e) for e in mouth.get_publishers_info_by_topic("/parameter_events") if e.node_name == "mouth")[:PREFIX_SIZE]
        self._voices = []
        for topic in self.topics.values():
            entity = self._entity(topic)
            writers, readers = (
                [guid_of(endpoint) for endpoint in of(name, no_mangle=True) if guid_of(endpoint).startswith(own)]
                for of, name in (
                    (mouth.get_publishers_info_by_topic, topic.name),
                    (mouth.get_subscriptions_info_by_topic, topic.name.replace("rq/", "rr/", 1).removesuffix("Request") + "Reply"),
                )
            )
            said = 0 if entity is not None else SPOKEN
            self._voices.append(Voice(topic, entity, writers[0], topic.listeners if topic.name.startswith("rr/") else readers, said))
        time.sleep(SETTLE_S)

    def _entity(self, topic: Topic) -> Any:
        if topic.name.startswith("rt/"):
            qos = topic.qos
            qos.history, qos.depth, qos.durability = HistoryPolicy.KEEP_LAST, 10, DurabilityPolicy.TRANSIENT_LOCAL
            qos.reliability = ReliabilityPolicy.RELIABLE
            return self._mouth.create_publisher(topic.kind, topic.ros_name, qos)
        if topic.name.startswith("rq/"):
            return self._mouth.create_client(topic.service, topic.ros_name)
        if topic.name.startswith("rr/"):
            return self._mouth.create_service(topic.service, topic.ros_name, lambda _, response: response)
        return None  # ros_discovery_info

    def go(self) -> None:
        _end(self._mouth)

    def close(self) -> None:
        self.go()
        self._sender.close()
        _end(self._ears)

    def unanswered(self) -> list[str]:
        """Services, of those that are attacked, that do not answer a forged request although it is right."""
        silent = []
        for voice in self._voices:
            if voice.topic.name.startswith("rq/"):
                kind = voice.topic.kind
                right = next((r for r in voice.topic.examples if kind not in HARMS or not HARMS[kind](deserialize_message(r, kind))), None)
                if right is not None and not self._is_answered(voice, right):
                    silent.append(voice.topic.ros_name)
        return silent

    def _is_answered(self, voice: Voice, request: bytes) -> bool:
        for _ in range(TRIES):
            deadline_s = time.monotonic() + ANSWER_S
            self._sender.send(self._forged(voice, request))
            while time.monotonic() < deadline_s:
                header, _ = voice.entity.handle.take_response(voice.topic.service.Response)
                if header is not None:
                    return True
                time.sleep(0.01)
        return False

    def say(self) -> None:
        """One sample, or one packet."""
        rng = self._rng
        if rng.random() < RAW:
            self._sender.send(self._packet())
            return
        voice = rng.choice(self._voices)
        payload, message = self._payload(voice.topic)
        if message is not None and voice.topic.kind in HARMS and HARMS[voice.topic.kind](message):
            return
        if voice.topic.name.startswith("rt/"):
            payload = payload.ljust(LEAST, b"\0")
            self._said.add(payload)
            with suppress(RCLError):  # longer than its type can be
                voice.entity.publish(payload)
        else:
            self._sender.send(self._forged(voice, payload))

    def _payload(self, topic: Topic) -> tuple[bytes, Any]:
        """Any bytes, and the message that they are, if they are one."""
        rng = self._rng
        while True:
            if rng.random() < RANDOM:
                payload = rng.randbytes(rng.randint(0, 200))
            elif rng.random() < OTHER:
                payload = rng.choice(rng.choice(tuple(self.topics.values())).examples)
            else:
                payload = damaged(self._message(topic), rng)
            if is_overread(payload):
                continue
            message = message_of(topic.kind, payload)
            if not topic.name.startswith(TRUSTED):
                return payload, message
            if message is not None:
                return serialize_message(message), message

    def _packet(self) -> bytes:
        """One of a writer that nobody knows, and damaged. In the name of a known one, a wrong number keeps Fast DDS busy without end."""
        rng = self._rng
        voice = rng.choice(self._voices)
        packet = damaged(sample(rng.randbytes(GUID_SIZE), 1, rng.choice(voice.topic.examples), about(rng.randbytes(GUID_SIZE), 1)), rng)
        return packet if rng.random() < 0.5 else HEADER + packet[len(HEADER) :]

    def _forged(self, voice: Voice, payload: bytes) -> bytes:
        voice.said += 1
        if not voice.waiting:
            return sample(voice.writer, voice.said, payload)
        number = voice.topic.number if voice.topic.name.startswith("rr/") else voice.said
        return sample(voice.writer, voice.said, payload, about(self._rng.choice(voice.waiting), number))

    def _message(self, topic: Topic) -> bytes:
        """One that is right, or was heard."""
        self._listen()
        return topic.heard if topic.heard and self._rng.random() < 0.5 else self._rng.choice(topic.examples)

    def _listen(self) -> None:
        """What others say on topics, and how many requests they have sent to services in whose name replies are forged."""
        for name, tap in self._taps.items():
            while (taken := tap.handle.take_message(self.topics[name].kind, True)) is not None:
                if taken[0] not in self._said:
                    self.topics[name].heard = taken[0]
        for voice in self._voices:
            if voice.topic.name.startswith("rr/"):
                _, header = voice.entity.handle.service_take_request(voice.topic.service.Request)
                if header is not None:
                    voice.topic.number = header.request_id.sequence_number


def guid_of(endpoint: Any) -> bytes:
    return bytes(endpoint.endpoint_gid)[:GUID_SIZE]


def is_overread(payload: bytes) -> bool:
    """Whether Fast CDR (2.3.3) reads beyond its end, whatever its type: more padding is told in the header than there are bytes after it.

    Nobody but the middleware can keep that from ending the process, as it does where the type is a large one.
    """
    return len(payload) >= LEAST and payload[3] & 3 > len(payload) - LEAST


def message_of(kind: Any, payload: bytes) -> Any:
    """What these bytes say; ``None`` if they are no message of the class."""
    try:
        return deserialize_message(payload, kind)
    except RuntimeError:
        return None


def _node(name: str) -> Node:
    """A node that is a participant of its own."""
    context = Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    return rclpy.create_node(name, context=context, start_parameter_services=False, enable_rosout=False)


def _end(node: Node) -> None:
    node.destroy_node()
    rclpy.shutdown(context=node.context)
