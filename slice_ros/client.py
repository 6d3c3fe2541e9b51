"""What a planner node uses: goals with an SLO in, text out; awaited in a callback, streamed, or waited for."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.task import Future

from slice_ros.goal import ChatMessage, ErrorCode, Sampling, TokenLogprob, ToolCall, joined
from slice_ros.ros import presence, qos
from slice_ros.ros.conversions import (
    duration_msg,
    logprobs_of,
    message_msg,
    report_of,
    sampling_msg,
    slo_msg,
    tool_calls_of,
    uuid_hex,
    uuid_msg,
)
from slice_ros.ros.interfaces import Generate, SloStatus
from slice_ros.scheduling.task import SloReport
from slice_ros.slo import BestEffort, Slo

WATCH_PERIOD_S = 0.2
LONGEST_LOOK_S = 0.5
"""Time between two looks counts for no more than this: a node that was not spinning has yet to take in what it would have heard."""
SERVER_LOST_S = 1.0
"""A server that DDS takes for dead has this long to come back, on top of its lease (``qos.LEASE_S``)."""
SERVER_UNSEEN_S = 5.0
"""One of which DDS has told neither life nor death has this long to say something: it may have to be discovered first."""
INSTANCE = slice(12, 20)
"""Where that field stands in a serialized status. To decode all of it, with its mask matrix, is much work where clients are many."""
STALE_S = 2.5
"""A status older than this, of a server that publishes two a second, is none."""
UNHEARD_S = 2.0
"""After so long without news of a goal from a server that lives its result is asked for again, and then after twice as long each time: an
answer may have been lost on its way."""
REPEATS = 3
"""How often a goal is sent again of which the server knows nothing: for half a minute."""
LEAVE_S = 1.0
"""A client that is destroyed hears the replies to its last requests for so long."""
LOOK_S = 0.05
UNSPUN_S = 15.0
"""A blocking call takes an executor that did nothing for so long for one that nobody spins."""


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
        finish_reason: "stop", "tool_calls", or "length" where it was cut at ``max_tokens``.
        report: what the goal experienced, and whether its SLO was met.
        logprobs: of the output tokens, where the goal asked for them.
        tool_calls: calls of tools, in their order; the last one's arguments are incomplete where the answer was cut.
        reasoning: what the model wrote before its answer, where it reasons.
    """

    text: str
    finish_reason: str
    report: SloReport
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""

    @property
    def message(self) -> ChatMessage:
        """The answer as the conversation's next message, before the results of its calls."""
        return ChatMessage("assistant", self.text, self.tool_calls)

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


