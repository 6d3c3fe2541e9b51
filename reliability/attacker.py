"""Somebody on the same domain who means no good: hears every topic that a process listens to, and says there what is no message."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from action_msgs.srv import CancelGoal
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from slice_ros.rclpy_dds import messages, qos
from slice_ros.rclpy_dds.cdr import HEADER_SIZE, DecodeError
from slice_ros.rclpy_dds.dds import Participant, Policy, Qos, Reader, Writer
from slice_ros.rclpy_dds.network import domain_id
from slice_ros.rclpy_dds.qos import DurabilityPolicy, QoSProfile
from slice_ros.rclpy_dds.service import REQUEST_HEADER_SIZE

from reliability.inputs import damaged
from reliability.rtps import Forger
from slice_ros.ros.distributions import LAYER

if LAYER == "rclpy":
    raise ImportError("what is no message can be said on slice_ros's own ROS layer only; set SLICE_ROS_LAYER=dds")

DISCOVERY_S = 3.0
RAW = 0.1
"""Share of packets that carry no sample, ..."""
RANDOM = 0.2
"""... of samples that are random bytes, ..."""
OTHER = 0.1
"""... and of topics on which what is said is of another type."""
HEADER = slice(HEADER_SIZE, HEADER_SIZE + REQUEST_HEADER_SIZE)
"""Where a request or a reply says whose it is."""

OFFERED = qos.to_dds(QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL), "")
"""Reliable, and kept for who comes late: no reader asks for more."""
HEARD = Qos(Policy.IgnoreLocal.Process, base=qos.to_dds(QoSProfile(depth=10), ""))
"""Not what this process says: who answers its goals in the server's place does change the answers."""

ENDING = (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVE_SHUTDOWN, "deactivate", "shutdown")
HARMS: Mapping[str, Callable[[Any], bool]] = {
    ChangeState.Request.__msgtype__: lambda request: (request.transition.label or request.transition.id) in ENDING,
    CancelGoal.Request.__msgtype__: lambda request: (
        bool(request.goal_info.stamp.sec or request.goal_info.stamp.nanosec) or not any(request.goal_info.goal_id.uuid)
    ),
}
"""What everybody on a domain may ask for, and all goals feel. The attacker leaves it out."""


@dataclass(slots=True)
class Topic:
    """One that somebody listens to.

    Args:
        examples: serialized messages of its type.
        tap: hears what is said there.
        heard: the last of it.
    """

    name: str
    typename: str
    is_service: bool
    examples: Sequence[bytes]
    tap: Reader
    heard: bytes = b""

    def listen(self) -> bytes:
        while (sample := self.tap.take()) is not None:
            self.heard = sample.data
        return self.heard


class Attacker:
    """Says one thing at a time, on any topic.

    Args:
        examples: makes messages of a type.
        spared: GUID of a participant whose topics are left alone, unless others listen to them, too.
    """

    def __init__(self, rng: random.Random, examples: Callable[[str], Sequence[Any]], spared: bytes) -> None:
        self._rng = rng
        self._ears = Participant(domain_id())
        time.sleep(DISCOVERY_S)
        self.topics: dict[str, Topic] = {}
        for reader in self._ears.subscriptions():
            name, typename = reader.topic_name, reader.type_name.replace("dds_::", "").replace("::", "/").removesuffix("_")
            if name in self.topics or name.startswith("DCPS") or reader.guid[:12] == spared[:12]:
                continue
            is_service = name.startswith(("rq/", "rr/"))
            prefix = bytes(REQUEST_HEADER_SIZE) if is_service else b""
            encoded = [messages.codec(typename).encode(message, prefix) for message in examples(typename)]
            self.topics[name] = Topic(name, typename, is_service, encoded, self._ears.reader(name, typename, HEARD, is_service))
        self.come_again()

    def come_again(self) -> None:
        """With new writers: packets get lost, and a reader waits for the one that a writer it knows must have sent before."""
        self._mouth = Participant(domain_id())
        topics = list(self.topics.values())
        self._voices: list[tuple[Topic, Topic, Writer, Forger]] = []
        for topic in topics:
            kind = self._rng.choice(topics) if self._rng.random() < OTHER else topic
            writer = self._mouth.writer(topic.name, kind.typename, OFFERED, kind.is_service)
            self._voices.append((topic, kind, writer, Forger(writer)))
        deadline_s = time.monotonic() + DISCOVERY_S
        while time.monotonic() < deadline_s and not all(writer.matched() for topic, kind, writer, _ in self._voices if kind is topic):
            time.sleep(0.05)

    def leave(self) -> None:
        for *_, forger in self._voices:
            forger.close()
        self._mouth.close()

    def say(self) -> None:
        """One sample, or one packet."""
        rng = self._rng
        topic, kind, writer, forger = rng.choice(self._voices)
        if rng.random() < RAW:
            packet = b"RTPS\x02\x03\x01\x10" + rng.randbytes(12) + rng.randbytes(rng.randint(0, 300))
            forger.send_packet(packet if rng.random() < 0.5 else damaged(packet, rng))
        elif kind is not topic:
            writer.write(rng.choice(kind.examples))
        else:
            sample = rng.randbytes(rng.randint(0, 200)) if rng.random() < RANDOM else damaged(self._message(topic), rng)
            if not harms(topic.typename, sample):
                forger.send(sample)

    def _message(self, topic: Topic) -> bytes:
        """One that is right, or was heard; a reply is to the last request that was heard."""
        rng = self._rng
        heard = topic.listen()
        message = heard if heard and rng.random() < 0.5 else rng.choice(topic.examples)
        if not topic.is_service:
            return message
        name = topic.name.replace("rr/", "rq/", 1).removesuffix("Reply") + "Request"
        request = self.topics[name].listen() if name in self.topics else b""
        header = request[HEADER] or rng.randbytes(REQUEST_HEADER_SIZE)
        return message[: HEADER.start] + header + message[HEADER.stop :]


def harms(typename: str, sample: bytes) -> bool:
    """Whether it is a message that everybody may send, and all goals feel."""
    if typename not in HARMS:
        return False
    try:
        return HARMS[typename](messages.codec(typename).decode(sample, REQUEST_HEADER_SIZE))
    except DecodeError:
        return False
