"""A robot in a simulator: the node's clock is the simulation's, absent, slow, quick, standing still or stepping back."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import pytest
import rclpy
from rosgraph_msgs.msg import Clock
from serving import READY_S, Peer, serving

from slice_ros.client import GoalFailed
from slice_ros.goal import ErrorCode
from slice_ros.slo import BestEffort, RealTime

pytestmark = pytest.mark.usefixtures("ros")
SIMULATED = ("-p", "use_sim_time:=true")


class Simulation:
    """Publishes ``/clock`` at a rate that may be changed, from a thread, as a simulator does."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.now_s = 1000.0
        self._node = rclpy.create_node("simulation")
        self._publisher = self._node.create_publisher(Clock, "/clock", 10)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._is_over.wait(0.01):
            now_s = time.monotonic()
            self.now_s += self.rate * (now_s - last_s)
            last_s = now_s
            clock = Clock()
            clock.clock.sec, clock.clock.nanosec = int(self.now_s), int(self.now_s % 1.0 * 1e9)
            self._publisher.publish(clock)

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._node.destroy_node()


@contextmanager
def simulation(rate: float):
    simulation = Simulation(rate)
    try:
        yield simulation
    finally:
        simulation.close()


@contextmanager
def served(name: str, *arguments: str):
    with serving(name, "--engine", "simulated", *SIMULATED, *arguments) as server:
        peer = Peer(name)
        peer.node.set_parameters([rclpy.Parameter("use_sim_time", value=True)])
        try:
            peer.client.wait_for_server(READY_S)
            yield server, peer
        finally:
            peer.close()


def test_without_a_clock_it_serves_and_tells():
    began_s = time.monotonic()
    with served("clockless") as (_, peer):
        assert peer.run(peer.client.generate("x", max_tokens=5)).report.output_tokens == 5
        assert time.monotonic() - began_s < 20.0
        first, second = peer.status(), peer.status()
        assert (first.stamp.sec, second.stamp.sec) == (0, 0)  # ROS time, as everywhere


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0, 5.0])
def test_at_any_rate_a_long_goal_is_served_and_a_killed_server_is_known(rate):
    with simulation(rate), served("rated") as (server, peer):
        answer = peer.run(peer.client.generate("a long story", max_tokens=150))  # two seconds, in which a stopped clock says nothing
        assert answer.report.output_tokens == 150
        peer.status()
        goal = peer.client.send("a longer story", max_tokens=2000)
        peer.spin_until(lambda: goal._pieces)
        server.kill()
        killed_s = time.monotonic()
        with pytest.raises(GoalFailed) as caught:
            peer.run(goal.result())
        assert caught.value.code is ErrorCode.ENGINE_DIED
        assert time.monotonic() - killed_s < 3.0


def test_slos_count_in_real_time_unless_told_otherwise():
    with simulation(0.1), served("real") as (_, peer):
        answer = peer.run(peer.client.generate("x", max_tokens=100, slo=BestEffort(deadline_s=1.0)))  # 1.4 s
        assert not answer.report.deadline_met
        assert answer.report.e2e_s > 1.3


@pytest.mark.parametrize(("rate", "is_met"), [(0.2, True), (5.0, False)])
def test_slos_count_in_simulated_time_where_told_to(rate, is_met):
    with simulation(rate), served("scaled", "-p", "slo.clock:=ros") as (_, peer):
        time.sleep(2.5)  # it looks at two seconds of the clock
        answer = peer.run(peer.client.generate("x", max_tokens=100, slo=BestEffort(deadline_s=2.0)))  # 1.4 s of real time
        assert answer.report.deadline_met == is_met
        assert answer.report.e2e_s == pytest.approx(1.45 * rate, rel=0.5)


def test_a_clock_that_pauses_or_steps_back_makes_no_goal_late_or_lost():
    with simulation(1.0) as world, served("jumpy", "-p", "slo.clock:=ros") as (_, peer):
        time.sleep(2.5)
        world.rate = 0.0
        time.sleep(2.5)
        paused = peer.run(peer.client.generate("x", max_tokens=100, slo=RealTime(deadline_s=0.5)))
        assert paused.report.deadline_met
        world.now_s, world.rate = 5.0, 1.0  # the simulation begins anew
        time.sleep(2.5)
        again = peer.run(peer.client.generate("x", max_tokens=10, slo=RealTime(deadline_s=5.0)))
        assert again.report.deadline_met
        assert again.report.e2e_s < 2.0


def test_a_clock_that_starts_or_leaps_makes_no_goal_late():
    with served("leaping", "-p", "slo.clock:=ros") as (_, peer):
        before = peer.run(peer.client.generate("x", max_tokens=10, slo=RealTime(deadline_s=5.0)))  # no clock yet: real time
        assert before.report.deadline_met
        with simulation(1.0) as world:
            for _ in range(5):
                world.now_s += 1e6
                answer = peer.run(peer.client.generate("x", max_tokens=10, slo=RealTime(deadline_s=5.0)))
                assert answer.report.deadline_met
                assert answer.report.e2e_s < 2.0
                time.sleep(0.2)
