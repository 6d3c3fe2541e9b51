"""The action server node ``slice_server``: a managed node; goals in, feedback and results out, status and parameters beside them."""

from __future__ import annotations

import math
import secrets
import signal
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from slice_ros.goal import ErrorCode, GoalError, GoalRequest, TokenLogprob
from slice_ros.metrics.health import diagnose_engine, diagnose_slo
from slice_ros.metrics.last_minute import LastMinute
from slice_ros.metrics.statistics import Statistics
from slice_ros.parameters.table import ParameterError, Value
from slice_ros.process.host import EngineHost, EngineState
from slice_ros.process.protocol import Ready
from slice_ros.ros import qos
from slice_ros.ros.conversions import (
    class_msg,
    diagnostic_msg,
    fill_check,
    fill_result,
    fill_status,
    report_msg,
    request_of,
    slo_msg,
    slo_of,
    uuid_msg,
)
from slice_ros.ros.distributions import RCLError, describe_network, mind_the_dead, refusal
from slice_ros.ros.interfaces import CheckSlo, Generate, GoalEvent, SloStatus
from slice_ros.scheduling.engine import EngineError
from slice_ros.scheduling.events import Checked, Event, Finished, Progress, Snapshot
from slice_ros.scheduling.scheduler import failed, no_token_yet
from slice_ros.scheduling.task import SloReport
from slice_ros.server.action import GoalServer, begin
from slice_ros.server.bond import Heartbeat
from slice_ros.server.intake import LONGEST_NAME, Labels, Places, check_presence, check_size
from slice_ros.server.lifecycle import ManagedNode, TransitionError
from slice_ros.server.parameters import ServerParameters
from slice_ros.server.senders import Senders

DISCOVERY_S = 1.0
"""How long to look for a server of the same name before serving."""

DRAIN_S = 1.0
"""How long the goals in flight may take to get their results when the server stops, ..."""

LEAVE_S = 0.1
"""... and how long the last of these may take to leave."""

DIAGNOSTICS_PERIOD_S = 1.0
SENDERS_PERIOD_S = 0.5
STEADY = Clock(clock_type=ClockType.STEADY_TIME)

EVENTS_AT_ONCE = 32
"""The engine's events that are handled before a status, a goal or a cancel has its turn: two full steps, some milliseconds."""

CANCEL_PERIOD_S = 0.005
"""Time between looks whether a cancel that was accepted counts by now."""
RESULT_KEPT_S = 10
"""How long a result is kept for a client that has not asked yet; older rclpys' 900 s would be memory that grows for as long."""


class ServerError(TransitionError):
    """The server cannot start; the sentence says why."""


@dataclass(slots=True)
class _Goal:
    """A goal in flight, on the node's side."""

    handle: Any
    request: GoalRequest
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    report: SloReport = field(init=False)

    def __post_init__(self) -> None:
        self.report = no_token_yet(self.request)


