"""The way to one member: goals there, their text and end back, its status, its life, and how long the way takes."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from lifecycle_msgs.srv import GetState
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.serialization import deserialize_message

from slice_ros.client import Answer, Delta, Generation, SliceClient
from slice_ros.dispatch.attempt import Attempt
from slice_ros.dispatch.dispatcher import Dispatcher
from slice_ros.goal import FinishReason, GoalError, TokenLogprob
from slice_ros.ros.conversions import goal_msg, member_report_of
from slice_ros.ros.interfaces import SloStatus
from slice_ros.ros.presence import Watch
from slice_ros.scheduling.task import SloReport

PING_PERIOD_S = 0.25
"""How often a member is asked for an answer, so that the time of the way is known and a member that was lost can prove itself."""
PING_LOST_S = 2.0
"""An answer that has not come by then does not come."""


class MemberLink:
    """Args:
    name: of the member.
    """

    def __init__(self, node: Node, name: str, dispatcher: Dispatcher, group: CallbackGroup) -> None:
        self._node = node
        self._name = name
        self._dispatcher = dispatcher
        self._client = SliceClient(node, name)
        self._generations: dict[str, Generation] = {}
        self._watch = Watch(node, SloStatus, f"{name}/slo_status", group, hear=self._hear, changed=self._look_at_life)
        self._state = node.create_client(GetState, f"{name}/get_state", callback_group=group)
        self._timer = node.create_timer(PING_PERIOD_S, self._ping, group, Clock(clock_type=ClockType.STEADY_TIME))
        self._asked: Any = None
        self._asked_s = 0.0
        self._instance: int | None = None

    def send(self, attempt: Attempt) -> str:
        """Send a goal; returns its id there."""
        generation = self._client.send_goal(goal_msg(attempt.request))
        self._generations[generation.goal_id] = generation
        generation.listen(partial(self._news, attempt, generation))
        return generation.goal_id

    def cancel(self, attempt: Attempt) -> None:
        generation = self._generations.get(attempt.remote_id)
        if generation is not None:
            generation.cancel()

    def destroy(self) -> None:
        """To be called in the node's executor."""
        self._node.destroy_timer(self._timer)
        self._watch.destroy()
        self._node.destroy_client(self._state)
        self._client.destroy()

    # ---- its goals

    def _news(self, attempt: Attempt, generation: Generation) -> None:
        """Something of a goal came, or its end."""
        new, end = generation.take(), generation.end
        if end is None:
            if any(new):
                self._tell(attempt, new, generation.report)
            return
        self._generations.pop(generation.goal_id, None)
        if isinstance(end, Answer):
            if any(new) or end.logprobs or end.report.output_tokens > attempt.task.tokens:
                self._tell(attempt, new, end.report, end.logprobs)
            self._dispatcher.ended(attempt, FinishReason(end.finish_reason), None)
        else:
            if any(new):
                self._tell(attempt, new, end.report)
            self._dispatcher.ended(attempt, None, GoalError(end.code, f"{self._name}: {end.message}"))

    def _tell(self, attempt: Attempt, new: Delta, report: SloReport, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        tokens = max(0, report.output_tokens - attempt.task.tokens)
        self._dispatcher.progressed(attempt, new.text, tokens, report, logprobs, new.calls, new.reasoning)

    # ---- itself

    def _hear(self, data: bytes) -> None:
        try:
            status = deserialize_message(data, SloStatus)
            report = member_report_of(status)
        except (RuntimeError, ValueError):
            return  # no status, or one whose numbers cannot be
        self._watch.doubt()  # it speaks, whatever DDS has told of its life
        if self._instance not in (None, status.instance):
            # Another one than before, which has to prove itself; what became of its goals, the client tells.
            self._dispatcher.silent(self._name)
        self._instance = status.instance
        if report is not None:
            self._dispatcher.heard(self._name, report)

    def _look_at_life(self) -> None:
        if self._watch.is_alive is False:
            self._dispatcher.silent(self._name)

    def _ping(self) -> None:
        now = time.monotonic()
        if self._asked is not None:
            if now - self._asked_s < PING_LOST_S:
                return
            self._state.remove_pending_request(self._asked)
            self._asked = None
        if self._state.service_is_ready():
            self._asked_s = now
            self._asked = self._state.call_async(GetState.Request())
            self._asked.add_done_callback(self._answered)

    def _answered(self, answer: Any) -> None:
        if answer is self._asked:
            self._asked = None
            if answer.exception() is None and self._watch.is_alive is not False:
                self._dispatcher.answered(self._name, time.monotonic() - self._asked_s)
