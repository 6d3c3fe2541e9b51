"""``~/check_slo``: would this goal meet its SLO if it were sent now?"""

from __future__ import annotations

import time
import uuid
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from slice_ros.goal import ErrorCode, GoalError, GoalRequest
from slice_ros.ros.conversions import fill_check, slo_of
from slice_ros.ros.interfaces import CheckSlo
from slice_ros.scheduling.events import Checked
from slice_ros.server.host import Host
from slice_ros.server.intake import check_size
from slice_ros.server.parameters import ServerParameters
from slice_ros.server.slo_clock import SloClock, in_real_time


class Checks:
    """Hands questions to the engine, and its answers to who asked."""

    def __init__(self, node: Node, parameters: ServerParameters, clock: SloClock) -> None:
        self._node = node
        self._parameters = parameters
        self._clock = clock
        self._waiting: dict[str, Any] = {}
        self.host: Host | None = None
        # A group of its own: a check that waits for the engine must not keep the engine's events from being handled.
        node.create_service(CheckSlo, "~/check_slo", self._check, callback_group=ReentrantCallbackGroup())

    def answered(self, event: Checked) -> None:
        if event.check_id in self._waiting:
            self._waiting[event.check_id].set_result(event)

    async def _check(self, request: Any, response: Any) -> Any:
        check_id = uuid.uuid4().hex
        tokens = request.max_tokens or int(self._parameters["generation.max_tokens"])
        try:
            if self.host is None:
                raise GoalError(ErrorCode.SHUTTING_DOWN, "the server is not configured; ask again when it is")
            slo = slo_of(request.slo, self._parameters.presets, request.label)
            prompt = request.prompt or ("-" if request.prompt_tokens else "")
            goal = GoalRequest(
                check_id, slo, tokens, prompt=prompt, submitted_s=time.monotonic(), label=request.label, is_default=not request.max_tokens
            )
            check_size(goal, self._parameters.values)
            rate = self._clock.rate
            answer = self._waiting[check_id] = Future(executor=self._node.executor)
            self.host.check(check_id, in_real_time(goal, rate), request.prompt_tokens)
            return fill_check(response, await answer, rate or 1.0)
        except GoalError as error:
            response.error_code, response.error_msg = int(error.code), error.message
            return response
        finally:
            self._waiting.pop(check_id, None)
