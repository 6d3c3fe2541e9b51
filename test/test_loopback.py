"""A server that is to be found on its machine only listens nowhere else, and shares no memory that it could leave locked."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from serving import READY_S, Peer, serving

from reliability.processes import shared_memory_of
from slice_ros.ros.distributions import FAST_DDS_3

STARTS = 6
FOUND_S = 1.5
"""After a server is active, one that was there before finds it within this: a second for which it says nothing, and what is busy."""
WATCHER = """
    import time
    import rclpy
    from slice_ros.client import SliceClient
    from slice_ros.ros.distributions import mind_the_dead

    mind_the_dead()
    rclpy.init()
    client = SliceClient(rclpy.create_node("watcher"), "/alone")
    print("ready", flush=True)
    was_there = False
    while True:
        time.sleep(0.01)
        if client.server_is_ready() != was_there:
            was_there = not was_there
            print(time.monotonic() if was_there else "gone", flush=True)
"""
CONFINED_AGAIN = """
    import rclpy
    from slice_ros.ros.distributions import confine_to_loopback, mind_the_dead

    for _ in range(2):
        confine_to_loopback()
        mind_the_dead()
    rclpy.init()
    node = rclpy.create_node("confined_again")
    print("ready", flush=True)
    input()
"""


@pytest.fixture
def server(ros):
    with serving("alone", "--engine", "simulated") as server:
        peer = Peer("alone")
        peer.client.wait_for_server(READY_S)
        yield server
        peer.close()


def addresses_of(pid):
    """Those on which it listens."""
    return {connection.laddr.ip for connection in psutil.Process(pid).net_connections("inet")}


def test_it_listens_on_the_loopback_interface_alone(server):
    assert addresses_of(server.pid) == {"127.0.0.1"}


def test_it_shares_no_memory(server):
    assert not shared_memory_of(server.pid)


@pytest.mark.skipif(not FAST_DDS_3, reason="earlier releases of Fast DDS do not read the profile")
def test_so_it_is_where_a_process_was_confined_before():
    """As with a demo after a command, in one process; the servers that it starts inherit what it is left with."""
    command = [sys.executable, "-c", textwrap.dedent(CONFINED_AGAIN)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as confined:
        assert confined.stdout.readline() == "ready\n"
        assert addresses_of(confined.pid) == {"127.0.0.1"}
        assert not shared_memory_of(confined.pid)
        confined.communicate("\n")


@pytest.mark.skipif(not FAST_DDS_3, reason="earlier releases of Fast DDS do not read the profile")
def test_a_server_that_starts_anew_is_found_at_once():
    """Fast DDS (3.2) does not hear what others answer to a participant's first words: they have to speak again, each second."""
    command = [sys.executable, "-c", textwrap.dedent(WATCHER)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout.readline() == "ready\n"
        after_s = []
        for start in range(STARTS):
            time.sleep(0.3 * start)  # at another moment of the watcher's second
            with serving("alone", "--engine", "simulated") as server:
                assert any("active" in line for line in server.stderr)
                active_s = time.monotonic()
                after_s.append(float(watcher.stdout.readline()) - active_s)
            assert watcher.stdout.readline() == "gone\n"
        watcher.kill()
    assert max(after_s) < FOUND_S