class SliceServer(ManagedNode):
    """Serves ``~/generate`` (action) and ``~/check_slo`` (service); tells ``~/slo_status``, ``~/goal_events`` and ``/diagnostics``.

    Configuring starts the engine, activating lets goals in, deactivating lets them end, cleaning up frees the engine's memory.
    A transition that fails leads through error processing, which stops the engine, back to unconfigured.

    Goals and transitions are coroutines of one executor, and nothing in them blocks it: a cancel is heard while the server drains.

    Raises:
        ServerError: a parameter is wrong.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(
            "slice_server", automatically_declare_parameters_from_overrides=True, allow_undeclared_parameters=True, **node_arguments
        )
        self._born_s = time.monotonic()
        self._instance = secrets.randbits(64)
        self._host: EngineHost | None = None
        self._ready: Ready | None = None
        self._active = False
        self._goals: dict[str, _Goal] = {}
        self._checks: dict[str, Any] = {}
        self._queue = Places("queued", "scheduler.max_queued")
        self._in_hand = Places("in hand", "scheduler.max_in_hand")
        self._labels = Labels()
        self._statistics = Statistics()
        self._last_minute = LastMinute()
        self._snapshot: Snapshot | None = None
        self._events: deque[Event] = deque()
        self._heartbeat: Heartbeat | None = None
        self._status_publisher: Any = None
        self._is_idle: Future | None = None
        self._is_closing = False
        try:
            self._parameters_now = ServerParameters(self, lambda: self._host is not None, self._change_live)
        except ParameterError as error:
            raise ServerError(str(error)) from error
        self._is_woken = False
        self._senders: Senders | None = None
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._diagnostics_timer = self._every(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)

    async def start(self) -> None:
        """Configure and activate.

        Raises:
            ServerError: one of them failed.
        """
        for transition in ("configure", "activate"):
            if not await self.change_state(transition):
                raise ServerError(self.failure)

    # ---- transitions

    async def on_configure(self) -> None:
        self._host = EngineHost(self._parameters_now.values, self._receive, restart=bool(self._parameters_now["engine.restart"]))
        try:
            self._ready = await self._in_thread(self._host.start)
        except EngineError as error:
            raise ServerError(str(error)) from error
        if self._status_publisher is None:
            await self._refuse_a_second_server()
            self._offer()
        info = self._ready.info
        self.get_logger().info(
            f"configured: {info.model} on {info.device} with policy {self._parameters_now['scheduler.policy']}, "
            f"{info.context_tokens} KV cells, {info.max_sequences} sequences; {describe_network()}"
        )

    async def on_activate(self) -> None:
        self._check_engine()
        self._active = True
        self._heartbeat = Heartbeat(self, float(self._parameters_now["lifecycle.bond_period_s"]))
        self.get_logger().info("active: goals are accepted")

    async def on_deactivate(self) -> None:
        self._close_for_goals()
        self._check_engine()
        await self._idle(float(self._parameters_now["lifecycle.drain_s"]))
        error = GoalError(ErrorCode.SHUTTING_DOWN, "the server was deactivated; send the goal again when it is back")
        for goal_id in self._goals:
            if self._host is not None:
                self._host.cancel(goal_id, error)
        await self._idle(DRAIN_S)
        self.get_logger().info("inactive: goals are rejected")

    async def on_cleanup(self) -> None:
        await self._stop_engine()
        self.get_logger().info("unconfigured: the engine's memory is free")

    async def on_shutdown(self) -> None:
        self._close_for_goals()
        await self._stop_engine()

    async def on_error(self) -> None:
        self._close_for_goals()
        await self._stop_engine()

    def _check_engine(self) -> None:
        """Raises:
        ServerError: the engine died for good.
        """
        if self._host is None or self._engine_state is EngineState.FAILED:
            raise ServerError((self._host.failure if self._host is not None else "") or "the engine process is gone")

    def _offer(self) -> None:
        """What others can reach; it stays for the node's life, so that nobody's request is lost between two configurations."""
        self._status_publisher = self.create_publisher(SloStatus, "~/slo_status", qos.ALIVE)
        self._status_timer = self._every(1.0 / float(self._parameters_now["status.rate_hz"]), self._publish_status)
        self._senders = Senders(self)
        self._senders_timer = self._every(SENDERS_PERIOD_S, self._end_orphans)
        self._goal_events = self.create_publisher(GoalEvent, "~/goal_events", qos.GOAL_EVENTS)
        # A group of its own: a check that waits for the engine must not keep the engine's events from being handled.
        self._check_service = self.create_service(CheckSlo, "~/check_slo", self._check_slo, callback_group=ReentrantCallbackGroup())
        self._action_server = GoalServer(
            self,
            Generate,
            "~/generate",
            execute_callback=lambda _: Generate.Result(),
            goal_callback=self._accept,
            handle_accepted_callback=self._begin,
            cancel_callback=self._cancel,
            result_timeout=RESULT_KEPT_S,
            **qos.SERVER,
        )

    async def _refuse_a_second_server(self) -> None:
        await self._sleep(self._born_s + DISCOVERY_S - time.monotonic())
        if self.count_publishers("~/slo_status") > 0:
            raise ServerError(
                f"a server named {self.get_fully_qualified_name()} is running already; "
                "stop it, or give this one another name (-r __node:=NAME)"
            )

    def _close_for_goals(self) -> None:
        self._active = False
        if self._heartbeat is not None:
            self._heartbeat.end()
            self._heartbeat = None

    async def _stop_engine(self) -> None:
        if self._host is not None:
            await self._in_thread(self._host.stop)
            while self._events:
                self._handle_events()
        self._host = self._ready = self._snapshot = None

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        """What a function that blocks returns or raises; the executor goes on meanwhile."""
        done = Future(executor=self.executor)

        def call() -> None:
            try:
                end = partial(done.set_result, function())
            except Exception as error:
                end = partial(done.set_exception, error)
            if not self._is_closing:  # nobody is to go on with what the end of the server has cut short
                self._soon(end)

        threading.Thread(target=call, name="transition", daemon=True).start()
        return await done

    async def _idle(self, timeout_s: float) -> None:
        """Until no goal is in flight, but not for longer than that."""
        if self._goals:
            self._is_idle = Future(executor=self.executor)
            await self._sleep(timeout_s, self._is_idle)

    async def _sleep(self, timeout_s: float, until: Future | None = None) -> None:
        """Until a future is done, but not for longer than that."""
        over = until or Future(executor=self.executor)

        def end() -> None:
            if not over.done():
                over.set_result(None)

        timer = self._every(max(0.0, timeout_s), end)
        await over
        self.destroy_timer(timer)

    def _every(self, period_s: float, callback: Callable[[], None]) -> Any:
        """A timer in real time, whatever the node's clock does."""
        return self.create_timer(period_s, callback, clock=STEADY)

    def _soon(self, callback: Callable[[], Any]) -> None:
        """Have the executor call this; from any thread."""
        if self.executor is not None:
            self.executor.create_task(callback)

    @property
    def _engine_state(self) -> EngineState:
        return EngineState.STOPPED if self._host is None else self._host.state

    # ---- goals

    def _accept(self, _goal: Any) -> Any:
        return GoalResponse.ACCEPT if self._active else GoalResponse.REJECT

    def _begin(self, handle: Any) -> None:
        """Take in a goal that was accepted; whatever happens here, it gets an end."""
        goal_id = bytes(handle.goal_id.uuid).hex()
        try:
            self._submit(goal_id, handle)
        except GoalError as error:
            label, slo = handle.request.label[:LONGEST_NAME], copy(handle.request.slo)  # they may be why it is refused
            slo.preset = slo.preset[:LONGEST_NAME]
            self._tell(GoalEvent.FINISHED, goal_id, label, slo, SloReport(), error=error)
            self._conclude(handle, Finished(goal_id, None, error.code, error.message, SloReport()))
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            message = f"the server raised {error!r}, which is an error in the server itself"
            end = Finished(goal_id, None, ErrorCode.INTERNAL, message, SloReport())
            if self._host is not None:
                self._host.cancel(goal_id)
            with suppress(Exception):  # the same error, most likely
                self._finished(end)
            self._conclude(handle, end)

    def _submit(self, goal_id: str, handle: Any) -> None:
        """Hand a goal to the engine.

        Raises:
            GoalError: it is refused, before it counts.
        """
        limits = self._parameters_now.values
        if self._host is None or not self._active:
            raise GoalError(ErrorCode.SHUTTING_DOWN, "the server was deactivated; send the goal again when it is back")
        request = request_of(
            goal_id,
            handle.request,
            submitted_s=time.monotonic(),
            default_max_tokens=int(limits["generation.max_tokens"]),
            presets=self._parameters_now.presets,
        )
        check_size(request, limits)
        check_presence(handle.request.presence)
        request = self._labels.known(request)
        # From here on it counts, whatever becomes of it: a server that refuses goals for want of room does not keep their SLOs.
        goal = self._goals[goal_id] = _Goal(handle, request)
        if handle.request.presence and self._senders is not None:
            self._senders.join(handle.request.presence, goal_id)
        self._statistics.submitted(goal_id, request.kind, request.slo.service_class)
        self._tell_of(GoalEvent.ACCEPTED, goal, SloReport())
        try:
            self._in_hand.join(request, limits)
            self._queue.join(request, limits)
            self._host.submit(request)
        except GoalError as error:
            self._finished(failed(request, error))

    def _conclude(self, handle: Any, end: Finished, text: str = "", logprobs: Sequence[TokenLogprob] = ()) -> None:
        """Give a goal its result."""
        result = fill_result(Generate.Result(), text, end.reason, end.error_code, end.error_msg, end.report, logprobs)
        if end.error_code is ErrorCode.NONE:
            self._action_server.end(handle, "succeed", result)
        elif end.error_code is ErrorCode.CANCELED and handle.is_cancel_requested:
            self._action_server.end(handle, "canceled", result)
        else:
            self._action_server.end(handle, "abort", result)

    def _end_orphans(self) -> None:
        """End the goals of clients that are gone."""
        orphans = self._senders.orphans() if self._senders is not None else []
        for goal_id in orphans:
            if self._host is not None:
                self._host.cancel(goal_id, GoalError(ErrorCode.CANCELED, "the process that sent the goal is gone"))

    def _cancel(self, handle: Any) -> Any:
        goal_id = bytes(handle.goal_id.uuid).hex()
        if self._host is not None:
            self._host.cancel(goal_id)
        if goal_id in self._goals:
            self._soon(partial(self._end_canceled, goal_id))
        return CancelResponse.ACCEPT

    async def _end_canceled(self, goal_id: str) -> None:
        """End a goal as soon as its cancel counts; the engine hears of it when its step is over, which may be a long one."""
        while (goal := self._goals.get(goal_id)) and not goal.handle.is_cancel_requested:
            await self._sleep(CANCEL_PERIOD_S)
        if goal is not None:
            self._finished(Finished(goal_id, None, ErrorCode.CANCELED, "the goal was canceled", goal.report))

    # ---- events of the engine

    def _receive(self, events: list[Event]) -> None:
        """Runs on the host's thread; the executor takes it from here."""
        self._events.extend(events)
        self._wake()

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._soon(self._handle_events)

    def _handle_events(self) -> None:
        """Take in some of what the engine has said; the rest comes after whatever else is due."""
        self._is_woken = False
        for _ in range(min(len(self._events), EVENTS_AT_ONCE)):
            event = self._events.popleft()
            if isinstance(event, Progress):
                self._progress(event)
            elif isinstance(event, Finished):
                self._finished(event)
            elif isinstance(event, Snapshot):
                self._take_snapshot(event)
            elif event.check_id in self._checks:
                self._checks[event.check_id].set_result(event)
        if self._events:
            self._wake()

    def _progress(self, event: Progress) -> None:
        goal = self._goals.get(event.goal_id)
        if goal is None:
            return
        self._statistics.started(event.goal_id)
        if not goal.pieces:
            self._queue.leave(event.goal_id)
            begin(goal.handle)
            self._tell_of(GoalEvent.FIRST_TOKEN, goal, event.report)
        goal.pieces.append(event.text)
        goal.report = event.report
        if event.logprob is not None:
            goal.logprobs.append(event.logprob)
        if not goal.handle.request.silent:
            report = report_msg(event.report)
            goal.handle.publish_feedback(Generate.Feedback(text=event.text, tokens=event.report.output_tokens, report=report))

    def _finished(self, event: Finished) -> None:
        goal = self._goals.pop(event.goal_id, None)
        if goal is None:
            return
        self._queue.leave(event.goal_id)
        self._in_hand.leave(event.goal_id)
        if self._senders is not None:
            self._senders.leave(goal.handle.request.presence, event.goal_id)
        self._statistics.ended(event.goal_id, event.report, completed=event.error_code is ErrorCode.NONE)
        self._last_minute.ended(time.monotonic(), real_time=goal.request.slo.is_real_time, attained=event.report.attained)
        if event.error_code is not ErrorCode.NONE:
            self.get_logger().debug(f"goal {event.goal_id} ended with {event.error_code.name}: {event.error_msg}")
        self._tell_of(GoalEvent.FINISHED, goal, event.report, event)
        self._conclude(goal.handle, event, "".join(goal.pieces), goal.logprobs)
        if not self._goals and self._is_idle is not None and not self._is_idle.done():
            self._is_idle.set_result(None)

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        steps = snapshot.steps - (self._snapshot.steps if self._snapshot is not None else 0)
        self._last_minute.stepped(time.monotonic(), steps, snapshot.step_s, snapshot.step_calibrated_s)
        self._snapshot = snapshot

    # ---- what it tells

    def _tell_of(self, kind: int, goal: _Goal, report: SloReport, end: Finished | None = None) -> None:
        error = GoalError(end.error_code, end.error_msg) if end is not None else None
        reason = end.reason.value if end is not None and end.reason is not None else ""
        slo = slo_msg(goal.request.slo, goal.handle.request.slo.preset)
        self._tell(kind, goal.request.goal_id, goal.request.kind, slo, report, error=error, reason=reason)

    def _tell(
        self, kind: int, goal_id: str, label: str, slo: Any, report: SloReport, *, error: GoalError | None = None, reason: str = ""
    ) -> None:
        event = GoalEvent(event=kind, goal_id=uuid_msg(goal_id), label=label, slo=slo, report=report_msg(report), finish_reason=reason)
        event.stamp = self.get_clock().now().to_msg()
        event.policy = str(self._parameters_now["scheduler.policy"])
        if error is not None:
            event.error_code, event.error_msg = int(error.code), error.message
        self._goal_events.publish(event)

    def _publish_status(self) -> None:
        self._status_publisher.publish(self.status())
        if self._active and self._engine_state is EngineState.FAILED:
            self._close_for_goals()
            self._soon(partial(self.change_state, "deactivate"))

    def status(self) -> Any:
        """The ``SloStatus`` message of this moment."""
        status = SloStatus()
        status.stamp = self.get_clock().now().to_msg()
        status.instance = self._instance
        status.policy = str(self._parameters_now["scheduler.policy"])
        status.engine_state = self._engine_state.value
        status.step_ms = status.step_predicted_ms = math.nan
        if self._host is not None and self._ready is not None:
            status.model = self._ready.info.model
            status.device = self._ready.info.device
            status.engine_restarts = self._host.restarts
        if self._snapshot is not None and self._engine_state is EngineState.READY:
            fill_status(status, self._snapshot)
        minute = self._last_minute
        minute.look(time.monotonic())
        status.step_ratio = minute.step_ratio
        status.attainment_rt, status.attainment_be = minute.attainment(real_time=True), minute.attainment(real_time=False)
        status.missed_rt, status.missed_be = minute.missed(real_time=True), minute.missed(real_time=False)
        status.classes = [class_msg(figures) for figures in self._statistics.classes]
        return status

    def _publish_diagnostics(self) -> None:
        status, parameters = self.status(), self._parameters_now
        failure = self.failure or (self._host.failure if self._host is not None else "")
        found = (
            diagnose_engine(status, failure, step_ratio_warn=float(parameters["diagnostics.step_ratio_warn"])),
            diagnose_slo(status, attainment_warn=float(parameters["diagnostics.attainment_warn"])),
        )
        message = DiagnosticArray(
            status=[diagnostic_msg(diagnosis, self.get_fully_qualified_name()[1:], status.device) for diagnosis in found]
        )
        message.header.stamp = status.stamp
        self._diagnostics_publisher.publish(message)

    async def _check_slo(self, request: Any, response: Any) -> Any:
        check_id = uuid.uuid4().hex
        tokens = request.max_tokens or int(self._parameters_now["generation.max_tokens"])
        try:
            if self._host is None or self._ready is None:
                raise GoalError(ErrorCode.SHUTTING_DOWN, "the server is not configured; ask again when it is")
            slo = slo_of(request.slo, self._parameters_now.presets, request.label)
            prompt = request.prompt or ("-" if request.prompt_tokens else "")
            goal = GoalRequest(check_id, slo, tokens, prompt=prompt, submitted_s=time.monotonic(), label=request.label)
            check_size(goal, self._parameters_now.values)
            answer = self._checks[check_id] = Future(executor=self.executor)
            self._host.check(check_id, goal, request.prompt_tokens)
            checked: Checked = await answer
            return fill_check(response, checked)
        except GoalError as error:
            response.error_code, response.error_msg = int(error.code), error.message
            return response
        finally:
            self._checks.pop(check_id, None)

    # ---- parameters and end

    def _change_live(self, values: dict[str, Value]) -> None:
        if self._host is not None and values:
            self._host.set_parameters(values)

    def close(self, executor: Any) -> None:
        """End every goal with SHUTTING_DOWN, see their results out, and stop the engine."""
        self._is_closing = True
        self._close_for_goals()
        if self._host is not None:
            self._host.stop()
        deadline = time.monotonic() + DRAIN_S
        while self._goals and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
        # The results are set; their replies leave with the executor's next turns.
        deadline = min(deadline, time.monotonic() + LEAVE_S)
        while time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.02)
        if self._senders is not None:
            self._senders.close()


def main(args: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM.

    Returns:
        Exit status: 0 after a signal, 1 when the server could not start.
    """
    stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    server: SliceServer | None = None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    mind_the_dead()
    try:
        try:
            # rclpy's own handlers would take the context away before the goals in flight have got their results.
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            executor = SingleThreadedExecutor()
            server = SliceServer()
        except RCLError as error:
            raise ServerError(refusal(error)) from error
        executor.add_node(server)
        if server.get_parameter("lifecycle.autostart").value:
            executor.create_task(server.start())
        while rclpy.ok() and not stopped:
            executor.spin_once(timeout_sec=0.2)
    except ServerError as error:
        print(f"slice_server cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except ExternalShutdownException:
        pass
    finally:
        if server is not None:
            server.close(executor)
            with suppress(RCLError):
                server.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
