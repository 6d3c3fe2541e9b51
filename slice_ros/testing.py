"""A server that says what a test tells it to: for tests of planners, without a model and without waiting.

>>> with MockServer({"where am I?": "at the dock", "slow": Script("late", after_s=2.0)}) as server:
...     ...  # your node, with SliceClient(node)
...     assert [goal.prompt for goal in server.goals] == ["where am I?"]
"""

from __future__ import annotations

import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import rclpy
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.task import Future

from slice_ros.goal import ErrorCode, FinishReason, GoalError, ToolCall
from slice_ros.parameters.presets import DEFAULTS, presets_of
from slice_ros.ros import qos
from slice_ros.ros.conversions import fill_result, report_msg, slo_of, uuid_msg
from slice_ros.ros.distributions import RCLError
from slice_ros.ros.interfaces import Generate, GoalEvent, SloStatus
from slice_ros.ros.presence import speak
from slice_ros.scheduling.task import SloReport
from slice_ros.slo import Slo

STEADY = Clock(clock_type=ClockType.STEADY_TIME)
STATUS_PERIOD_S = 0.5


@dataclass(frozen=True, slots=True)
class Script:
    """What becomes of a goal.

    Args:
        text: the answer; words and the blanks before them come as pieces.
        after_s: time from submission to the end, s; the pieces come at even distances.
        error: end with this instead of success; ``text`` is what was generated before.
        error_msg: the sentence with it.
        tool_calls: calls of tools at the end of the answer.
        reasoning: what comes before it.
    """

    text: str = ""
    after_s: float = 0.0
    error: ErrorCode = ErrorCode.NONE
    error_msg: str = "scripted"
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""


