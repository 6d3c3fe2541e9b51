"""The goals in hand, on the node's side of the engine: taken in, told of as they go on, and ended once each."""

from __future__ import annotations

import time
import traceback
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from rclpy.action import CancelResponse, GoalResponse
from rclpy.node import Node

from slice_ros.goal import ErrorCode, GoalError, GoalRequest, TokenLogprob, ToolCall, joined
from slice_ros.ros import qos
from slice_ros.ros.conversions import fill_result, report_msg, request_of, slo_msg, tool_calls_msg, uuid_hex
from slice_ros.ros.interfaces import Generate, GoalEvent
from slice_ros.scheduling.events import Finished, Progress, Sent
from slice_ros.scheduling.scheduler import failed, no_token_yet
from slice_ros.scheduling.task import SloReport
from slice_ros.server.action import GoalServer, begin
from slice_ros.server.host import Host
from slice_ros.server.intake import LONGEST_NAME, Labels, Places, check_presence, check_size, superseded
from slice_ros.server.parameters import ServerParameters
from slice_ros.server.senders import Senders
from slice_ros.server.slo_clock import SloClock, in_clock_time, in_real_time
from slice_ros.server.telling import Telling

RESULT_KEPT_S = 60
"""How long a result is kept for a client that has not asked yet; older rclpys' 900 s would be memory that grows for as long."""


@dataclass(slots=True)
class _Goal:
    handle: Any
    request: GoalRequest
    rate: float = 1.0
    """Of the clock that its SLO counts in, when it was submitted."""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    report: SloReport = field(init=False)

    def __post_init__(self) -> None:
        self.report = no_token_yet(self.request)


