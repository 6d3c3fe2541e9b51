"""Network namespaces for members, so that the network between them can be cut. Root and iproute2 are needed; nothing leaves the machine.

This process goes into a namespace of its own, which has no way out, with a bridge to those of the members.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

INSIDE = "SLICE_ROS_ISLANDS"
"""Set in the environment of a process that is inside."""
SUBNET = "10.77.0"


def are_possible() -> bool:
    """Whether this user may make namespaces here."""
    return (
        shutil.which("ip") is not None
        and shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode == 0
    )


def enter(module: str, arguments: Sequence[str]) -> None:
    """Run a module again, inside; returns where that has happened already."""
    if INSIDE not in os.environ:
        os.environ[INSIDE] = f"{os.getpid()}"
        os.execvp("unshare", ["unshare", "-n", sys.executable, "-m", module, *arguments])
    _ip("link", "set", "lo", "up")
    _ip("link", "add", "br0", "type", "bridge")
    _ip("addr", "add", f"{SUBNET}.254/24", "dev", "br0")
    _ip("link", "set", "br0", "up")
    os.environ |= {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}


class Island:
    """A namespace with one interface, on the bridge."""

    def __init__(self, number: int) -> None:
        self._name, self._link = f"slice{os.environ[INSIDE]}_{number}", f"veth{number}"
        _ip("netns", "add", self._name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        _ip("link", "set", self._link, "master", "br0", "up")
        for command in (
            ("addr", "add", f"{SUBNET}.{number + 1}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", self._name, *command)

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with that is to run there."""
        return "ip", "netns", "exec", self._name

    def cut(self) -> None:
        """Nothing goes in or out any more."""
        _ip("link", "set", self._link, "down")

    def mend(self) -> None:
        _ip("link", "set", self._link, "up")

    def remove(self) -> None:
        _ip("netns", "del", self._name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
