"""Puts any bytes on a DDS topic, as an attacker would: in a DATA message (RTPS 2.3, section 9.4.5.3) that bears a real writer's name.

Cyclone itself refuses to send what is no message of the topic's type, and so does every well-behaved peer.
"""

from __future__ import annotations

import socket
import struct

from slice_ros.rclpy_dds.dds import Writer
from slice_ros.rclpy_dds.network import domain_id

PARTICIPANTS = 16
"""Participants of the machine that are reached, those with the lowest numbers."""


def ports(domain: int) -> list[int]:
    """UDP ports on which the participants of this machine listen for discovery and for data."""
    return [7400 + 250 * domain + offset + 2 * number for number in range(PARTICIPANTS) for offset in (10, 11)]


class Forger:
    """Sends in the name of a writer that itself must send nothing.

    Args:
        writer: known to the readers that are to take the bytes for its own.
    """

    def __init__(self, writer: Writer) -> None:
        self._prefix, self._entity = writer.guid[:12], writer.guid[12:]
        self._sequence = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ports = ports(domain_id())

    def send(self, payload: bytes) -> None:
        """One sample: its encapsulation header and its body, or whatever else."""
        self._sequence += 1
        body = struct.pack("<HH4x4sIi", 0, 16, self._entity, 0, self._sequence) + payload[:60_000]
        body += bytes(-len(body) % 4)
        self.send_packet(b"RTPS\x02\x03\x01\x10" + self._prefix + struct.pack("<BBH", 0x15, 0x05, len(body)) + body)

    def send_packet(self, packet: bytes) -> None:
        """One UDP packet, to every participant."""
        for port in self._ports:
            self._socket.sendto(packet, ("127.0.0.1", port))

    def close(self) -> None:
        self._socket.close()
