"""What a planner node uses: goals with an SLO in, text out; awaited in a callback, streamed, or waited for."""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rclpy
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future

from slice_ros.goal import ChatMessage, ErrorCode, Sampling, TokenLogprob
from slice_ros.ros import qos
from slice_ros.ros.conversions import duration_msg, message_msg, report_of, sampling_msg, slo_msg, uuid_msg
from slice_ros.ros.interfaces import Generate, SloStatus
from slice_ros.scheduling.task import SloReport
from slice_ros.slo import BestEffort, Slo

WATCH_PERIOD_S = 0.1
LONGEST_LOOK_S = 0.5
"""Time between two looks counts for no more than this: a node that was not spinning has yet to take in what it would have heard."""
SERVER_LOST_S = 1.3
"""A server whose status has not come for this long is taken for dead. (DDS itself notices a killed process after ten seconds or more.)"""
INSTANCE = slice(12, 20)
"""Where that field stands in a serialized status. To decode all of it, with its mask matrix, is much work where clients are many."""
UNHEARD_S = 10.0
"""After so long without news of a goal from a server that lives its result is asked for again: an answer may have been lost on its way."""
UNTAKEN_S = 30.0
"""A goal of which the server has not even said whether it takes it is given up after so long."""


class ServerNotFound(Exception):
    """No server answers under this name."""


class GoalFailed(Exception):
    """A goal ended without success.

    Args:
        code: why.
        message: the server's sentence.
        text: what was generated before.
        report: what the goal experienced.
    """

    def __init__(self, code: ErrorCode, message: str, text: str = "", report: SloReport | None = None) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.text = text
        self.report = report or SloReport()


@dataclass(frozen=True, slots=True)
class Answer:
    """A goal's success.

    Args:
        text: everything generated.
        finish_reason: "stop", or "length" where it was cut at ``max_tokens``.
        report: what the goal experienced, and whether its SLO was met.
        logprobs: of the output tokens, where the goal asked for them.
    """

    text: str
    finish_reason: str
    report: SloReport
    logprobs: tuple[TokenLogprob, ...] = ()

    def json(self) -> Any:
        """The answer as JSON; to a goal with a ``json_schema``, it follows it.

        Raises:
            ValueError: it is no JSON, as when it was cut at ``max_tokens``.
        """
        try:
            return json.loads(self.text)
        except json.JSONDecodeError as error:
            remedy = "raise max_tokens" if self.finish_reason == "length" else "give the goal a json_schema"
            raise ValueError(
                f"the answer {self.text[-40:]!r} (finish_reason {self.finish_reason}) is no JSON: {error}; {remedy}"
            ) from error


class Generation:
    """A goal that was sent: await its ``result()``, iterate over its pieces, or cancel it.

    >>> async for piece in client.send("where are you?"):
    ...     say(piece)
    """

    def __init__(self, executor_of: Node) -> None:
        self._node = executor_of
        self._pieces: deque[str] = deque()
        self._heard: list[str] = []
        self._news = Future(executor=executor_of.executor)
        self._end = Future(executor=executor_of.executor)
        self._handle: Any = None
        self._cancel_wanted = False
        self._heard_s = 0.0
        self.goal_id = ""

    @property
    def done(self) -> bool:
        return bool(self._end.done())

    @property
    def end(self) -> Answer | GoalFailed | None:
        """How it ended; ``None`` while it has not."""
        return self._end.result() if self.done else None

    async def result(self) -> Answer:
        """Wait for the end.

        Raises:
            GoalFailed: it ended without success.
        """
        end = await self._end
        if isinstance(end, GoalFailed):
            raise end
        answer: Answer = end
        return answer

    async def __aiter__(self) -> AsyncIterator[str]:
        """The pieces of text as they come; raises GoalFailed at the end of a goal that failed."""
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self.done:
                break
            await self._news
            self._news = Future(executor=self._node.executor)
        await self.result()

    def cancel(self) -> None:
        """Ask the server to end the goal; ``result()`` then raises GoalFailed with code CANCELED."""
        self._cancel_wanted = True
        if self._handle is not None:
            self._handle.cancel_goal_async()

    # ---- called by the client

    def _accepted(self, handle: Any) -> None:
        self._handle = handle
        if self._cancel_wanted:
            handle.cancel_goal_async()

    def _feedback(self, text: str) -> None:
        if text:
            self._heard.append(text)
            self._pieces.append(text)
            self._tell()

    def _finish(self, end: Answer | GoalFailed) -> None:
        if self.done:
            return
        heard = "".join(self._heard)
        if end.text.startswith(heard):  # rclpy drops feedback that it has not handled when the result is there
            self._feedback(end.text[len(heard) :])
        self._end.set_result(end)
        self._tell()

    def _tell(self) -> None:
        if not self._news.done():
            self._news.set_result(None)


