"""Nobody who lives is taken for dead, however busy the machine and whoever else dies; and who is dead or stands still is known to be."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from statistics import median

import pytest
from serving import READY_S, Peer, serving

from slice_ros.client import GoalFailed
from slice_ros.goal import ErrorCode
from slice_ros.ros.distributions import FAST_DDS_3

pytestmark = [pytest.mark.usefixtures("ros"), pytest.mark.timeout(600)]
BUSY = 8
CLIENTS = 4

ASKER = """
    import json, sys
    import rclpy
    from slice_ros.client import GoalFailed, SliceClient

    rclpy.init()
    client = SliceClient(rclpy.create_node(f"asker{sys.argv[1]}"), "/steady")
    client.wait_for_server(60.0)
    ends = {}
    for _ in range(int(sys.argv[2])):
        try:
            client.generate_sync("x", max_tokens=4)
            end = "success"
        except GoalFailed as error:
            end = str(error)
        ends[end] = ends.get(end, 0) + 1
    print(json.dumps(ends))
"""
DOOMED = """
    import sys
    import rclpy
    from slice_ros.client import SliceClient

    rclpy.init()
    node = rclpy.create_node("doomed")
    client = SliceClient(node, sys.argv[1])
    client.wait_for_server(60.0)
    goals = [client.send("a long story", max_tokens=1500) for _ in range(4)]
    while not all(goal._is_taken for goal in goals):
        rclpy.spin_once(node, timeout_sec=0.1)
    print("sent", flush=True)
    rclpy.spin(node)
"""
CROWDED = """
    import time
    import rclpy
    from slice_ros.client import SliceClient

    rclpy.init()
    node = rclpy.create_node("crowded")
    client = SliceClient(node, "/teller")
    client.wait_for_server(60.0)
    first = client.stream("x", max_tokens=1)
    while not first.done:
        rclpy.spin_once(node, timeout_sec=0.1)
    goals = [client.stream("x", max_tokens=60) for _ in range(16)]
    print("sent", flush=True)
    while not all(goal.done for goal in goals):
        rclpy.spin_once(node, timeout_sec=0.1)
    print(time.monotonic())
"""


@contextmanager
def python(program: str, *arguments: str):
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def busy_machine():
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_server_that_lives_is_never_taken_for_dead(tmp_path, request):
    goals = request.config.getoption("--goals-under-stress")
    profile = tmp_path / "quick.yaml"
    profile.write_text("decode_ms: [2.0]\n")
    with serving("steady", "--engine", "simulated", "-p", f"engine.device_profile:={profile}"), busy_machine():
        askers = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(ASKER), str(number), str(goals // CLIENTS)], stdout=subprocess.PIPE, text=True
            )
            for number in range(CLIENTS)
        ]
        killed = 0
        try:
            while any(asker.poll() is None for asker in askers):  # another client dies each second, with goals under way
                with python(DOOMED, "/steady") as doomed:
                    assert doomed.stdout.readline() == "sent\n"
                    time.sleep(1.0)
                    killed += 1
            ends = [json.loads(asker.communicate()[0]) for asker in askers]
        finally:
            for asker in askers:
                asker.kill()
                asker.wait()
    assert killed > 0
    assert ends == [{"success": goals // CLIENTS}] * CLIENTS


def test_the_goals_of_a_client_that_was_killed_end_within_seconds():
    with serving("bereft", "--engine", "paced"):
        peer = Peer("bereft")
        try:
            peer.client.wait_for_server(READY_S)
            with python(DOOMED, "/bereft") as doomed:
                assert doomed.stdout.readline() == "sent\n"
                peer.spin_until(lambda: peer.status().running == 4)
                doomed.kill()
                began_s = time.monotonic()
                peer.spin_until(lambda: peer.status().running == 0)
                assert time.monotonic() - began_s < 6.0
        finally:
            peer.close()


@pytest.mark.skipif(not FAST_DDS_3, reason="Fast DDS 2 does not read the server's profile")
def test_what_a_client_missed_while_it_stood_still_comes_at_once(tmp_path):
    """More than its sockets hold, and nothing after it by which it would know; Fast DDS by itself sends it again after 3 s."""
    profile = tmp_path / "quick.yaml"
    profile.write_text("decode_ms: [8.0]\n")
    late_s = []
    with serving("teller", "--engine", "simulated", "-p", f"engine.device_profile:={profile}"):
        for _ in range(3):
            with python(CROWDED) as crowded:
                assert crowded.stdout.readline() == "sent\n"
                time.sleep(0.15)
                crowded.send_signal(signal.SIGSTOP)
                time.sleep(0.9)
                crowded.send_signal(signal.SIGCONT)
                gone_on_s = time.monotonic()
                late_s.append(float(crowded.stdout.readline()) - gone_on_s)
    assert median(late_s) < 1.0


def test_a_server_that_stands_still_is_known_to_and_serves_again_when_it_goes_on():
    with serving("frozen", "--engine", "paced") as server:
        peer = Peer("frozen")
        try:
            peer.client.wait_for_server(READY_S)
            goal = peer.client.send("a long story", max_tokens=1500)
            peer.spin_until(lambda: goal._pieces)
            peer.status()
            server.send_signal(signal.SIGSTOP)
            began_s = time.monotonic()
            with pytest.raises(GoalFailed) as caught:
                peer.run(goal.result())
            assert caught.value.code is ErrorCode.ENGINE_DIED
            assert time.monotonic() - began_s < 3.0
            server.send_signal(signal.SIGCONT)
            peer.status()
            assert peer.run(peer.client.generate("x", max_tokens=3)).report.output_tokens == 3
        finally:
            server.send_signal(signal.SIGCONT)
            peer.close()
