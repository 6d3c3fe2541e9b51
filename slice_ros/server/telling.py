"""What the server tells: its status, each goal's events, its diagnostics."""

from __future__ import annotations

import math
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from slice_ros.dispatch.member import template_of
from slice_ros.goal import ErrorCode, GoalError, GoalRequest
from slice_ros.metrics.health import diagnose_engine, diagnose_slo
from slice_ros.metrics.last_minute import LastMinute
from slice_ros.metrics.statistics import Statistics
from slice_ros.process.host import EngineState
from slice_ros.process.protocol import Ready
from slice_ros.ros import qos
from slice_ros.ros.conversions import class_msg, diagnostic_msg, fill_status, load_msg, member_msg, report_msg, uuid_msg
from slice_ros.ros.interfaces import GoalEvent, SloStatus
from slice_ros.scheduling.events import Finished, Sent, Snapshot
from slice_ros.scheduling.task import SloReport
from slice_ros.server.host import Host
from slice_ros.server.parameters import ServerParameters


class Telling:
    """Publishes ``~/slo_status``, ``~/goal_events`` and ``/diagnostics``.

    The first two are offered when the server is configured first, and stay.
    """

    def __init__(self, node: Node, parameters: ServerParameters) -> None:
        self._node = node
        self._parameters = parameters
        self.instance = time.time_ns()
        """Another one than any server of this name had before; of two, the older one has the lesser."""
        self._statistics = Statistics()
        self._last_minute = LastMinute()
        self._snapshot: Snapshot | None = None
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._status: Any = None
        self._events: Any = None
        self.is_open = False
        """Whether goals are let in."""
        self.host: Host | None = None
        self.ready: Ready | None = None

    def offer(self) -> None:
        self._status = self._node.create_publisher(SloStatus, "~/slo_status", qos.ALIVE)
        self._events = self._node.create_publisher(GoalEvent, "~/goal_events", qos.GOAL_EVENTS)

    def engine(self, host: Host | None, ready: Ready | None = None) -> None:
        """Which engine it is told of from now on."""
        self.host, self.ready, self._snapshot = host, ready, None

    # ---- what it hears

    def submitted(self, request: GoalRequest) -> None:
        self._statistics.submitted(request.goal_id, request.kind, request.slo.service_class)

    def started(self, goal_id: str) -> None:
        self._statistics.started(goal_id)

    def ended(self, request: GoalRequest, event: Finished) -> None:
        self._statistics.ended(event.goal_id, event.report, completed=event.error_code is ErrorCode.NONE)
        self._last_minute.ended(time.monotonic(), real_time=request.slo.is_real_time, attained=event.report.attained)

    def stepped(self, snapshot: Snapshot) -> None:
        steps = snapshot.steps - (self._snapshot.steps if self._snapshot is not None else 0)
        self._last_minute.stepped(time.monotonic(), steps, snapshot.step_s, snapshot.step_calibrated_s)
        self._snapshot = snapshot

    # ---- what it tells

    def goal(
        self,
        kind: int,
        goal_id: str,
        label: str,
        slo: Any,
        report: SloReport,
        *,
        error: GoalError | None = None,
        reason: str = "",
        sent: Sent | None = None,
    ) -> None:
        """An event of a goal.

        Args:
            kind: one of ``GoalEvent``'s constants.
            slo: a ``slice_ros/Slo``.
        """
        event = GoalEvent(event=kind, goal_id=uuid_msg(goal_id), label=label, slo=slo, report=report_msg(report), finish_reason=reason)
        event.stamp = self._node.get_clock().now().to_msg()
        event.policy = str(self._parameters["scheduler.policy"])
        if sent is not None:
            event.member, event.why = sent.member, sent.why
        if error is not None:
            event.error_code, event.error_msg = int(error.code), error.message
        self._events.publish(event)

    def publish_status(self) -> None:
        self._status.publish(self.status())

    def status(self) -> Any:
        """The ``SloStatus`` message of this moment."""
        state = EngineState.STOPPED if self.host is None else self.host.state
        status = SloStatus()
        status.stamp = self._node.get_clock().now().to_msg()
        status.instance = self.instance
        status.policy = str(self._parameters["scheduler.policy"])
        status.engine_state = state.value
        status.active = self.is_open
        status.step_ms = status.step_predicted_ms = math.nan
        if self.host is not None and self.ready is not None:
            status.model = self.ready.info.model
            status.device = self.ready.info.device
            status.adapters = list(self.ready.info.adapters)
            status.engine_restarts = self.host.restarts
            members = self.host.members
            status.members = [member_msg(member) for member in members]
            status.chat_template = template_of(members) if members else self.ready.info.chat_template
        if self._snapshot is not None and state is EngineState.READY and self.ready is not None:
            fill_status(status, self._snapshot)
            status.load = load_msg(self._snapshot, self.ready.info.goal_tokens)
        elif status.members:
            classes = self._statistics.classes
            status.queued, status.running = sum(c.queued for c in classes), sum(c.running for c in classes)
        minute = self._last_minute
        minute.look(time.monotonic())
        status.step_ratio = minute.step_ratio
        status.attainment_rt, status.attainment_be = minute.attainment(real_time=True), minute.attainment(real_time=False)
        status.missed_rt, status.missed_be = minute.missed(real_time=True), minute.missed(real_time=False)
        status.classes = [class_msg(figures) for figures in self._statistics.classes]
        return status

    def publish_diagnostics(self, failure: str) -> None:
        """Args:
        failure: why the node could not go through its latest transition; empty where it could.
        """
        status, parameters = self.status(), self._parameters
        failure = failure or (self.host.failure if self.host is not None else "")
        found = (
            diagnose_engine(status, failure, step_ratio_warn=float(parameters["diagnostics.step_ratio_warn"])),
            diagnose_slo(status, attainment_warn=float(parameters["diagnostics.attainment_warn"])),
        )
        name = self._node.get_fully_qualified_name()[1:]
        message = DiagnosticArray(status=[diagnostic_msg(diagnosis, name, status.device) for diagnosis in found])
        message.header.stamp = status.stamp
        self._diagnostics.publish(message)