class Goals:
    """Serves ``~/generate``.

    Args:
        node: whose action it is.
        parameters: limits, presets, defaults.
        telling: hears of each goal's beginning and end.
        clock: what their SLOs count in.
    """

    def __init__(self, node: Node, parameters: ServerParameters, telling: Telling, clock: SloClock) -> None:
        self._node = node
        self._parameters = parameters
        self._telling = telling
        self._clock = clock
        self._goals: dict[str, _Goal] = {}
        self._queue = Places("queued", "scheduler.max_queued")
        self._in_hand = Places("in hand", "scheduler.max_in_hand")
        self._labels = Labels()
        self.host: Host | None = None
        """The engine that goals are handed to."""
        self.is_open = False
        """Whether goals are let in."""
        self._senders = Senders(node)
        self._server = GoalServer(
            node,
            Generate,
            "~/generate",
            execute_callback=lambda _: Generate.Result(),
            goal_callback=lambda _: GoalResponse.ACCEPT if self.is_open else GoalResponse.REJECT,
            handle_accepted_callback=self._begin,
            cancel_callback=self._cancel,
            result_timeout=RESULT_KEPT_S,
            **qos.SERVER,
        )

    def __len__(self) -> int:
        return len(self._goals)

    def end_all(self, error: GoalError) -> None:
        """Have the engine end every goal with this error."""
        if self.host is not None:
            for goal_id in self._goals:
                self.host.cancel(goal_id, error)

    def end_orphans(self) -> None:
        """End the goals whose senders are gone; to be called again and again."""
        error = GoalError(ErrorCode.CANCELED, "the process that sent the goal is not there, or not any more")
        for goal_id in self._senders.orphans():
            if self.host is not None:
                self.host.cancel(goal_id, error)

    def close(self) -> None:
        self._senders.close()

    # ---- what clients want

    def _begin(self, handle: Any) -> None:
        """Take in a goal that was accepted; whatever happens here, it gets an end."""
        goal_id = uuid_hex(handle.goal_id)
        try:
            self._submit(goal_id, handle)
        except GoalError as error:
            label, slo = handle.request.label[:LONGEST_NAME], copy(handle.request.slo)  # they may be why it is refused
            slo.preset = slo.preset[:LONGEST_NAME]
            self._telling.goal(GoalEvent.FINISHED, goal_id, label, slo, SloReport(), error=error)
            self._conclude(handle, Finished(goal_id, None, error.code, error.message, SloReport()))
        except Exception as error:
            self._node.get_logger().error(traceback.format_exc())
            message = f"the server raised {error!r}, which is an error in the server itself"
            end = Finished(goal_id, None, ErrorCode.INTERNAL, message, SloReport())
            if self.host is not None:
                self.host.cancel(goal_id)
            with suppress(Exception):  # the same error, most likely
                self.finished(end)
            self._conclude(handle, end)

    def _submit(self, goal_id: str, handle: Any) -> None:
        """Hand a goal to the engine.

        Raises:
            GoalError: it is refused, before it counts.
        """
        limits = self._parameters.values
        if self.host is None or not self.is_open:
            raise GoalError(ErrorCode.SHUTTING_DOWN, "the server was deactivated; send the goal again when it is back")
        request = request_of(
            goal_id,
            handle.request,
            submitted_s=time.monotonic(),
            default_max_tokens=int(limits["generation.max_tokens"]),
            presets=self._parameters.presets,
        )
        check_size(request, limits)
        check_presence(handle.request.presence)
        request = self._labels.known(request)
        self._supersede(request)
        # From here on it counts, whatever becomes of it: a server that refuses goals for want of room does not keep their SLOs.
        goal = self._goals[goal_id] = _Goal(handle, request, self._clock.rate)
        self._telling.submitted(request)
        self._tell(GoalEvent.ACCEPTED, goal, SloReport())
        try:
            self._in_hand.join(request, limits)
            self._queue.join(request, limits)
            if handle.request.presence:
                self._senders.join(handle.request.presence, goal_id, streams=not handle.request.silent)
            self.host.submit(in_real_time(request, goal.rate))
        except GoalError as error:
            self.finished(failed(request, error))

    def _supersede(self, request: GoalRequest) -> None:
        """End what a new goal makes void, at once, so that its places are free."""
        if not request.supersede:
            return
        error = GoalError(ErrorCode.SUPERSEDED, f"goal {request.goal_id} of the same client and label {request.label!r} takes its place")
        for goal_id in superseded(request, {goal_id: goal.request for goal_id, goal in self._goals.items()}):
            if self.host is not None:
                self.host.cancel(goal_id, error)
            self.finished(Finished(goal_id, None, error.code, error.message, self._goals[goal_id].report))

    def _cancel(self, handle: Any) -> Any:
        """End a goal as soon as its cancel counts; the engine hears of it when its step is over, which may be a long one."""
        goal_id = uuid_hex(handle.goal_id)
        if self.host is not None:
            self.host.cancel(goal_id)
        if goal_id in self._goals and self._node.executor is not None:
            self._node.executor.create_task(self._canceled, goal_id)
        return CancelResponse.ACCEPT

    def _canceled(self, goal_id: str) -> None:
        goal = self._goals.get(goal_id)
        if goal is None:
            return
        if goal.handle.is_cancel_requested:
            self.finished(Finished(goal_id, None, ErrorCode.CANCELED, "the goal was canceled", goal.report))
        elif self._node.executor is not None:  # rclpy, on another thread, has yet to note that it was accepted
            self._node.executor.create_task(self._canceled, goal_id)

    # ---- what the engine says

    def progress(self, event: Progress) -> None:
        goal = self._goals.get(event.goal_id)
        if goal is None:
            return
        goal.report = in_clock_time(event.report, goal.rate)
        if not goal.pieces:
            self._telling.started(event.goal_id)
            self._queue.leave(event.goal_id)
            begin(goal.handle)
            self._tell(GoalEvent.FIRST_TOKEN, goal, goal.report)
        goal.pieces.append(event.text)
        goal.logprobs.extend(event.logprobs)
        goal.calls.extend(event.calls)
        goal.reasoning.append(event.reasoning)
        wish = goal.handle.request
        if not wish.silent:
            calls, report = tool_calls_msg(event.calls), report_msg(goal.report)
            feedback = Generate.Feedback(
                text=event.text, reasoning=event.reasoning, tool_calls=calls, tokens=goal.report.output_tokens, report=report
            )
            if wish.presence:
                self._senders.tell(wish.presence, event.goal_id, feedback)
            else:
                goal.handle.publish_feedback(feedback)

    def sent(self, event: Sent) -> None:
        """A dispatcher has sent a goal to one of its members."""
        goal = self._goals.get(event.goal_id)
        if goal is not None:
            self._tell(GoalEvent.SENT, goal, goal.report, sent=event)

    def finished(self, event: Finished) -> None:
        goal = self._goals.pop(event.goal_id, None)
        if goal is None:
            return
        if event.report is not goal.report:  # the engine's own
            event = replace(event, report=in_clock_time(event.report, goal.rate))
        self._queue.leave(event.goal_id)
        self._in_hand.leave(event.goal_id)
        self._senders.leave(goal.handle.request.presence, event.goal_id)
        self._telling.ended(goal.request, event)
        if event.error_code is not ErrorCode.NONE:
            self._node.get_logger().debug(f"goal {event.goal_id} ended with {event.error_code.name}: {event.error_msg}")
        self._tell(GoalEvent.FINISHED, goal, event.report, event)
        self._conclude(goal.handle, event, goal)

    def _conclude(self, handle: Any, end: Finished, goal: _Goal | None = None) -> None:
        """Give a goal its result; one that has it keeps it."""
        said: dict[str, Any] = {}
        if goal is not None:
            said = {"logprobs": goal.logprobs, "tool_calls": joined(goal.calls), "reasoning": "".join(goal.reasoning)}
        text = "" if goal is None else "".join(goal.pieces)
        result = fill_result(Generate.Result(), text, end.reason, end.error_code, end.error_msg, end.report, **said)
        if end.error_code is ErrorCode.NONE:
            self._server.end(handle, "succeed", result)
        elif end.error_code is ErrorCode.CANCELED and handle.is_cancel_requested:
            self._server.end(handle, "canceled", result)
        else:
            self._server.end(handle, "abort", result)

    def _tell(self, kind: int, goal: _Goal, report: SloReport, end: Finished | None = None, sent: Sent | None = None) -> None:
        error = GoalError(end.error_code, end.error_msg) if end is not None else None
        reason = end.reason.value if end is not None and end.reason is not None else ""
        slo = slo_msg(goal.request.slo, goal.handle.request.slo.preset)
        self._telling.goal(kind, goal.request.goal_id, goal.request.kind, slo, report, error=error, reason=reason, sent=sent)
