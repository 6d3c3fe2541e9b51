"""Serves goals by passing them on: what a server has in place of an engine when it is a dispatcher."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from slice_ros.dispatch.attempt import Attempt
from slice_ros.dispatch.dispatcher import Dispatcher
from slice_ros.dispatch.member import TAKING, MemberState
from slice_ros.dispatch.policies import DISPATCH_POLICIES
from slice_ros.fleet.link import MemberLink
from slice_ros.fleet.parameters import MEMBERS, QUALITY
from slice_ros.goal import ErrorCode, GoalError, GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.parameters.table import ParameterError, Value
from slice_ros.process.host import EngineState
from slice_ros.process.protocol import Ready
from slice_ros.scheduling.admission import Admission
from slice_ros.scheduling.engine import EngineInfo
from slice_ros.scheduling.events import Event

LOOK_PERIOD_S = 0.05
FIND_PERIOD_S = 1.0
STOP_S = 2.0
"""How long the executor may take to end what is in hand when another thread asks for it."""
STATUS, TYPE = "/slo_status", "slice_ros/msg/SloStatus"
NOBODY = Ready(EngineInfo("", "fleet", 0, 0, 0, 0), LatencyModel("fleet", (1.0,)))


class FleetHost:
    """To be made in the node's executor, which it works in.

    Args:
        node: the dispatcher's.
        parameters: checked values of ``fleet.parameters.TABLE``.
        on_events: receives events in order.

    Raises:
        ParameterError: the rank of a member is no number.
    """

    def __init__(self, node: Node, parameters: Mapping[str, Value], on_events: Callable[[list[Event]], None]) -> None:
        self._node = node
        self._parameters = dict(parameters)
        self._qualities = _qualities(node)
        self._links: dict[str, MemberLink] = {}
        self._thread = threading.get_ident()
        self._is_stopped = False
        self._has_ended = threading.Event()
        self._group = MutuallyExclusiveCallbackGroup()
        self._dispatcher = Dispatcher(self._policy(), self, on_events, time.monotonic, admission=self._admission())
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            node.create_timer(LOOK_PERIOD_S, self._look, self._group, clock),
            node.create_timer(FIND_PERIOD_S, self._find, self._group, clock),
        ]
        self._find()

    # ---- as a host

    @property
    def state(self) -> EngineState:
        if self._is_stopped:
            return EngineState.STOPPED
        return EngineState.READY if any(member.state in TAKING for member in self.members) else EngineState.STARTING

    @property
    def restarts(self) -> int:
        return 0

    @property
    def failure(self) -> str:
        if self.state is EngineState.READY:
            return ""
        states = ", ".join(f"{member.name} is {member.state}" for member in self.members)
        return f"no member can be used: {states or 'none was found'}"

    @property
    def members(self) -> list[MemberState]:
        now = time.monotonic()
        return [member.state(now) for member in self._dispatcher.members.values()]

    def start(self) -> Ready:
        return NOBODY

    def submit(self, request: GoalRequest) -> None:
        self._dispatcher.submit(request)

    def cancel(self, goal_id: str, error: GoalError | None = None) -> None:
        self._dispatcher.cancel(goal_id, error or GoalError(ErrorCode.CANCELED, "the goal was canceled"))

    def check(self, check_id: str, request: GoalRequest, prompt_tokens: int = 0) -> None:
        self._dispatcher.check(check_id, request, prompt_tokens)

    def set_parameters(self, values: Mapping[str, Value]) -> None:
        self._parameters.update(values)
        if "scheduler.policy" in values:
            self._dispatcher.policy = self._policy()
        self._dispatcher.admission = self._admission()

    def stop(self) -> None:
        self._is_stopped = True
        if threading.get_ident() == self._thread:  # nobody spins meanwhile
            self._end()
        else:
            self._has_ended.wait(STOP_S)

    def _end(self) -> None:
        """End what is in hand, and leave the members."""
        self._dispatcher.cancel_all(
            GoalError(ErrorCode.SHUTTING_DOWN, "the dispatcher is shutting down; send the goal again when it is back")
        )
        for timer in self._timers:
            self._node.destroy_timer(timer)
        for link in self._links.values():
            link.destroy()
        self._has_ended.set()

    # ---- as the dispatcher's link

    def send(self, attempt: Attempt) -> str:
        return self._links[attempt.member.name].send(attempt)

    def withdraw(self, attempt: Attempt) -> None:
        self._links[attempt.member.name].cancel(attempt)

    # ---- time

    def _look(self) -> None:
        if not self._is_stopped:
            self._dispatcher.look()
        elif not self._has_ended.is_set():
            self._end()

    def _find(self) -> None:
        """Take in the members that are named, or those that are there."""
        if self._is_stopped:
            return
        named = [name.strip() for name in str(self._parameters["dispatch.members"]).split(",") if name.strip()]
        for name in named or self._found():
            full = name if name.startswith("/") else f"/{name}"
            if full not in self._links:
                self._dispatcher.join(full, self._qualities.get(full[1:], 0.0))
                self._links[full] = MemberLink(self._node, full, self._dispatcher, self._group)

    def _found(self) -> list[str]:
        own = self._node.get_fully_qualified_name()
        topics = self._node.get_topic_names_and_types()
        found = [topic[: -len(STATUS)] for topic, types in topics if topic.endswith(STATUS) and TYPE in types]
        return sorted(name for name in found if name != own)

    def _policy(self) -> Any:
        return DISPATCH_POLICIES[str(self._parameters["scheduler.policy"])]()

    def _admission(self) -> Admission:
        return Admission(self._parameters["scheduler.admission"])


def _qualities(node: Node) -> dict[str, float]:
    """The rank of each member's model, by its name without the first slash."""
    qualities = {}
    for name, parameter in node.get_parameters_by_prefix(MEMBERS.rstrip(".")).items():
        member, _, field = name.rpartition(".")
        if field != QUALITY or type(parameter.value) not in (int, float):
            raise ParameterError(f"parameter {MEMBERS}{name} is {parameter.value!r}; there are {MEMBERS}NAME.{QUALITY}, which are numbers")
        qualities[member] = float(parameter.value)
    return qualities