class Delta(NamedTuple):
    """What is new of an answer.

    Args:
        text: a piece of it.
        calls: beginnings of calls of tools, which have an id, and pieces of the latest one's arguments, which have none.
        reasoning: a piece of what comes before it.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""


class Generation:
    """A goal that was sent: await its ``result()``, iterate over its pieces of text or its ``deltas()``, or cancel it.

    >>> async for piece in client.stream("where are you?"):
    ...     say(piece)
    """

    def __init__(self, client: SliceClient, goal_id: str, heard_s: float) -> None:
        self._client = client
        self._pieces: deque[Delta] = deque()
        self._heard: list[Delta] = []
        self._steps = 0
        self._report: Any = None
        self._is_torn = False
        self.instance: bytes | None = None
        """Which server took the goal."""
        self._news: Any = client._future()
        self._listener: Callable[[], None] | None = None
        self._end: Any = client._future()
        self._over = threading.Event()
        self._is_taken = False
        self._cancel_wanted = False
        self._heard_s = heard_s
        self._patience_s = UNHEARD_S
        self._request: Any = None
        self._repeats = 0
        self._acceptance: Any = None
        self._outcome: Any = None
        self.goal_id = goal_id

    @property
    def is_sent(self) -> bool:
        """Whether a server was there to take it."""
        return self._acceptance is not None

    @property
    def report(self) -> SloReport:
        """What it had experienced when the latest piece came."""
        return SloReport() if self._report is None else report_of(self._report)

    @property
    def done(self) -> bool:
        return self._over.is_set()

    @property
    def end(self) -> Answer | GoalFailed | None:
        """How it ended; ``None`` while it has not."""
        end: Answer | GoalFailed | None = self._end.result() if self.done else None
        return end

    def answer(self) -> Answer:
        """What it ended with.

        Raises:
            GoalFailed: it ended without success.
        """
        end = self._end.result()
        if isinstance(end, GoalFailed):
            raise end
        answer: Answer = end
        return answer

    async def result(self) -> Answer:
        """Wait for the end.

        Raises:
            GoalFailed: it ended without success.
        """
        await self._end
        return self.answer()

    async def __aiter__(self) -> AsyncIterator[str]:
        """The pieces of text as they come; raises GoalFailed at the end of a goal that failed."""
        async for delta in self.deltas():
            if delta.text:
                yield delta.text

    async def deltas(self) -> AsyncIterator[Delta]:
        """Text and calls of tools as they come; raises GoalFailed at the end of a goal that failed."""
        while True:
            news = self._news
            while self._pieces:
                yield self._pieces.popleft()
            if self.done:
                break
            await news
            if self._news is news:
                self._news = self._client._future()
        while self._pieces:
            yield self._pieces.popleft()
        self.answer()

    def listen(self, heard: Callable[[], None]) -> None:
        """Have this called at once, when there is something to ``take()``, and at the end: for who waits elsewhere than in the executor.

        Args:
            heard: is called by the thread that spins the node, for which it must be short.
        """
        self._listener = heard
        heard()

    def take(self) -> Delta:
        """What came since the last time."""
        deltas = []
        while self._pieces:
            deltas.append(self._pieces.popleft())
        return _together(deltas)

    def cancel(self) -> None:
        """Ask the server to end the goal; ``result()`` then raises GoalFailed with code CANCELED."""
        self._cancel_wanted = True
        if self._is_taken:
            self._client._cancel(self.goal_id)

    # ---- called by the client

    def _take(self) -> None:
        self._is_taken = True
        if self._cancel_wanted:
            self._client._cancel(self.goal_id)

    def _feedback(self, delta: Delta, step: int) -> None:
        """What one of the goal's steps brought, and which one it was; where one was lost on its way, the rest comes with the end."""
        self._is_torn |= step != self._steps + 1
        self._steps = step
        if not self._is_torn:
            self._add(delta)

    def _add(self, delta: Delta) -> None:
        if any(delta):
            self._heard.append(delta)
            self._pieces.append(delta)
            self._tell()

    def _finish(self, end: Answer | GoalFailed) -> None:
        text, calls, thought = _together(self._heard)
        # What was asked for without a stream, or has not come yet.
        self._add(
            Delta(
                end.text[len(text) :] if end.text.startswith(text) else "",
                _rest(end.tool_calls, joined(calls)) if isinstance(end, Answer) else (),
                end.reasoning[len(thought) :] if isinstance(end, Answer) and end.reasoning.startswith(thought) else "",
            )
        )
        self._end.set_result(end)
        self._over.set()
        self._tell()

    def _tell(self) -> None:
        if not self._news.done():
            self._news.set_result(None)
        if self._listener is not None:
            self._listener()


def _together(deltas: Sequence[Delta]) -> Delta:
    calls = tuple(call for delta in deltas for call in delta.calls)
    return Delta("".join(delta.text for delta in deltas), calls, "".join(delta.reasoning for delta in deltas))


