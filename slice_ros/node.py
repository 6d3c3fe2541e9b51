"""The action server node ``slice_server``: goals in, feedback and results out, status and parameters beside them."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from slice_ros import qos
from slice_ros.conversions import class_msg, fill_result, fill_status, report_msg, request_of, slo_of
from slice_ros.engines.base import EngineError
from slice_ros.events import Event, Finished, Progress, Snapshot
from slice_ros.goal import ErrorCode, GoalError
from slice_ros.host import EngineHost, EngineState
from slice_ros.interfaces import (
    CheckSlo,
    FloatingPointRange,
    Generate,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
    SloStatus,
)
from slice_ros.monitor.statistics import Statistics
from slice_ros.parameters import PARAMETERS, Parameter, ParameterError, Value, check_all
from slice_ros.ros import (
    LAYER,
    ActionServer,
    CancelResponse,
    ExternalShutdownException,
    Future,
    GoalResponse,
    Node,
    ParameterException,
    SignalHandlerOptions,
    SingleThreadedExecutor,
    describe_network,
    rclpy,
)
from slice_ros.task import SloReport

DISCOVERY_S = 1.0
"""How long to look for a server of the same name before serving."""

DRAIN_S = 1.0
"""How long the goals in flight may take to get their results when the server stops, ..."""

LEAVE_S = 0.1
"""... and how long the last of these may take to leave."""


class ServerError(Exception):
    """The server cannot start; the sentence says why."""


@dataclass(slots=True)
class _Goal:
    """A goal in flight, on the node's side."""

    handle: Any
    end: Any
    pieces: list[str] = field(default_factory=list)


