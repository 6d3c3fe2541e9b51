"""A dispatcher in front of real servers, in processes of their own: what its clients see when members die, stop and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from serving import READY_S, Peer, running, serving

from slice_ros.client import GoalFailed
from slice_ros.goal import ErrorCode
from slice_ros.ros.interfaces import CheckSlo, GoalEvent, SloStatus
from slice_ros.slo import BestEffort, RealTime

pytestmark = pytest.mark.usefixtures("ros")

FAST, SLOW = "rtx4060ti-chatglm2-6b-int4-smooth", "rtx4060ti-chatglm2-6b-int4-flat"
LONG = 250
"""Tokens of a goal that is in hand while something happens; at 14 ms each."""


def simulated(stack: ExitStack, name: str) -> subprocess.Popen:
    """A server of the machine's speed for nothing: each of its tokens is an x."""
    return stack.enter_context(serving(name, "--engine", "simulated", "--device-profile", FAST))


class Fleet:
    """Three servers, a dispatcher, and a peer of it."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.servers = {f"/m{i}": simulated(stack, f"m{i}") for i in range(3)}
        names = ",".join(self.servers)
        self.dispatcher = stack.enter_context(running("dispatch", "--name", "fleet", "--members", names, "-p", "members.m2.quality:=1"))
        self.peer = Peer("fleet")
        stack.callback(self.peer.close)
        self.events: list[GoalEvent] = []
        self.peer.node.create_subscription(GoalEvent, "/fleet/goal_events", self.events.append, 100)
        self.peer.client.wait_for_server(READY_S)
        self.wait_until_used(*self.servers)

    def states(self) -> dict[str, str]:
        return {member.name: member.state for member in self.peer.status().members}

    def wait_until_used(self, *names: str) -> None:
        until_s = time.monotonic() + READY_S
        while any(self.states().get(name) != "used" for name in names):
            assert time.monotonic() < until_s, self.states()

    def wait_until(self, name: str, state: str) -> None:
        until_s = time.monotonic() + READY_S
        while self.states().get(name) != state:
            assert time.monotonic() < until_s, self.states()

    def where(self, goal_id: str) -> list[str]:
        """The members that a goal was sent to, in order."""
        sent = [event for event in self.events if bytes(event.goal_id.uuid).hex() == goal_id and event.event == GoalEvent.SENT]
        assert all(event.why for event in sent)
        return [event.member for event in sent]

    def begin(self, **options):
        """A long goal that has begun, and where."""
        goal = self.peer.client.send("tell me everything", max_tokens=LONG, label="long", **options)
        self.peer.spin_until(lambda: goal._heard or goal.done)
        assert not goal.done
        return goal, self.where(goal.goal_id)[-1]

    def ends(self, goal):
        self.peer.spin_until(lambda: goal.done, READY_S)
        return goal.answer()


@pytest.fixture(scope="module")
def fleet(ros):
    with ExitStack() as stack:
        yield Fleet(stack)


def test_a_goal_through_a_dispatcher_is_like_one_at_a_server(fleet):
    answer = fleet.peer.run(fleet.peer.client.generate("go", slo=RealTime(deadline_s=20.0), max_tokens=8))
    assert answer.text == "x" * 8
    assert answer.finish_reason == "length"
    assert answer.report.attained
    assert answer.report.output_tokens == 8
    assert answer.report.predicted_e2e_s > 0.0


def test_pieces_come_as_they_are_made(fleet):
    async def collect():
        return [piece async for piece in fleet.peer.client.stream("go", max_tokens=12)]

    assert fleet.peer.run(collect()) == ["x"] * 12


def test_a_goal_that_is_at_ease_goes_to_the_best_model(fleet):
    goal = fleet.peer.client.send("go", slo=RealTime(deadline_s=20.0), max_tokens=4)
    fleet.ends(goal)
    assert fleet.where(goal.goal_id) == ["/m2"]


def test_what_a_goal_could_expect_is_told_without_asking_a_member(fleet):
    slo = BestEffort(deadline_s=10.0)
    request = {"prompt_tokens": 20, "max_tokens": 10}
    answer = fleet.peer.call(CheckSlo, "/fleet/check_slo", **request)
    assert (answer.error_code, answer.feasible, answer.safe) == (0, True, True)
    assert 0.0 < answer.e2e_ms < 10e3
    assert slo.deadline_s is not None


def test_a_model_that_no_member_has_is_refused_with_what_they_have(fleet):
    error = fleet.peer.fails("go", model="large.gguf")
    assert error.code is ErrorCode.INVALID_GOAL
    assert "/m0 has the model simulated" in error.message


def test_diagnostics_say_that_the_fleet_serves(fleet):
    array = fleet.peer.latest(DiagnosticArray, "/diagnostics", satisfies=lambda array: any("fleet" in s.name for s in array.status))
    (engine,) = [status for status in array.status if status.name == "fleet: engine"]
    assert engine.level == b"\0"


def test_a_canceled_goal_leaves_its_member(fleet):
    goal, _ = fleet.begin()
    goal.cancel()
    with pytest.raises(GoalFailed) as caught:
        fleet.ends(goal)
    assert caught.value.code is ErrorCode.CANCELED
    fleet.peer.spin_until(lambda: all(member.in_hand == 0 for member in fleet.peer.status().members), READY_S)


def test_both_ways_of_a_hedged_goal_are_seen_and_its_text_comes_once(fleet):
    goal = fleet.peer.client.send("go", max_tokens=6, hedge=True)
    assert fleet.ends(goal).text == "x" * 6
    assert len(set(fleet.where(goal.goal_id))) == 2


def test_a_deactivated_member_hands_its_goals_on_and_is_used_again_when_it_is_active(fleet):
    goal, first = fleet.begin()
    fleet.peer.call(ChangeState, f"{first}/change_state", transition=_transition("deactivate"))
    assert fleet.ends(goal).text == "x" * LONG
    fleet.peer.call(ChangeState, f"{first}/change_state", transition=_transition("activate"))
    fleet.wait_until_used(first)


def test_the_goal_of_a_member_that_stands_still_goes_on_elsewhere_and_its_text_comes_once(fleet):
    goal, first = fleet.begin()
    os.killpg(fleet.servers[first].pid, signal.SIGSTOP)
    try:
        answer = fleet.ends(goal)
        assert answer.text == "x" * LONG
        assert answer.report.output_tokens == LONG
        assert set(fleet.where(goal.goal_id)) > {first}
        fleet.wait_until(first, "lost")
    finally:
        os.killpg(fleet.servers[first].pid, signal.SIGCONT)
    fleet.wait_until_used(first)


def test_the_goal_of_a_member_that_is_killed_goes_on_elsewhere(fleet):
    goal, first = fleet.begin()
    os.killpg(fleet.servers[first].pid, signal.SIGKILL)
    assert fleet.ends(goal).text == "x" * LONG
    assert [event.event for event in fleet.events if bytes(event.goal_id.uuid).hex() == goal.goal_id].count(GoalEvent.FINISHED) == 1
    fleet.servers[first] = simulated(fleet.stack, first[1:])
    fleet.wait_until_used(first)


def test_a_dispatcher_has_a_chat_template_where_its_members_have(ros):
    with ExitStack() as stack:
        stack.enter_context(serving("spoken", "--engine", "paced"))
        stack.enter_context(running("dispatch", "--name", "spoken_for", "--members", "/spoken"))
        peer = Peer("spoken_for")
        stack.callback(peer.close)
        peer.latest(SloStatus, "/spoken_for/slo_status", satisfies=lambda status: status.chat_template == "model", timeout_s=READY_S)


def test_chat_with_a_fleet_names_the_models_that_answer(fleet):
    chat = subprocess.run(
        [sys.executable, "-m", "slice_ros.cli", "chat", "--server", "/fleet"],
        input="",
        capture_output=True,
        text=True,
        timeout=READY_S,
        check=True,
    )
    assert chat.stderr.startswith("simulated on /fleet; ")


def test_goals_end_when_the_dispatcher_stops(ros):
    with ExitStack() as stack:
        simulated(stack, "only")
        dispatcher = stack.enter_context(running("dispatch", "--name", "gone", "--members", "/only"))
        peer = Peer("gone")
        stack.callback(peer.close)
        peer.client.wait_for_server(READY_S)
        goal = peer.client.send("go", max_tokens=LONG)
        peer.spin_until(lambda: bool(goal._heard), READY_S)
        dispatcher.send_signal(signal.SIGINT)
        peer.spin_until(lambda: goal.done, READY_S)
        with pytest.raises(GoalFailed) as caught:
            goal.answer()
        assert caught.value.code is ErrorCode.SHUTTING_DOWN
        assert dispatcher.wait(15) == 0
        assert peer.call(GetState, "/only/get_state").current_state.label == "active"


def _transition(label: str):
    from lifecycle_msgs.msg import Transition

    return Transition(label=label)