def _rest(calls: Sequence[ToolCall], heard: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """The pieces that make calls of those heard so far."""
    pieces = list(calls[max(0, len(heard) - 1) :])
    if heard and pieces and pieces[0].id == heard[-1].id:
        rest = pieces[0].arguments[len(heard[-1].arguments) :]
        pieces[:1] = [ToolCall("", "", rest)] if rest else []
    return tuple(pieces)


class SliceClient:
    """Sends goals to a ``slice_server`` from a node of yours.

    Coroutines are awaited in ``async def`` callbacks of that node, or run with ``executor.create_task``; any executor will do, and any
    callback group. A server that dies or freezes ends its goals with GoalFailed (code ENGINE_DIED) within two seconds, later where the
    node's own callbacks block; one that is busy is not taken for dead. A goal that is sent before
    the server was ever found waits five seconds for it. When this process dies, the server ends its goals.

    It speaks the action's own protocol (https://design.ros2.org/articles/actions.html) on its services and topics: rclpy's ActionClient
    decodes the feedback and the states of everybody's goals, and in Kilted may lose an acceptance between two threads.

    Args:
        node: whose executor does the work.
        server: name of the server node.
    """

    def __init__(self, node: Node, server: str = "/slice_server") -> None:
        self._node = node
        self._server = server
        self._topic = presence.client_topic(server, f"c{uuid.uuid4().hex}")
        self._lock = threading.RLock()
        self._spinning = threading.Lock()
        self._in_flight: dict[str, Generation] = {}
        self._unsent: list[Generation] = []
        self._is_destroyed = False
        self._destroyed_s = 0.0
        self._thread: int | None = None
        # Of its own: a callback of the user's that awaits an answer must not keep the answer out.
        self._group = group = MutuallyExclusiveCallbackGroup()
        action, options = f"{server}/generate/_action", {"qos_profile": qos.SERVICE, "callback_group": group}
        self._goals = node.create_client(Generate.Impl.SendGoalService, f"{action}/send_goal", **options)
        self._results = node.create_client(Generate.Impl.GetResultService, f"{action}/get_result", **options)
        self._cancels = node.create_client(CancelGoal, f"{action}/cancel_goal", **options)
        self._feedback: Any = None
        self._presence = presence.offer(node, self._topic, group)
        self._watch = presence.Watch(node, SloStatus, f"{server}/slo_status", group, hear=self._hear, changed=self._look_after_server)
        self._timer = node.create_timer(WATCH_PERIOD_S, self._look_after_server, group, Clock(clock_type=ClockType.STEADY_TIME))
        self._watched_s = time.monotonic()
        self._spinning_s = 0.0
        self._silent_s = 0.0
        self._was_there = False
        self._instance: bytes | None = None
        self._told: tuple[float, bytes] = -STALE_S, b""
        self._read: tuple[bytes, Any] = b"", None
        self._unsure: set[str] = set()
        self._unsure_s = 0.0

    def wait_for_server(self, timeout_s: float = 10.0) -> None:
        """Block until the server is there.

        Raises:
            ServerNotFound: it did not come in time.
        """
        deadline_s = time.monotonic() + timeout_s
        self._check_is_there()
        while not self.server_is_ready():
            if time.monotonic() > deadline_s:
                raise ServerNotFound(self.not_found(timeout_s))
            time.sleep(LOOK_S)

    def server_is_ready(self) -> bool:
        """Whether the server is there."""
        return all(client.service_is_ready() for client in (self._goals, self._results, self._cancels))

    @property
    def status(self) -> Any:
        """The server's latest ``SloStatus``; ``None`` where none came for some seconds, or the node was not spun."""
        told_s, raw = self._told
        if time.monotonic() - told_s > STALE_S:
            return None
        if self._read[0] is not raw:
            with suppress(RuntimeError):  # no status
                self._read = raw, deserialize_message(raw, SloStatus)
        return self._read[1]

    def not_found(self, waited_s: float) -> str:
        """The sentence that says that the server was not there for so long."""
        return (
            f"no server {self._server} within {waited_s:g} s; start one with `slice-ros serve` "
            "and see that ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE are the same for both"
        )

    async def generate(self, prompt: str | Sequence[ChatMessage], **options: Any) -> Answer:
        """Send a goal and wait for its answer; options as for :meth:`send`.

        Raises:
            GoalFailed: it ended without success.
        """
        return await self.send(prompt, **{"stream": False, **options}).result()

    def stream(self, prompt: str | Sequence[ChatMessage], **options: Any) -> Generation:
        """Send a goal; iterate over what comes back: ``async for piece in client.stream(...)``. Options as for :meth:`send`."""
        return self.send(prompt, **options)

    def generate_sync(self, prompt: str | Sequence[ChatMessage], timeout_s: float | None = None, **options: Any) -> Answer:
        """Send a goal and block until its answer is there. Options as for :meth:`send`.

        Of a node that is in no executor, the client's own callbacks run meanwhile; any other is spun by somebody else, in another thread.

        Raises:
            GoalFailed: it ended without success, or (code CANCELED) not in time, or rclpy was shut down.
            RuntimeError: nobody could ever take the answer in: this is a callback of the node's executor, or nobody spins that.
        """
        executor = self._executor()
        if executor is not None and self._is_its_thread(executor):
            raise RuntimeError(
                "generate_sync was called from the thread that spins the node, which would wait for itself; in a callback, "
                "`await client.generate(...)` instead, or call it from another thread"
            )
        generation = self.send(prompt, **{"stream": False, **options})
        if not self._wait(generation, timeout_s):
            generation.cancel()
            raise GoalFailed(ErrorCode.CANCELED, f"no answer within {timeout_s} s; the goal was canceled")
        return generation.answer()

    def send(
        self,
        prompt: str | Sequence[ChatMessage],
        *,
        slo: Slo | None = None,
        preset: str = "",
        max_tokens: int = 0,
        label: str = "",
        supersede: bool = False,
        sampling: Sampling | None = None,
        stop: Iterable[str] = (),
        grammar: str = "",
        json_schema: str | Mapping[str, Any] = "",
        regex: str = "",
        logprobs: bool = False,
        tools: str | Iterable[Mapping[str, Any]] = "",
        tool_choice: str = "",
        reasoning: str | int = "",
        adapter: str = "",
        session_id: str = "",
        after: Iterable[Generation | str] = (),
        chain_deadline_s: float | None = None,
        model: str = "",
        hedge: bool = False,
        stream: bool = True,
    ) -> Generation:
        """Send a goal.

        Args:
            prompt: text to complete, or messages of a conversation.
            slo: default is the server's preset of the label's name, else best effort without bounds.
            preset: name of one of the server's SLO presets; what ``slo`` says beside it replaces the preset's.
            max_tokens: output tokens at most; 0 is the server's default.
            label: kind of goal, for statistics and learnt lengths.
            supersede: what this client has asked under that label before and is not answered ends with SUPERSEDED.
            sampling: default is greedy.
            stop: generation ends before the first of these.
            grammar: Lark or GBNF grammar the output follows; or
            json_schema: JSON schema it follows, as text or as data (``slice_ros.schemas`` makes some), or the name of one; or
            regex: regular expression that it matches as a whole.
            logprobs: whether the answer comes with the log-probabilities of its tokens.
            tools: descriptions of tools that the answer may call, as OpenAI's chat interface or an MCP server gives them.
            tool_choice: "auto", "none", "required", or the name of the tool to call.
            reasoning: "off", "on", the number of tokens that it may take, or "deadline"; the default is as the model does.
            adapter: name of the LoRA adapter to answer with.
            session_id: the next goal of the session goes on from what this one has computed.
            after: goals that must succeed first.
            chain_deadline_s: bound on this goal and all that depend on it.
            model: file name of the model that is to answer, where there are several; empty is any.
            hedge: whether a dispatcher sends the goal to two servers at once.
            stream: whether pieces of text are wanted as they come, each in a message.

        Raises:
            RuntimeError: the client was destroyed.
        """
        goal = Generate.Goal()
        if isinstance(prompt, str):
            goal.prompt = prompt
        else:
            goal.messages = [message_msg(message) for message in prompt]
        goal.slo = slo_msg(slo or BestEffort(), preset)
        goal.max_tokens = max_tokens
        goal.label = label
        goal.supersede = supersede
        goal.sampling = sampling_msg(sampling or Sampling())
        goal.stop = list(stop)
        goal.grammar = grammar
        goal.json_schema = json_schema if isinstance(json_schema, str) else json.dumps(json_schema)
        goal.regex = regex
        goal.logprobs = logprobs
        goal.tools = tools if isinstance(tools, str) else json.dumps(list(tools))
        goal.tool_choice = tool_choice
        goal.reasoning = str(reasoning)
        goal.adapter = adapter
        goal.session_id = session_id
        goal.client = self._node.get_fully_qualified_name()
        goal.silent = not stream
        goal.after = [uuid_msg(g if isinstance(g, str) else g.goal_id) for g in after]
        goal.chain_deadline = duration_msg(chain_deadline_s)
        goal.model = model
        goal.hedge = hedge
        return self.send_goal(goal)

    def send_goal(self, goal: Any) -> Generation:
        """Send a ``Generate.Goal`` that is there already, for programs that pass goals on.

        Raises:
            RuntimeError: the client was destroyed.
        """
        goal.presence = self._topic
        return self._send(goal)

    def cancel_all(self) -> None:
        """Ask the server to end every goal of this client."""
        for generation in list(self._in_flight.values()):
            generation.cancel()

    def destroy(self) -> None:
        """Give the node back as it was; goals in flight are canceled."""
        with self._lock:
            if self._is_destroyed:
                return
            had_goals = bool(self._in_flight)
            self.cancel_all()
            self._is_destroyed, self._destroyed_s = True, time.monotonic()
            for generation in list(self._in_flight.values()):
                self._finish(generation, GoalFailed(ErrorCode.CANCELED, "the client was destroyed"))
        executor = self._executor()
        is_alone = self._thread in (None, threading.get_ident()) and not isinstance(executor, MultiThreadedExecutor)
        if executor is None or not isinstance(executor, Executor) or (is_alone and not had_goals):
            self._tear_down()
        # Else a later look does. A server waits a tenth of a second for each reader of a reply that has just gone; and rclpy fails on what
        # another thread destroys while it is taken.

    def _tear_down(self) -> None:
        self._node.destroy_timer(self._timer)
        self._watch.destroy()
        self._node.destroy_publisher(self._presence)
        if self._feedback is not None:
            self._node.destroy_subscription(self._feedback)
        for client in (self._goals, self._results, self._cancels):
            self._node.destroy_client(client)

    # ---- the goal's way

    def _send(self, goal: Any) -> Generation:
        with self._lock:
            self._check_is_there()
            if not goal.silent and self._feedback is None:
                self._feedback = presence.listen(self._node, self._topic, self._group, self._progressed)
            if not self._in_flight:
                self._watched_s, self._silent_s = time.monotonic(), 0.0
            generation = Generation(self, uuid.uuid4().hex, self._spinning_s)
            generation._request = Generate.Impl.SendGoalService.Request(goal_id=uuid_msg(generation.goal_id), goal=goal)
            self._in_flight[generation.goal_id] = generation
            self._unsent.append(generation)
        self._send_unsent()
        return generation

    def _send_unsent(self) -> None:
        """Send the goals that wait for a server; ROS drops requests that nobody is there to take."""
        with self._lock:
            if not self._unsent or self._is_destroyed or not self.server_is_ready():
                return
            unsent, self._unsent = self._unsent, []
            for generation in unsent:
                if not generation.done:
                    self._call(generation)

    def _call(self, generation: Generation) -> None:
        generation._heard_s = self._spinning_s
        generation._acceptance = self._goals.call_async(generation._request)
        generation._acceptance.add_done_callback(partial(self._answered, generation))

    def _send_again(self, generation: Generation) -> None:
        """Send a goal that the server does not know, though it was sent; in the end it is given up."""
        if generation._repeats == REPEATS:
            message = f"the server {self._server} did not say whether it takes the goal; send it again"
            self._finish(generation, GoalFailed(ErrorCode.INTERNAL, message))
            return
        self._goals.remove_pending_request(generation._acceptance)
        self._call(generation)
        generation._outcome = None
        generation._repeats += 1

    def _check_is_there(self) -> None:
        """Raises:
        RuntimeError: the client was destroyed.
        """
        if self._is_destroyed:
            raise RuntimeError("this SliceClient was destroyed; make another one")

    def _progressed(self, feedback: bytes) -> None:
        try:
            message = deserialize_message(feedback, Generate.Impl.FeedbackMessage)
        except RuntimeError:
            return  # no feedback
        with self._lock:
            generation = self._in_flight.get(uuid_hex(message.goal_id))
            if generation is not None:
                self._hear_news()
                generation._heard_s = self._spinning_s
                news = message.feedback
                generation._report = news.report
                generation._feedback(Delta(news.text, tool_calls_of(news.tool_calls), news.reasoning), news.report.steps)

    def _answered(self, generation: Generation, sent: Any) -> None:
        with self._lock:
            if generation.done or self._is_destroyed:  # taken for lost
                if not self._is_destroyed and sent.exception() is None and sent.result().accepted:
                    self._cancel(generation.goal_id)
                return
            self._thread = threading.get_ident()
            is_accepted = sent.exception() is None and sent.result().accepted
            # Of one that was sent twice, the second is refused where the first came late.
            if not (is_accepted or generation._repeats):
                reason = sent.exception() or f"the server {self._server} is not active and rejected the goal"
                self._finish(generation, GoalFailed(ErrorCode.SHUTTING_DOWN, str(reason)))
                return
            self._hear_news()
            generation.instance = self._instance
            self._ask(generation)
            generation._take()

    def _ask(self, generation: Generation) -> None:
        with self._lock:
            if self._is_destroyed:
                return
            if generation._outcome is not None:
                self._results.remove_pending_request(generation._outcome)
            generation._heard_s = self._spinning_s
            request = Generate.Impl.GetResultService.Request(goal_id=uuid_msg(generation.goal_id))
            generation._outcome = self._results.call_async(request)
            generation._outcome.add_done_callback(partial(self._ended, generation))

    def _cancel(self, goal_id: str) -> None:
        with self._lock:
            if not self._is_destroyed:
                request = CancelGoal.Request()
                request.goal_info.goal_id = uuid_msg(goal_id)
                self._cancels.call_async(request)

    def _ended(self, generation: Generation, future: Any) -> None:
        if future.exception() is not None:
            self._finish(generation, GoalFailed(ErrorCode.INTERNAL, str(future.exception())))
            return
        status, result = future.result().status, future.result().result
        if status == GoalStatus.STATUS_UNKNOWN:
            if not generation._is_taken:
                with self._lock:
                    if not generation.done and not self._is_destroyed:
                        self._send_again(generation)
            elif generation.instance == self._instance is not None:
                message = f"the server {self._server} has dropped the goal's result, which nobody took in for a minute; send it again"
                self._finish(generation, GoalFailed(ErrorCode.INTERNAL, message))
            else:
                self._lose(generation)
            return
        report = report_of(result.report)
        if status == GoalStatus.STATUS_SUCCEEDED:
            logprobs, calls = logprobs_of(result.logprobs), tool_calls_of(result.tool_calls)
            self._finish(generation, Answer(result.text, result.finish_reason, report, logprobs, calls, result.reasoning))
        else:
            code = ErrorCode(result.error_code) if result.error_code in tuple(ErrorCode) else ErrorCode.NONE
            message = result.error_msg or f"the server {self._server} ended the goal with status {status} and gave no reason"
            self._finish(generation, GoalFailed(code or ErrorCode.INTERNAL, message, result.text, report))

    def _finish(self, generation: Generation, end: Answer | GoalFailed) -> None:
        with self._lock:
            if self._in_flight.pop(generation.goal_id, None) is None:
                return
            if generation._acceptance is not None:
                self._goals.remove_pending_request(generation._acceptance)
            if generation._outcome is not None:
                self._results.remove_pending_request(generation._outcome)
            generation._finish(end)
        if (executor := self._node.executor) is not None:
            executor.wake()  # a goal may end from another thread than the one that waits

    # ---- the server's life

    def _hear_news(self) -> None:
        """The server was there a moment ago, though DDS may not have told yet."""
        self._was_there = True
        if self._watch.is_alive is None:
            self._silent_s = 0.0

    def _hear(self, status: bytes) -> None:
        if len(status) < INSTANCE.stop:
            return  # no status
        self._told = time.monotonic(), status
        with self._lock:
            if self._instance != status[INSTANCE]:
                self._watch.doubt()
            self._hear_news()
            if self._instance is None:
                for generation in self._in_flight.values():
                    generation.instance = status[INSTANCE]
            if self._instance not in (None, status[INSTANCE]):
                self._unsure, self._unsure_s = set(self._in_flight), 0.0
            self._instance = status[INSTANCE]

    def _look_after_server(self) -> None:
        with self._lock:
            if self._is_destroyed:
                if time.monotonic() - self._destroyed_s > LEAVE_S:
                    self._tear_down()
                return
            self._thread = threading.get_ident()
            now = time.monotonic()
            passed_s = min(now - self._watched_s, LONGEST_LOOK_S)
            self._watched_s = now
            self._spinning_s += passed_s
            self._unsure_s += passed_s
            is_there = self._watch.is_alive if self._watch.can_tell else self._goals.service_is_ready()
            self._was_there |= is_there is True
            self._silent_s = 0.0 if is_there else self._silent_s + passed_s
            generations = list(self._in_flight.values())
            if self._silent_s > (SERVER_LOST_S if is_there is False and self._was_there else SERVER_UNSEEN_S):
                for generation in generations:
                    self._lose(generation)
                return
            for generation in generations:
                if generation.is_sent and self._spinning_s - generation._heard_s > generation._patience_s:
                    # One whose acceptance was lost is known where the server does not say at once that it is not.
                    if not generation._is_taken and generation._outcome is not None:
                        generation._take()
                    generation._patience_s *= 2.0
                    self._ask(generation)
            self._send_unsent()
            if self._unsure_s > LONGEST_LOOK_S and self._unsure:
                # A goal that was on its way when the server came anew has been accepted by now. What became of others, the server tells.
                unsure, self._unsure = self._unsure, set()
                for generation in generations:
                    if generation.goal_id in unsure:
                        self._ask(generation)

    def _lose(self, generation: Generation) -> None:
        if generation.is_sent or self._was_there:
            message = f"the server {self._server} is gone or was started anew; send the goal again when it is there"
        else:
            message = self.not_found(SERVER_UNSEEN_S)
        self._finish(generation, GoalFailed(ErrorCode.ENGINE_DIED, message))

    # ---- who spins

    def _future(self) -> Any:
        return Future(executor=self._node.executor)

    def _executor(self) -> Executor | None:
        """The one that the node is in; a node remembers those that it was in, too."""
        executor = self._node.executor
        return executor if executor is not None and self._node in executor.get_nodes() else None

    def _is_its_thread(self, executor: Executor) -> bool:
        """Whether the caller runs in a callback of an executor; of one that is not written in Python, only its thread is seen."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code.co_name.lstrip("_").startswith("spin") and frame.f_locals.get("self") is executor:
                return True
            frame = frame.f_back
        return not isinstance(executor, Executor) and self._thread == threading.get_ident()

    def _wait(self, generation: Generation, timeout_s: float | None) -> bool:
        """Whether a goal ends in time; the client's own callbacks run here while the node is in no executor.

        Raises:
            GoalFailed: rclpy was shut down.
            RuntimeError: nobody spins the node.
        """
        began_s = time.monotonic()
        pulse, pulse_s = None, began_s
        while not generation.done:
            now_s = time.monotonic()
            left_s = LONGEST_LOOK_S if timeout_s is None else timeout_s - (now_s - began_s)
            if left_s <= 0.0:
                return False
            if not self._node.context.ok():
                raise GoalFailed(ErrorCode.CANCELED, "rclpy was shut down before the answer came")
            executor = self._executor()
            if executor is None or isinstance(executor, _OwnCallbacks):
                if self._spinning.acquire(timeout=LOOK_S):
                    try:
                        self._spin(generation, min(left_s, LONGEST_LOOK_S))
                    finally:
                        self._spinning.release()
                continue
            if pulse is None or pulse.done():
                pulse, pulse_s = executor.create_task(lambda: None), now_s
            if now_s - pulse_s > UNSPUN_S:
                generation.cancel()
                raise RuntimeError(
                    f"the executor that has the node {self._node.get_name()} did nothing for {UNSPUN_S:g} s: spin it in another thread, "
                    "or take the node out of it (executor.remove_node), then the client needs none"
                )
            generation._over.wait(LOOK_S)
        return True

    def _spin(self, generation: Generation, at_most_s: float) -> None:
        executor = _OwnCallbacks(self._group, self._node)
        until_s = time.monotonic() + at_most_s
        try:
            while not generation.done and self._node.executor is executor and (left_s := until_s - time.monotonic()) > 0.0:
                executor.spin_once(timeout_sec=left_s)
        except Exception:
            if self._node.context.ok() and self._node.executor is executor:
                raise  # else rclpy was shut down, or somebody else took the node over while this executor waited for it
        finally:
            if self._node.executor is executor:  # nobody has put the node into an executor of theirs meanwhile
                executor.remove_node(self._node)
                self._node.executor = None
            executor.shutdown()


class _OwnCallbacks(SingleThreadedExecutor):
    """Runs the callbacks of one group of a node; what else the node has waits for its user's executor."""

    def __init__(self, group: CallbackGroup, node: Node) -> None:
        super().__init__(context=node.context)
        self._group = group
        self.add_node(node)

    def can_execute(self, entity: Any) -> bool:
        return entity.callback_group is self._group and super().can_execute(entity)
