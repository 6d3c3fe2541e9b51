"""The managed node: driven through its states from outside, with goals in every one of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from serving import READY_S, Peer, children_of, is_alive, open_when_read, serving

from slice_ros.client import GoalFailed
from slice_ros.engines.llama.shapes import default_model_path
from slice_ros.goal import ErrorCode
from slice_ros.ros.interfaces import SloStatus
from slice_ros.server.lifecycle import ManagedNode, TransitionError

pytestmark = pytest.mark.usefixtures("ros")


class Manager(Peer):
    """Asks for transitions, as a lifecycle manager does."""

    def change(self, label: str) -> bool:
        return self.call(ChangeState, f"/{self.server}/change_state", transition=Transition(label=label)).success

    @property
    def state(self) -> str:
        return self.call(GetState, f"/{self.server}/get_state").current_state.label

    def set(self, name: str, value):
        (result,) = self.call(
            SetParameters, f"/{self.server}/set_parameters", parameters=[Parameter(name, value=value).to_parameter_msg()]
        ).results
        return result

    def running_goal(self, max_tokens: int = 2000):
        """A goal that has its first tokens."""
        generation = self.client.send("a long story", max_tokens=max_tokens)
        self.spin_until(lambda: generation._pieces)
        return generation

    def end_of(self, generation) -> ErrorCode:
        try:
            self.run(generation.result())
        except GoalFailed as error:
            return error.code
        return ErrorCode.NONE


@contextmanager
def managed(name: str, *arguments: str, to: tuple[str, ...] = ()):
    """A server that waits to be configured, taken through the transitions in ``to``, and its manager."""
    with serving(name, "--engine", "simulated", "-p", "lifecycle.autostart:=false", *arguments) as server:
        manager = Manager(name)
        try:
            for label in to:
                assert manager.change(label)
            yield server, manager
        finally:
            manager.close()


def test_a_node_goes_through_its_life_and_back():
    with managed("life") as (server, manager):
        assert manager.state == "unconfigured"
        assert children_of(server.pid) == []
        assert manager.change("configure")
        assert manager.state == "inactive"
        (engine,) = children_of(server.pid)
        assert manager.change("activate")
        assert manager.state == "active"
        assert manager.run(manager.client.generate("hello", max_tokens=3)).report.output_tokens == 3
        assert manager.change("deactivate")
        assert manager.change("cleanup")
        assert manager.state == "unconfigured"
        assert not is_alive(engine)
        assert manager.change("configure")
        assert manager.change("activate")
        assert manager.run(manager.client.generate("hello again", max_tokens=3)).report.output_tokens == 3
        assert manager.change("shutdown")
        assert manager.state == "finalized"
        assert children_of(server.pid) == []


def test_a_lifecycle_manager_has_a_bond_with_an_active_server_that_ends_when_it_is_deactivated():
    bondpy = pytest.importorskip("bondpy.bondpy", reason="bondpy is not installed")
    with managed("bound", to=("configure",)) as (_, manager):
        seen = []
        bond = bondpy.Bond(manager.node, "bond", "bound", on_formed=lambda: seen.append("formed"), on_broken=lambda: seen.append("broken"))
        bond.set_heartbeat_timeout(4.0)
        bond.start()
        assert manager.change("activate")
        manager.spin_until(lambda: seen == ["formed"])
        assert manager.run(manager.client.generate("hello", max_tokens=3)).report.output_tokens == 3
        assert manager.change("deactivate")
        manager.spin_until(lambda: seen == ["formed", "broken"], timeout_s=2.0)  # told, not found out by its silence
        bond.shutdown()


def test_an_inactive_server_rejects_goals():
    with managed("idle", to=("configure",)) as (_, manager):
        manager.client.wait_for_server(READY_S)
        with pytest.raises(GoalFailed, match="not active"):
            manager.run(manager.client.generate("hello"))


def test_a_goal_in_flight_may_end_when_the_server_is_deactivated():
    with managed("patient", "-p", "lifecycle.drain_s:=20.0", to=("configure", "activate")) as (_, manager):
        generation = manager.running_goal(max_tokens=60)
        assert manager.change("deactivate")
        assert manager.end_of(generation) is ErrorCode.NONE


def test_while_a_server_drains_it_cancels_rejects_and_tells():
    with managed("draining", "-p", "lifecycle.drain_s:=60.0", to=("configure", "activate")) as (_, manager):
        generation, other = manager.running_goal(), manager.running_goal()
        client = manager.node.create_client(ChangeState, "/draining/change_state")
        assert client.wait_for_service(timeout_sec=READY_S)
        deactivated = client.call_async(ChangeState.Request(transition=Transition(label="deactivate")))
        manager.spin_until(lambda: manager.state == "deactivating")
        assert not manager.change("shutdown")
        manager.latest(SloStatus, "/draining/slo_status", satisfies=lambda status: status.running == 2)  # the first may be older
        assert manager.fails("too late").code is ErrorCode.SHUTTING_DOWN
        for goal in (generation, other):
            assert not deactivated.done()
            goal.cancel()
            assert manager.end_of(goal) is ErrorCode.CANCELED
        manager.spin_until(deactivated.done)
        assert deactivated.result().success
        assert manager.state == "inactive"


def test_while_an_engine_starts_the_node_answers():
    with managed("loading") as (_, manager):
        client = manager.node.create_client(ChangeState, "/loading/change_state")
        assert client.wait_for_service(timeout_sec=READY_S)
        configured = client.call_async(ChangeState.Request(transition=Transition(label="configure")))
        states = []
        while not configured.done():
            states.append(manager.state)
        assert "configuring" in states
        assert configured.result().success


@pytest.mark.parametrize("prompt", ["a story", "word " * 6000], ids=["while decoding", "during a prompt"])
def test_without_patience_goals_end_with_an_error_when_the_server_is_deactivated(prompt):
    with managed("hasty", "-p", "lifecycle.drain_s:=0.0", to=("configure", "activate")) as (_, manager):
        manager.client.wait_for_server(READY_S)
        generation = manager.client.send(prompt, max_tokens=500)
        manager.spin_until(lambda: manager.status().running)
        began = time.monotonic()
        assert manager.change("deactivate")
        assert time.monotonic() - began < 2.0
        assert manager.end_of(generation) is ErrorCode.SHUTTING_DOWN
        assert manager.change("activate")
        assert manager.run(manager.client.generate("next", max_tokens=2)).report.output_tokens == 2


def test_a_configuration_that_fails_says_why_and_can_be_tried_again():
    with managed("picky", "--device-profile", "toaster") as (_, manager):
        assert not manager.change("configure")
        assert manager.state == "unconfigured"
        diagnosis = manager.latest(
            DiagnosticArray, "/diagnostics", satisfies=lambda m: m.status[0].name == "picky: engine" and m.status[0].level == b"\x02"
        )
        assert "toaster" in diagnosis.status[0].message
        assert manager.set("engine.device_profile", "rtx4060ti-chatglm2-6b-int4").successful
        assert manager.change("configure")


class Clumsy(ManagedNode):
    """Fails where it is told to."""

    def __init__(self, *failing: str) -> None:
        super().__init__("clumsy")
        self.failing = failing

    async def on_configure(self) -> None:
        if "configure" in self.failing:
            raise TransitionError("the motor is cold; warm it up")
        if "silent" in self.failing:
            raise TransitionError("")
        if "code" in self.failing:
            raise KeyError("motor")

    async def on_error(self) -> None:
        if "error" in self.failing:
            raise TransitionError("the brake is stuck")


@pytest.mark.parametrize(
    ("failing", "state", "says"),
    [
        (("configure",), "unconfigured", "^the motor is cold; warm it up$"),
        (("silent",), "unconfigured", "^$"),
        (("code",), "unconfigured", r"on_configure raised KeyError\('motor'\)"),
        (("configure", "error"), "finalized", "the motor is cold.*the brake is stuck; start the node anew"),
    ],
)
def test_what_fails_goes_through_error_processing_and_leaves_a_reason(failing, state, says):
    node, executor = Clumsy(*failing), SingleThreadedExecutor()
    executor.add_node(node)
    try:
        transition = executor.create_task(node.change_state("configure"))
        executor.spin_until_future_complete(transition, timeout_sec=READY_S)
        assert transition.result() is False
        assert node.state == state
        assert re.search(says, node.failure)
    finally:
        executor.shutdown()
        node.destroy_node()


def test_what_only_an_unconfigured_node_may_change_is_refused_later_with_a_sentence():
    with managed("firm", to=("configure",)) as (_, manager):
        result = manager.set("context.n_ctx", 512)
        assert not result.successful
        assert "unconfigured" in result.reason
        assert not manager.set("status.rate_hz", 5.0).successful


def test_a_transition_that_is_not_possible_is_answered_with_no():
    with managed("calm") as (server, manager):
        assert not manager.change("activate")
        assert not manager.change("dance")
        assert not manager.call(ChangeState, "/calm/change_state", transition=Transition(id=77)).success
        assert manager.state == "unconfigured"
        assert server.poll() is None


def test_an_engine_that_died_for_good_takes_the_node_back_to_unconfigured():
    with managed("mourning", "-p", "engine.restart:=false", to=("configure", "activate")) as (server, manager):
        generation = manager.running_goal()
        (engine,) = children_of(server.pid)
        os.kill(engine, signal.SIGKILL)
        assert manager.end_of(generation) is ErrorCode.ENGINE_DIED
        manager.spin_until(lambda: manager.state == "unconfigured")
        diagnosis = manager.latest(DiagnosticArray, "/diagnostics", satisfies=lambda m: m.status[0].level == b"\x02")
        assert "SIGKILL" in diagnosis.status[0].message
        assert manager.change("configure")
        assert manager.change("activate")
        assert manager.run(manager.client.generate("alive", max_tokens=2)).report.output_tokens == 2


def test_states_and_transitions_can_be_listed():
    with managed("open", to=("configure",)) as (_, manager):
        states = manager.call(GetAvailableStates, "/open/get_available_states").available_states
        assert {"unconfigured", "inactive", "active", "finalized", "errorprocessing"} <= {state.label for state in states}
        possible = manager.call(GetAvailableTransitions, "/open/get_available_transitions").available_transitions
        assert [t.transition.label for t in possible] == ["cleanup", "activate", "shutdown"]
        assert possible[1].goal_state.label == "activating"
        graph = manager.call(GetAvailableTransitions, "/open/get_transition_graph").available_transitions
        assert len(graph) == 25


def test_every_transition_is_announced():
    with managed("loud") as (_, manager):
        heard = []
        manager.node.create_subscription(TransitionEvent, "/loud/transition_event", heard.append, 10)
        manager.state  # noqa: B018 - discovery has happened once this is answered
        time.sleep(0.5)
        manager.change("configure")
        manager.spin_until(lambda: len(heard) == 2)
        assert [(e.start_state.label, e.goal_state.label) for e in heard] == [("unconfigured", "configuring"), ("configuring", "inactive")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("state", ["unconfigured", "configuring", "inactive", "active", "deactivating"])
def test_a_signal_ends_the_node_within_two_seconds_in_any_state(state, number):
    to = {"inactive": ("configure",), "active": ("configure", "activate"), "deactivating": ("configure", "activate")}.get(state, ())
    with managed("fading", "-p", "lifecycle.drain_s:=60.0", to=to) as (server, manager):
        assert manager.state == {"configuring": "unconfigured", "deactivating": "active"}.get(state, state)
        generation = manager.running_goal() if state in ("active", "deactivating") else None
        if state.endswith("ing"):
            client = manager.node.create_client(ChangeState, "/fading/change_state")
            assert client.wait_for_service(timeout_sec=READY_S)
            client.call_async(
                ChangeState.Request(transition=Transition(label=state.removesuffix("ating") + "ate" if generation else "configure"))
            )
            time.sleep(0.3)
        engines = children_of(server.pid)
        server.send_signal(number)
        began = time.monotonic()
        waiter = Thread(target=server.wait, args=(10,))
        waiter.start()
        if generation is not None:
            assert manager.end_of(generation) is ErrorCode.SHUTTING_DOWN
        waiter.join()
        assert time.monotonic() - began < 2.0
        assert server.returncode == 0
        assert not any(is_alive(engine) for engine in engines)


def test_a_signal_ends_the_node_within_two_seconds_also_where_clients_were_killed():
    with managed("left", to=("configure", "activate")) as (server, _):
        for _client in range(2):
            command = [sys.executable, "-m", "slice_ros.cli", "send", "a long story", "--raw", "--max-tokens", "3000", "--server", "/left"]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
                assert client.stdout.read(5)
                client.kill()  # DDS waits for its acknowledgements until it notices
        time.sleep(0.5)
        server.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert server.wait(10) == 0
        assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["loading", "calibrating", "in a long step"])
def test_a_signal_ends_a_node_with_a_real_engine_within_two_seconds_at_any_moment(moment, number, tmp_path, monkeypatch):
    arguments, fifo = [], tmp_path / "model.gguf"
    if moment == "loading":
        os.mkfifo(fifo)  # nobody writes anything: the load takes for ever
        arguments = ["--model", str(fifo)]
    elif moment == "calibrating":
        model = default_model_path()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        arguments = ["--model", str(model)]
    else:
        arguments = ["--device-profile", "rtx4060ti-chatglm2-6b-int4", "-p", "context.n_batch:=8192"]
    with serving("real", *arguments) as server:
        peer = Peer("real")
        writer = -1
        try:
            if moment == "loading":
                writer = open_when_read(fifo)
            elif moment == "calibrating":
                peer.spin_until(lambda: any(".gguf" in Path(f"/proc/{child}/maps").read_text() for child in children_of(server.pid)))
                time.sleep(0.3)
                assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # what is measured has not been saved yet
            else:
                peer.client.wait_for_server(READY_S)
                peer.client.send("word " * 1500, max_tokens=2)
                peer.spin_until(lambda: peer.status().running)
            engines = children_of(server.pid)
            server.send_signal(number)
            began = time.monotonic()
            assert server.wait(10) == 0
            assert time.monotonic() - began < 2.0
            assert not any(is_alive(engine) for engine in engines)
        finally:
            peer.close()
            if writer >= 0:
                os.close(writer)


def test_a_status_tells_that_there_is_no_engine():
    with managed("bare", to=("configure", "cleanup")) as (_, manager):
        assert manager.latest(SloStatus, "/bare/slo_status").engine_state == "stopped"


@pytest.mark.parametrize("script", ["slice_server", "slice_dispatcher", "gateway", "robot"])
def test_a_launch_that_ends_before_a_node_has_begun_ends_it_cleanly(script):
    path = Path(__file__).parent.parent / "scripts" / script
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", path, *(["control"] if script == "robot" else [])], stderr=subprocess.PIPE, text=True
    ) as starting:
        assert any("slice_ros" in line for line in starting.stderr)  # it imports
        starting.send_signal(signal.SIGINT)
        error = starting.communicate(timeout=20)[1]
    assert starting.returncode == 0
    assert "Traceback" not in error
