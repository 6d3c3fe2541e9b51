"""On which network this process speaks: ROS 2's environment variables, put into Cyclone DDS's configuration.

``CYCLONEDDS_URI`` wins and is left untouched. Otherwise ``ROS_AUTOMATIC_DISCOVERY_RANGE`` (SUBNET, the default as in ROS 2; LOCALHOST; OFF;
SYSTEM_DEFAULT) and ``ROS_STATIC_PEERS`` (addresses divided by semicolons) decide, and ``ROS_DOMAIN_ID`` names the DDS domain.
"""

from __future__ import annotations

import os
from enum import Enum
from xml.sax.saxutils import quoteattr

MAX_DOMAIN_ID = 232
"""The largest whose UDP ports (RTPS 2.3, section 9.6.1) exist."""
MAX_PARTICIPANTS = 120
"""Processes of one machine that find each other by unicast; rmw_cyclonedds' 32 are too few for a busy robot."""


LINGER = "<Internal><WriterLingerDuration>100 ms</WriterLingerDuration></Internal>"
"""How long each writer that is deleted waits for readers which have not acknowledged all: those of killed processes, until DDS notices."""
_internal: list[str] = []


class DiscoveryRange(Enum):
    """Values of ``ROS_AUTOMATIC_DISCOVERY_RANGE``."""

    SUBNET = "SUBNET"
    LOCALHOST = "LOCALHOST"
    OFF = "OFF"
    SYSTEM_DEFAULT = "SYSTEM_DEFAULT"


def domain_id() -> int:
    """``ROS_DOMAIN_ID``, 0 where it is not set.

    Raises:
        ValueError: it is not a number from 0 to 232.
    """
    text = os.environ.get("ROS_DOMAIN_ID", "").strip() or "0"
    if not text.isdecimal() or int(text) > MAX_DOMAIN_ID:
        raise ValueError(f"ROS_DOMAIN_ID is {text!r}; it must be a number from 0 to {MAX_DOMAIN_ID}")
    return int(text)


def refuse_security() -> None:
    """Raise where SROS2 is asked for, which this layer does not have.

    Raises:
        ValueError: ``ROS_SECURITY_ENABLE`` is "true".
    """
    if os.environ.get("ROS_SECURITY_ENABLE", "").strip().lower() == "true":
        raise ValueError("ROS_SECURITY_ENABLE is true, but without rclpy there is no SROS2; use a ROS 2 installation, or unset it")


def discovery_range() -> DiscoveryRange:
    """``ROS_AUTOMATIC_DISCOVERY_RANGE``; without it, LOCALHOST where the older ``ROS_LOCALHOST_ONLY`` is 1, else SUBNET.

    Raises:
        ValueError: it has another value than ROS 2 knows.
    """
    text = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").strip()
    if os.environ.get("ROS_LOCALHOST_ONLY", "") == "1":
        text = text or "LOCALHOST"
    try:
        return DiscoveryRange(text.upper() or "SUBNET")
    except ValueError:
        known = ", ".join(member.value for member in DiscoveryRange)
        raise ValueError(f"ROS_AUTOMATIC_DISCOVERY_RANGE is {text!r}; it must be one of {known}") from None


def static_peers() -> list[str]:
    """``ROS_STATIC_PEERS``."""
    return [peer for part in os.environ.get("ROS_STATIC_PEERS", "").split(";") if (peer := part.strip())]


def leave_soon() -> None:
    """Keep this process from waiting a second, when it ends, for each writer from which a process that was killed had not got all.

    To be called before ``rclpy.init``; a ``CYCLONEDDS_URI`` is left untouched.
    """
    _internal[:] = [LINGER]


def configuration() -> str | None:
    """Cyclone DDS's XML configuration for this process, ``None`` to leave it to ``CYCLONEDDS_URI`` or Cyclone's defaults."""
    where = discovery_range()
    if os.environ.get("CYCLONEDDS_URI") or where is DiscoveryRange.SYSTEM_DEFAULT:
        return None
    general, discovery, peers = "", "", static_peers()
    if where is DiscoveryRange.OFF:
        # As rmw_cyclonedds: by a tag of its own nobody can find it, and without an index the number of processes has no limit.
        general = "<AllowMulticast>false</AllowMulticast>"
        discovery = f"<ParticipantIndex>none</ParticipantIndex><Tag>ros_discovery_off_{os.getpid()}</Tag>"
        peers = []
    else:
        discovery = f"<ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>{MAX_PARTICIPANTS}</MaxAutoParticipantIndex>"
    if where is DiscoveryRange.LOCALHOST:
        if not peers:
            general = '<Interfaces><NetworkInterface address="127.0.0.1"/></Interfaces>'
            # No packet is lost on the loopback interface: a process that was killed may be noticed sooner than after DDS's usual 10 s.
            discovery += "<LeaseDuration>3 s</LeaseDuration><SPDPInterval>1 s</SPDPInterval>"
        general += "<AllowMulticast>false</AllowMulticast>"
        peers = ["127.0.0.1", *peers]
    if peers:
        discovery += f"<Peers>{''.join(f'<Peer address={quoteattr(peer)}/>' for peer in peers)}</Peers>"
    return f"<CycloneDDS><Domain><General>{general}</General><Discovery>{discovery}</Discovery>{''.join(_internal)}</Domain></CycloneDDS>"


def describe_network() -> str:
    """In words, on which network this process listens and is found."""
    domain = f"DDS domain {domain_id()}"
    if os.environ.get("CYCLONEDDS_URI"):
        return f"{domain}, network as CYCLONEDDS_URI says"
    where, peers = discovery_range(), static_peers()
    also = f", and the peers {', '.join(peers)}" if peers else ""
    words = {
        DiscoveryRange.SUBNET: f"every network interface of this machine, found by multicast on the local network{also}",
        DiscoveryRange.LOCALHOST: f"this machine only{also}" if peers else "this machine only (loopback interface)",
        DiscoveryRange.OFF: "nowhere: discovery is off",
        DiscoveryRange.SYSTEM_DEFAULT: "network as Cyclone DDS's own defaults say",
    }
    return f"{domain}, {words[where]} (ROS_AUTOMATIC_DISCOVERY_RANGE={where.value})"