class SliceServer(Node):
    """Serves ``~/generate`` (action), ``~/check_slo`` (service) and ``~/slo_status`` (topic).

    Goals are kept apart from threads: each is one coroutine that waits for its end, and one list of text pieces.

    Raises:
        ServerError: a parameter is wrong, the engine cannot start, or a server of this name is there already.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("slice_server", **node_arguments)
        began = time.monotonic()
        self._parameters_now = self._declare_parameters()
        self._goals: dict[str, _Goal] = {}
        self._statistics = Statistics()
        self._snapshot: Snapshot | None = None
        self._events: deque[Event] = deque()
        self._accepting = True
        self._executing = 0
        self._wake = self.create_guard_condition(self._handle_events)
        self._host = EngineHost(self._parameters_now, self._receive, restart=bool(self._parameters_now["engine.restart"]))
        try:
            self._ready = self._host.start()
            self._refuse_a_second_server(began)
        except (EngineError, ServerError) as error:
            self._host.stop()
            raise ServerError(str(error)) from error
        self._status_publisher = self.create_publisher(SloStatus, "~/slo_status", 10)
        self._status_timer = self.create_timer(1.0 / float(self._parameters_now["status.rate_hz"]), self._publish_status)
        self._check_service = self.create_service(CheckSlo, "~/check_slo", self._check_slo)
        self._action_server = ActionServer(
            self,
            Generate,
            "~/generate",
            execute_callback=self._execute,
            goal_callback=self._accept,
            cancel_callback=self._cancel,
            **qos.SERVER,
        )
        info = self._ready.info
        self.get_logger().info(
            f"serving {info.model} on {info.device} with policy {self._parameters_now['scheduler.policy']}: "
            f"{info.context_tokens} KV cells, {info.max_sequences} sequences; ROS layer {LAYER}, {describe_network()}"
        )

    # ---- goals

    def _accept(self, _goal: Any) -> Any:
        return GoalResponse.ACCEPT if self._accepting else GoalResponse.REJECT

    async def _execute(self, handle: Any) -> Any:
        self._executing += 1
        try:
            return await self._serve(handle)
        finally:
            self._executing -= 1

    async def _serve(self, handle: Any) -> Any:
        goal_id = bytes(handle.goal_id.uuid).hex()
        result = Generate.Result()
        try:
            request = request_of(
                goal_id,
                handle.request,
                submitted_s=time.monotonic(),
                default_max_tokens=int(self._parameters_now["generation.max_tokens"]),
            )
        except GoalError as error:
            handle.abort()
            return fill_result(result, "", None, error.code, error.message, SloReport())
        goal = self._goals[goal_id] = _Goal(handle, Future(executor=self.executor))
        self._statistics.submitted(goal_id, request.kind, request.slo.service_class)
        self._host.submit(request)
        end: Finished = await goal.end
        if end.error_code is ErrorCode.NONE:
            handle.succeed()
        elif end.error_code is ErrorCode.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return fill_result(result, "".join(goal.pieces), end.reason, end.error_code, end.error_msg, end.report)

    def _cancel(self, handle: Any) -> Any:
        self._host.cancel(bytes(handle.goal_id.uuid).hex())
        return CancelResponse.ACCEPT

    # ---- events of the engine

    def _receive(self, events: list[Event]) -> None:
        """Runs on the host's thread; the executor takes it from here."""
        self._events.extend(events)
        self._wake.trigger()

    def _handle_events(self) -> None:
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Progress):
                self._progress(event)
            elif isinstance(event, Finished):
                self._finished(event)
            elif isinstance(event, Snapshot):
                self._snapshot = event

    def _progress(self, event: Progress) -> None:
        goal = self._goals.get(event.goal_id)
        if goal is None:
            return
        self._statistics.started(event.goal_id)
        goal.pieces.append(event.text)
        goal.handle.publish_feedback(Generate.Feedback(text=event.text, tokens=event.report.output_tokens, report=report_msg(event.report)))

    def _finished(self, event: Finished) -> None:
        goal = self._goals.pop(event.goal_id, None)
        if goal is None:
            return
        self._statistics.ended(event.goal_id, event.report, completed=event.error_code is ErrorCode.NONE)
        if event.error_code is not ErrorCode.NONE:
            self.get_logger().debug(f"goal {event.goal_id} ended with {event.error_code.name}: {event.error_msg}")
        goal.end.set_result(event)

    # ---- status

    def _publish_status(self) -> None:
        self._status_publisher.publish(self.status())

    def status(self) -> Any:
        """The ``SloStatus`` message of this moment."""
        status = SloStatus()
        status.stamp = self.get_clock().now().to_msg()
        status.policy = str(self._parameters_now["scheduler.policy"])
        status.model = self._ready.info.model
        status.device = self._ready.info.device
        status.engine_state = self._host.state.value
        status.engine_restarts = self._host.restarts
        status.step_ms = status.step_predicted_ms = math.nan
        if self._snapshot is not None and self._host.state is EngineState.READY:
            fill_status(status, self._snapshot)
        status.classes = [class_msg(figures) for figures in self._statistics.classes]
        return status

    def _check_slo(self, request: Any, response: Any) -> Any:
        """Answers from the latency model alone: as if the goal were the only one."""
        try:
            slo = slo_of(request.slo)
        except GoalError as error:
            response.error_code, response.error_msg = int(error.code), error.message
            return response
        latency = self._ready.latency
        tokens = request.max_tokens or int(self._parameters_now["generation.max_tokens"])
        ttft = latency.step_s(1) + latency.prompt_s(request.prompt_tokens or len(request.prompt.encode()) // 4)
        tpot = latency.step_s(1)
        e2e = ttft + tpot * (tokens - 1)
        bounds = ((slo.ttft_s, ttft), (slo.tpot_s, tpot), (slo.deadline_s, e2e))
        response.feasible = response.safe = all(bound is None or predicted <= bound for bound, predicted in bounds)
        response.ttft_ms, response.tpot_ms, response.e2e_ms = ttft * 1e3, tpot * 1e3, e2e * 1e3
        response.fits_in_ms = 0.0 if response.feasible else math.nan
        return response

    # ---- parameters

    def _declare_parameters(self) -> dict[str, Value]:
        given = {}
        try:
            for parameter in PARAMETERS.values():
                given[parameter.name] = self.declare_parameter(parameter.name, parameter.default, _descriptor(parameter)).value
            checked = check_all(given)
        except (ParameterError, ParameterException) as error:
            raise ServerError(str(error)) from error
        self.add_on_set_parameters_callback(self._set_parameters)
        return checked

    def _set_parameters(self, changes: list[Any]) -> Any:
        try:
            checked = {change.name: PARAMETERS[change.name].check(change.value) for change in changes if change.name in PARAMETERS}
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._parameters_now.update(checked)
        if "scheduler.policy" in checked:
            self._host.set_policy(str(checked["scheduler.policy"]))
        return SetParametersResult(successful=True)

    # ---- start and end

    def _refuse_a_second_server(self, began: float) -> None:
        time.sleep(max(0.0, began + DISCOVERY_S - time.monotonic()))
        if self.count_publishers("~/slo_status") > 0:
            raise ServerError(
                f"a server named {self.get_fully_qualified_name()} is running already; "
                "stop it, or give this one another name (-r __node:=NAME)"
            )

    def close(self, executor: Any) -> None:
        """End every goal with SHUTTING_DOWN, see their results out, and stop the engine."""
        self._accepting = False
        self._host.stop()
        deadline = time.monotonic() + DRAIN_S
        while self._executing and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
        # The results are set; their replies leave with the executor's next turns.
        deadline = min(deadline, time.monotonic() + LEAVE_S)
        while time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.02)


def _descriptor(parameter: Parameter) -> Any:
    # Dynamic typing leaves the check to Parameter.check, which says in a sentence what would be right.
    descriptor = ParameterDescriptor(
        name=parameter.name, description=parameter.description, read_only=not parameter.live, dynamic_typing=True
    )
    if parameter.choices:
        descriptor.additional_constraints = f"one of: {', '.join(parameter.choices)}"
    if parameter.minimum is not None and parameter.maximum is not None:
        low, high = parameter.minimum, parameter.maximum
        if isinstance(parameter.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    return descriptor


def main(args: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM.

    Returns:
        Exit status: 0 after a signal, 1 when the server could not start.
    """
    # rclpy's own handlers would take the context away before the goals in flight have got their results.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        if not stopped and server is None:
            raise KeyboardInterrupt  # nothing is served yet
        stopped = True

    server: SliceServer | None = None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    executor = SingleThreadedExecutor()
    try:
        server = SliceServer()
        executor.add_node(server)
        while rclpy.ok() and not stopped:
            executor.spin_once(timeout_sec=0.2)
    except ServerError as error:
        print(f"slice_server cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if server is not None:
            server.close(executor)
            server.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
