"""A server that is to be found on its machine only listens nowhere else, and shares no memory that it could leave locked."""

from __future__ import annotations

import psutil
import pytest
from serving import READY_S, Peer, serving

from reliability.processes import shared_memory_of


@pytest.fixture
def server(ros):
    with serving("alone", "--engine", "simulated") as server:
        peer = Peer("alone")
        peer.client.wait_for_server(READY_S)
        yield server
        peer.close()


def test_it_listens_on_the_loopback_interface_alone(server):
    listening = psutil.Process(server.pid).net_connections("inet")
    assert listening
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_it_shares_no_memory(server):
    assert not shared_memory_of(server.pid)
