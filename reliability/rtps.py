"""Puts any bytes on a DDS topic, as an attacker would: in a DATA message (RTPS 2.3, section 9.4.5.3) that bears a real writer's name.

rclpy itself sends any bytes on a topic, but on a service's topics only what is a request or a reply of its type.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

import psutil

GUID_SIZE = 16
PREFIX_SIZE = 12
"""Of a GUID, what all entities of a participant share."""
HEADER = b"RTPS\x02\x03\x01\x0f"
"""Version 2.3, and the vendor's number of Fast DDS."""
GAP, DATA = 0x08, 0x15
LITTLE_ENDIAN, INLINE_QOS, PAYLOAD = 0x01, 0x02, 0x04
RELATED_SAMPLE, SENTINEL = 0x83, 0x01
"""Parameters of inline QoS: which sample this one is about (DDS-RPC 1.0, section 7.8.2), and that there are no more."""
LONGEST = 60_000
"""Bytes of a sample that go into one UDP packet."""


def ports(pids: Iterable[int]) -> list[int]:
    """UDP ports on which these processes listen for discovery and for data."""
    return sorted({connection.laddr.port for pid in pids for connection in psutil.Process(pid).net_connections("udp")})


def about(guid: bytes, sequence: int) -> bytes:
    """Inline QoS that says to which sample of whom this one belongs.

    In a request the GUID is that of the reader which waits for the reply; a reply repeats what its request says, with the request's
    sequence number.
    """
    return struct.pack("<HH", RELATED_SAMPLE, 24) + guid + _number(sequence) + struct.pack("<HH", SENTINEL, 0)


def sample(guid: bytes, sequence: int, payload: bytes, inline_qos: bytes = b"") -> bytes:
    """A packet with one sample of a writer, for every reader that knows it; samples before this one are said to be none.

    Args:
        payload: encapsulation header and body, or whatever else.
    """
    entity = guid[PREFIX_SIZE:]
    gap = struct.pack("<4x4s", entity) + _number(1) + _number(sequence) + struct.pack("<I", 0)
    data = struct.pack("<HH4x4s", 0, 16, entity) + _number(sequence) + inline_qos + payload[:LONGEST]
    submessages = _submessage(GAP, 0, gap) + _submessage(DATA, PAYLOAD | (INLINE_QOS if inline_qos else 0), data)
    return HEADER + guid[:PREFIX_SIZE] + submessages


def _number(sequence: int) -> bytes:
    """A sequence number: high word, low word."""
    return struct.pack("<iI", sequence >> 32, sequence & 0xFFFFFFFF)


def _submessage(kind: int, flags: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("<BBH", kind, flags | LITTLE_ENDIAN, len(body)) + body


class Sender:
    """Sends packets to processes of this machine, over the loopback interface.

    Args:
        pids: of the processes.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._ports = ports(pids)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, packet: bytes) -> None:
        for port in self._ports:
            self._socket.sendto(packet, ("127.0.0.1", port))

    def close(self) -> None:
        self._socket.close()