class SliceClient:
    """Sends goals to a ``slice_server`` from a node of yours.

    Coroutines are awaited in ``async def`` callbacks of that node, or run with ``executor.create_task``. A server that dies or freezes
    ends its goals with GoalFailed (code ENGINE_DIED) within two seconds, later where the node's own callbacks block: its status is its
    heartbeat. Where that is late, whatever else a busy server says shows that it lives, unless callbacks block: then it was said long ago.

    Args:
        node: whose executor does the work.
        server: name of the server node.
    """

    def __init__(self, node: Node, server: str = "/slice_server") -> None:
        self._node = node
        self._server = server
        self._client = ActionClient(node, Generate, f"{server}/generate", **qos.CLIENT)
        self._in_flight: set[Generation] = set()
        self._heartbeat = node.create_subscription(SloStatus, f"{server}/slo_status", self._hear, 1, raw=True)
        self._watch = node.create_timer(WATCH_PERIOD_S, self._look_after_server)
        self._watched_s = time.monotonic()
        self._spinning_s = 0.0
        self._hears_at_once = True
        self._silent_s = 0.0
        self._instance: bytes | None = None
        self._unsure: set[Generation] = set()
        self._unsure_s = 0.0

    def wait_for_server(self, timeout_s: float = 10.0) -> None:
        """Block until the server is there.

        Raises:
            ServerNotFound: it did not come in time.
        """
        if not self._client.wait_for_server(timeout_sec=timeout_s):
            raise ServerNotFound(
                f"no server {self._server} within {timeout_s:g} s; start one with `slice-ros serve` "
                "and see that ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE are the same for both"
            )

    async def generate(self, prompt: str | Sequence[ChatMessage], **options: Any) -> Answer:
        """Send a goal and wait for its answer; options as for :meth:`send`.

        Raises:
            GoalFailed: it ended without success.
        """
        return await self.send(prompt, **options).result()

    def stream(self, prompt: str | Sequence[ChatMessage], **options: Any) -> Generation:
        """Send a goal; iterate over what comes back: ``async for piece in client.stream(...)``. Options as for :meth:`send`."""
        return self.send(prompt, **options)

    def generate_sync(self, prompt: str | Sequence[ChatMessage], timeout_s: float | None = None, **options: Any) -> Answer:
        """Send a goal and spin the node until its answer is there; not from inside a callback. Options as for :meth:`send`.

        Raises:
            GoalFailed: it ended without success, or (code CANCELED) not in time.
        """
        generation = self.send(prompt, **options)
        rclpy.spin_until_future_complete(self._node, generation._end, timeout_sec=timeout_s)
        if not generation.done:
            generation.cancel()
            raise GoalFailed(ErrorCode.CANCELED, f"no answer within {timeout_s} s; the goal was canceled")
        end = generation._end.result()
        if isinstance(end, GoalFailed):
            raise end
        answer: Answer = end
        return answer

    def send(
        self,
        prompt: str | Sequence[ChatMessage],
        *,
        slo: Slo | None = None,
        preset: str = "",
        max_tokens: int = 0,
        label: str = "",
        sampling: Sampling | None = None,
        stop: Iterable[str] = (),
        grammar: str = "",
        json_schema: str | Mapping[str, Any] = "",
        logprobs: bool = False,
        adapter: str = "",
        session_id: str = "",
        after: Iterable[Generation | str] = (),
        chain_deadline_s: float | None = None,
    ) -> Generation:
        """Send a goal.

        Args:
            prompt: text to complete, or messages of a conversation.
            slo: default is the server's preset of the label's name, else best effort without bounds.
            preset: name of one of the server's SLO presets; what ``slo`` says beside it replaces the preset's.
            max_tokens: output tokens at most; 0 is the server's default.
            label: kind of goal, for statistics and learnt lengths.
            sampling: default is greedy.
            stop: generation ends before the first of these.
            grammar: GBNF the output follows; or
            json_schema: JSON schema it follows, as text or as data (``slice_ros.schemas`` makes some), or the name of one.
            logprobs: whether the answer comes with the log-probabilities of its tokens.
            adapter: name of the LoRA adapter to answer with.
            session_id: the next goal of the session goes on from what this one has computed.
            after: goals that must succeed first.
            chain_deadline_s: bound on this goal and all that depend on it.
        """
        goal = Generate.Goal()
        if isinstance(prompt, str):
            goal.prompt = prompt
        else:
            goal.messages = [message_msg(message) for message in prompt]
        goal.slo = slo_msg(slo or BestEffort(), preset)
        goal.max_tokens = max_tokens
        goal.label = label
        goal.sampling = sampling_msg(sampling or Sampling())
        goal.stop = list(stop)
        goal.grammar = grammar
        goal.json_schema = json_schema if isinstance(json_schema, str) else json.dumps(json_schema)
        goal.logprobs = logprobs
        goal.adapter = adapter
        goal.session_id = session_id
        goal.client = self._node.get_fully_qualified_name()
        goal.after = [uuid_msg(g if isinstance(g, str) else g.goal_id) for g in after]
        goal.chain_deadline = duration_msg(chain_deadline_s)
        return self._send(goal)

    def cancel_all(self) -> None:
        """Ask the server to end every goal of this client."""
        for generation in list(self._in_flight):
            generation.cancel()

    def destroy(self) -> None:
        """Give the node back as it was; goals in flight are canceled."""
        self.cancel_all()
        for generation in list(self._in_flight):
            self._finish(generation, GoalFailed(ErrorCode.CANCELED, "the client was destroyed"))
        self._node.destroy_timer(self._watch)
        self._node.destroy_subscription(self._heartbeat)
        self._client.destroy()

    # ---- the goal's way

    def _send(self, goal: Any) -> Generation:
        generation = Generation(self._node)
        self._in_flight.add(generation)
        generation.goal_id = uuid.uuid4().hex
        generation._heard_s = self._spinning_s
        sent = self._client.send_goal_async(
            goal, feedback_callback=lambda message: self._progressed(generation, message), goal_uuid=uuid_msg(generation.goal_id)
        )
        sent.add_done_callback(lambda future: self._answered(generation, future))
        return generation

    def _progressed(self, generation: Generation, message: Any) -> None:
        generation._heard_s = self._spinning_s
        self._is_alive()
        generation._feedback(message.feedback.text)

    def _is_alive(self) -> None:
        """The server said something."""
        if self._hears_at_once:
            self._silent_s = 0.0

    def _answered(self, generation: Generation, sent: Any) -> None:
        self._is_alive()
        if generation.done:  # taken for lost
            if sent.exception() is None and sent.result().accepted:
                sent.result().cancel_goal_async()
            return
        if sent.exception() is not None or not sent.result().accepted:
            reason = sent.exception() or f"the server {self._server} is not active and rejected the goal"
            self._finish(generation, GoalFailed(ErrorCode.SHUTTING_DOWN, str(reason)))
            return
        generation._accepted(sent.result())
        self._ask(generation)

    def _ask(self, generation: Generation) -> None:
        generation._heard_s = self._spinning_s
        generation._handle.get_result_async().add_done_callback(lambda future: self._ended(generation, future))

    def _ended(self, generation: Generation, future: Any) -> None:
        self._is_alive()
        if future.exception() is not None:
            self._finish(generation, GoalFailed(ErrorCode.INTERNAL, str(future.exception())))
            return
        status, result = future.result().status, future.result().result
        report = report_of(result.report)
        if status == GoalStatus.STATUS_SUCCEEDED:
            self._finish(
                generation, Answer(result.text, result.finish_reason, report, tuple(map(TokenLogprob, result.tokens, result.logprobs)))
            )
        elif status == GoalStatus.STATUS_UNKNOWN:
            self._lose(generation)
        else:
            code = ErrorCode(result.error_code) if result.error_code in tuple(ErrorCode) else ErrorCode.NONE
            message = result.error_msg or f"the server {self._server} ended the goal with status {status} and gave no reason"
            self._finish(generation, GoalFailed(code or ErrorCode.INTERNAL, message, result.text, report))

    def _finish(self, generation: Generation, end: Answer | GoalFailed) -> None:
        self._in_flight.discard(generation)
        generation._finish(end)

    def _hear(self, status: bytes) -> None:
        if len(status) < INSTANCE.stop:
            return  # no status
        self._silent_s = 0.0
        if self._instance not in (None, status[INSTANCE]):
            self._unsure, self._unsure_s = set(self._in_flight), 0.0
        self._instance = status[INSTANCE]

    def _look_after_server(self) -> None:
        now = time.monotonic()
        passed_s = min(now - self._watched_s, LONGEST_LOOK_S)
        self._hears_at_once = now - self._watched_s < LONGEST_LOOK_S
        self._watched_s = now
        self._spinning_s += passed_s
        self._silent_s = self._silent_s + passed_s if self._in_flight else 0.0
        self._unsure_s += passed_s
        if self._silent_s > SERVER_LOST_S:
            for generation in list(self._in_flight):
                self._lose(generation)
            return
        for generation in list(self._in_flight):
            unheard_s = self._spinning_s - generation._heard_s
            if generation._handle is not None:
                if unheard_s > UNHEARD_S:
                    self._ask(generation)
            elif unheard_s > UNTAKEN_S:
                message = f"the server {self._server} did not say whether it takes the goal; send it again"
                self._finish(generation, GoalFailed(ErrorCode.INTERNAL, message))
        if self._unsure_s > LONGEST_LOOK_S:
            # A goal that was on its way when the server came anew has been accepted by now. What became of others, the server tells.
            unsure, self._unsure = self._unsure & self._in_flight, set()
            for generation in unsure:
                if generation._handle is None:
                    self._lose(generation)
                else:
                    self._ask(generation)

    def _lose(self, generation: Generation) -> None:
        message = f"the server {self._server} is gone or was started anew; send the goal again when it is there"
        self._finish(generation, GoalFailed(ErrorCode.ENGINE_DIED, message))
