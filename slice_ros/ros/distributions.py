"""What differs between ROS 2 distributions (Humble to Lyrical), evened out here and nowhere else."""

from __future__ import annotations

import importlib.util
import os
import re

from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
from rclpy.utilities import get_rmw_implementation_identifier

from slice_ros.paths import share_dir

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError


def describe_network() -> str:
    """In words, on which network this process listens and is found."""
    where = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "SUBNET"
    if os.environ.get("ROS_LOCALHOST_ONLY") == "1" or os.environ.get(PROFILES) == _profile("fastdds_loopback.xml"):
        where = "LOCALHOST"
    return f"ROS domain {os.environ.get('ROS_DOMAIN_ID') or 0}, discovery range {where}, {get_rmw_implementation_identifier()}"


PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"
"""Names the file that Fast DDS reads, from its release 3 on."""
FAST_DDS_3 = importlib.util.find_spec("rclpy.subscription_content_filter_options") is not None
"""Whether this is Kilted or later; without the profile, a discovery range that is no longer LOCALHOST would be the network's."""
LINGER = "<Internal><WriterLingerDuration>100 ms</WriterLingerDuration></Internal>"


def mind_the_dead() -> None:
    """Keep DDS from waiting for processes that were killed, or were busy; to be called before each ``rclpy.init``.

    Cyclone DDS waits for the readers of the dead when a writer is deleted. Fast DDS shares memory with them, and locks which they may have
    taken along: here it speaks UDP instead. What was lost on its way to one that was busy, where nothing else follows, it sends again after
    3 s; with the profiles that it gets here, after 0.1 s. What the environment says wins.

    Where discovery ends at this machine, rmw_fastrtps takes shared memory whatever the environment says. So its profile there is one with
    which all ends there.
    """
    given = os.environ.get("CYCLONEDDS_URI", "")
    if LINGER not in given:
        os.environ["CYCLONEDDS_URI"] = f"<CycloneDDS><Domain>{LINGER}</Domain></CycloneDDS>" + (f",{given}" if given else "")
    os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    if not FAST_DDS_3 or get_rmw_implementation_identifier() != "rmw_fastrtps_cpp":
        return
    loopback, network = _profile("fastdds_loopback.xml"), _profile("fastdds.xml")
    if os.environ.setdefault(PROFILES, network) not in {loopback, network}:
        return
    if os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "LOCALHOST" and not os.environ.get("ROS_STATIC_PEERS"):
        os.environ[PROFILES] = loopback
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"  # which the profile narrows, here and in processes started from here


def _profile(name: str) -> str:
    return str(share_dir() / "config" / name)


def refusal(error: Exception) -> str:
    """An error of ROS in one sentence, without the places in its source; with SROS2, where to look."""
    sentence = f"ROS refuses it: {re.sub(r',? at [^ ,]+:[0-9]+', '', str(error)).strip()}"
    if os.environ.get("ROS_SECURITY_ENABLE", "").strip().lower() == "true":
        sentence += "; see whether the enclave (ROS_SECURITY_ENCLAVE_OVERRIDE, --enclave) is there and may do this: SECURITY.md"
    return sentence


def confine_to_loopback() -> None:
    """Keep this process, and those it starts, from being found beyond this machine; to be called before ``rclpy.init``."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.pop("ROS_STATIC_PEERS", None)
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"  # Humble does not know the discovery range yet


__all__ = [
    "InvalidHandle",
    "RCLError",
    "SubscriptionEventCallbacks",
    "UnsupportedEventTypeError",
    "confine_to_loopback",
    "describe_network",
    "mind_the_dead",
    "refusal",
]