class MockServer:
    """Context manager over a node in this process that serves ``<name>/generate``; its executor has a thread of its own.

    A goal that is not done when its deadline passes is answered all the same, with a report that says so; with ``on_miss`` ABORT it ends
    then, with SLO_MISSED. Goals can be canceled, and superseded.

    Args:
        answers: by prompt (of messages: the last one's content), or a function of the goal message; a text is a Script at once.
            A prompt that is not there gets ``default``.
        default: the answer to everything else.
        name: name of the node.
    """

    def __init__(
        self, answers: Mapping[str, str | Script] | Callable[[Any], str | Script] | None = None, *, default: str | Script = "",
        name: str = "slice_server",
    ) -> None:  # fmt: skip
        self._answers = answers or {}
        self._default = default
        self._name = name
        self._presets: Mapping[str, Slo] = presets_of(DEFAULTS)
        self._in_hand: dict[str, tuple[Any, Any]] = {}  # a goal, and a future of the error that interrupts it
        self._voices: dict[str, Any] = {}
        self._stopping = threading.Event()
        self.goals: list[Any] = []
        """The goal messages received, in order."""
        self.is_active = True
        """False rejects goals, as a server does that is not active."""

    def __enter__(self) -> MockServer:
        self._context_was_ours = not rclpy.ok()
        if self._context_was_ours:
            rclpy.init(args=[])
        self._node = rclpy.create_node(self._name)
        for name, value in DEFAULTS.items():
            self._node.declare_parameter(name, value)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._instance = secrets.randbits(64)
        self._status = self._node.create_publisher(SloStatus, "~/slo_status", qos.ALIVE)
        self._events = self._node.create_publisher(GoalEvent, "~/goal_events", qos.GOAL_EVENTS)
        self._node.create_timer(STATUS_PERIOD_S, self._publish_status, clock=STEADY)
        self._server = ActionServer(
            self._node,
            Generate,
            "~/generate",
            execute_callback=self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT if self.is_active else GoalResponse.REJECT,
            cancel_callback=self._cancel,
            **qos.SERVER,
        )
        self._thread = threading.Thread(target=self._spin, name="mock server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        self._server.destroy()
        self._node.destroy_node()
        if self._context_was_ours:
            rclpy.try_shutdown()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException, RCLError):  # whoever shut rclpy down wants no more of it
            while not self._stopping.is_set() and rclpy.ok():
                self._executor.spin_once(timeout_sec=0.02)

    def _script(self, goal: Any) -> Script:
        if callable(self._answers):
            answer = self._answers(goal)
        else:
            answer = self._answers.get(goal.prompt or (goal.messages[-1].content if goal.messages else ""), self._default)
        return answer if isinstance(answer, Script) else Script(answer)

    def _cancel(self, handle: Any) -> Any:
        self._interrupt(bytes(handle.goal_id.uuid).hex(), GoalError(ErrorCode.CANCELED, "the goal was canceled"))
        return CancelResponse.ACCEPT

    def _interrupt(self, goal_id: str, error: GoalError) -> None:
        _, interrupted = self._in_hand.get(goal_id, (None, None))
        if interrupted is not None and not interrupted.done():
            interrupted.set_result(error)

    async def _execute(self, handle: Any) -> Any:
        goal, began_s = handle.request, time.monotonic()
        self.goals.append(goal)
        goal_id = bytes(handle.goal_id.uuid).hex()
        if goal.supersede:
            void = GoalError(ErrorCode.SUPERSEDED, f"goal {goal_id} of the same client and label takes its place")
            for earlier, (other, _) in self._in_hand.items():
                if (other.client, other.label) == (goal.client, goal.label):
                    self._interrupt(earlier, void)
        interrupted = Future(executor=self._executor)
        self._in_hand[goal_id] = goal, interrupted
        self._publish_event(GoalEvent.ACCEPTED, goal_id, goal, SloReport(), ErrorCode.NONE)
        script, pieces, times_s = self._script(goal), [], []
        error = GoalError(script.error, script.error_msg if script.error is not ErrorCode.NONE else "")
        try:
            slo = slo_of(goal.slo, self._presets, goal.label)
            end_s = min(script.after_s, slo.deadline_s or math.inf) if slo.ends_on_miss else script.after_s
            words = re.findall(r"\s*\S+", script.text)
            for number, piece in enumerate(words, 1):
                due_s = script.after_s * number / len(words)
                if due_s > end_s or not await self._pause(began_s + due_s, interrupted):
                    break
                pieces.append(piece)
                times_s.append(time.monotonic() - began_s)
                report = _report(times_s, slo, completed=False)
                self._tell(handle, Generate.Feedback(text=piece, tokens=len(pieces), report=report_msg(report)))
            await self._pause(began_s + end_s, interrupted)
            if end_s < script.after_s:
                what = f"the SLO is out of reach {end_s:g} s after the goal was sent, with {len(pieces)} tokens"
                error = GoalError(ErrorCode.SLO_MISSED, what)
        except GoalError as refused:
            slo, error = Slo(), refused
        del self._in_hand[goal_id]
        if interrupted.done():
            error = interrupted.result()
        if handle.is_cancel_requested:
            handle.canceled()
        elif error.code is ErrorCode.NONE:
            handle.succeed()
        else:
            handle.abort()
        completed = error.code is ErrorCode.NONE
        calls = script.tool_calls if completed else ()
        report = _report(times_s, slo, completed=completed)
        self._publish_event(GoalEvent.FINISHED, goal_id, goal, report, error.code)
        reason = (FinishReason.TOOL_CALLS if calls else FinishReason.STOP) if completed else None
        said: dict[str, Any] = {"tool_calls": calls, "reasoning": script.reasoning}
        return fill_result(Generate.Result(), "".join(pieces), reason, error.code, error.message, report, **said)

    def _tell(self, handle: Any, feedback: Any) -> None:
        """Tell whoever sent a goal how it goes on: a client alone, as a server does, or all that listen."""
        topic = handle.request.presence
        if not topic:
            handle.publish_feedback(feedback)
        elif not handle.request.silent:
            if topic not in self._voices:
                self._voices[topic] = speak(self._node, topic)
            self._voices[topic].publish(Generate.Impl.FeedbackMessage(goal_id=handle.goal_id, feedback=feedback))

    async def _pause(self, until_s: float, interrupted: Any) -> bool:
        """Wait until a moment of the monotonic clock; false when the goal is interrupted before."""
        left_s = until_s - time.monotonic()
        if left_s > 0.0 and not interrupted.done():
            rest = Future(executor=self._executor)

            def resume(_: Any = None) -> None:
                if not rest.done():
                    rest.set_result(None)

            interrupted.add_done_callback(resume)
            timer = self._node.create_timer(left_s, resume, clock=STEADY)
            await rest
            self._node.destroy_timer(timer)
        return not interrupted.done()

    def _publish_status(self) -> None:
        status = SloStatus(
            instance=self._instance, policy="mock", model="scripted", device="mock", engine_state="ready", running=len(self._in_hand)
        )
        status.stamp = self._node.get_clock().now().to_msg()
        self._status.publish(status)

    def _publish_event(self, kind: int, goal_id: str, goal: Any, report: SloReport, code: ErrorCode) -> None:
        event = GoalEvent(event=kind, goal_id=uuid_msg(goal_id), label=goal.label, policy="mock", slo=goal.slo, report=report_msg(report))
        event.stamp = self._node.get_clock().now().to_msg()
        event.error_code = int(code)
        self._events.publish(event)


def _report(times_s: list[float], slo: Slo, *, completed: bool) -> SloReport:
    """The report of tokens that came at these times after submission."""
    ttft_s, e2e_s = (times_s[0], times_s[-1]) if times_s else (math.nan, math.nan)
    tpot_s = (e2e_s - ttft_s) / (len(times_s) - 1) if len(times_s) > 1 else math.nan
    met = [
        bound is None or value <= bound or (math.isnan(value) and completed)
        for bound, value in ((slo.ttft_s, ttft_s), (slo.tpot_s, tpot_s), (slo.deadline_s, e2e_s))
    ]
    return SloReport(completed and all(met), met[0], met[1], met[2], ttft_s, tpot_s, e2e_s, output_tokens=len(times_s), steps=len(times_s))
