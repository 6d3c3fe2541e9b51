"""What the server takes in: how large a goal may be, and how many may wait and be in hand, in all and of one client."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from slice_ros.goal import ChatMessage, ErrorCode, GoalError, GoalRequest
from slice_ros.parameters.table import Value

LONGEST_NAME = 256
"""Bytes of a label, a session's, an adapter's, a client's or a tool's name."""
PRESENCE = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+/_clients/[A-Za-z][A-Za-z0-9]*", re.ASCII)
MOST_ENTRIES = 1024
"""Messages, stop strings or predecessors of one goal."""
MOST_LABELS = 256
"""Labels with figures of their own; figures are kept for as long as the server runs."""


def check_size(request: GoalRequest, limits: Mapping[str, Value]) -> None:
    """Refuse a goal that is too large to be taken in.

    Args:
        limits: values of ``parameters.PARAMETERS``.

    Raises:
        GoalError: INVALID_GOAL or INVALID_GRAMMAR with the field, its size, and the parameter that bounds it.
    """
    for field, entries in (("messages", request.messages), ("stop", request.stop), ("after", request.after)):
        if len(entries) > MOST_ENTRIES:
            raise GoalError(ErrorCode.INVALID_GOAL, f"{field} has {len(entries)} entries; at most {MOST_ENTRIES} are allowed")
    for field in ("label", "session_id", "adapter", "client", "tool_choice", "model"):
        if (size := _bytes(getattr(request, field))) > LONGEST_NAME:
            raise GoalError(ErrorCode.INVALID_GOAL, f"{field} has {size} bytes; at most {LONGEST_NAME} are allowed")
    if request.max_tokens > (most := int(limits["limits.max_tokens"])):
        raise GoalError(ErrorCode.INVALID_GOAL, f"max_tokens is {request.max_tokens}; limits.max_tokens of this server is {most}")
    prompt = _bytes(
        request.prompt, request.answer_prefix, *request.stop, *(part for message in request.messages for part in _parts(message))
    )
    if prompt > (most := int(limits["limits.prompt_bytes"])):
        raise GoalError(
            ErrorCode.INVALID_GOAL,
            f"prompt, messages, answer_prefix and stop have {prompt} bytes; limits.prompt_bytes of this server is {most}",
        )
    for field, text in (
        ("grammar", request.grammar),
        ("json_schema", request.json_schema),
        ("regex", request.regex),
        ("tools", request.tools),
    ):
        if (size := _bytes(text)) > (most := int(limits["limits.grammar_bytes"])):
            raise GoalError(ErrorCode.INVALID_GRAMMAR, f"{field} has {size} bytes; limits.grammar_bytes of this server is {most}")


def check_presence(topic: str) -> None:
    """Raises:
    GoalError: INVALID_GOAL; the server would listen to it.
    """
    if topic and not (len(topic) <= LONGEST_NAME and PRESENCE.fullmatch(topic)):
        raise GoalError(ErrorCode.INVALID_GOAL, f"presence is {topic[:80]!r}; it must be a topic like /slice_server/_clients/c1")


def superseded(request: GoalRequest, in_hand: Mapping[str, GoalRequest]) -> list[str]:
    """The goals that a new one makes void: earlier ones of its client and label, but for those that it comes after, directly or not."""
    spared, ahead = set(), list(request.after)
    while ahead:
        if (goal_id := ahead.pop()) in in_hand and goal_id not in spared:
            spared.add(goal_id)
            ahead += in_hand[goal_id].after
    void = (goal for goal in in_hand.values() if (goal.client, goal.label) == (request.client, request.label))
    return [goal.goal_id for goal in void if goal.goal_id not in spared]


class Labels:
    """The labels that have figures of their own; a goal with one more counts as its service class."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def known(self, request: GoalRequest) -> GoalRequest:
        """The goal, its label dropped if there are too many others.

        Raises:
            GoalError: INVALID_GOAL, it would replace others of its label.
        """
        if request.label and request.label not in self._known:
            if len(self._known) >= MOST_LABELS:
                if request.supersede:
                    told = f"label is {request.label!r}, one more than the {MOST_LABELS} that this server tells apart"
                    raise GoalError(ErrorCode.INVALID_GOAL, f"{told}; a goal with supersede needs one of those")
                return replace(request, label="")
            self._known.add(request.label)
        return request


class Places:
    """The goals in one state, as many as there may be, and whose they are.

    A client is who a goal says it is from (ROS tells an action server nothing about that); goals that do not say count as one client.

    Args:
        state: what they are, for sentences.
        parameter: name of the parameter that bounds them.
    """

    def __init__(self, state: str, parameter: str) -> None:
        self._state = state
        self._parameter = parameter
        self._clients: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._clients)

    def join(self, request: GoalRequest, limits: Mapping[str, Value]) -> None:
        """Let a goal in.

        Args:
            limits: values of ``parameters.PARAMETERS``; of the places there are, one client's goals may have a share, but at least one.

        Raises:
            GoalError: OVERLOADED.
        """
        most, share = int(limits[self._parameter]), float(limits["scheduler.client_share"])
        if len(self) >= most:
            raise GoalError(
                ErrorCode.OVERLOADED, f"{len(self)} goals are {self._state}, as many as {self._parameter} allows; send the goal again later"
            )
        client, most_of_one = request.client, max(1, int(most * share))
        if self._counts[client] >= most_of_one:
            whose = f"of client {client!r}" if client else "that name no client"
            raise GoalError(
                ErrorCode.OVERLOADED,
                f"{self._counts[client]} goals {whose} are {self._state}; one client may have {most_of_one} ({self._parameter} x "
                f"scheduler.client_share): wait for some of them to end",
            )
        self._clients[request.goal_id] = client
        self._counts[client] += 1

    def leave(self, goal_id: str) -> None:
        """A goal is no longer in this state; one that was not is left as it is."""
        client = self._clients.pop(goal_id, None)
        if client is not None:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]


def _parts(message: ChatMessage) -> Iterator[str]:
    yield from (message.role, message.content, message.tool_call_id)
    for call in message.tool_calls:
        yield from call


def _bytes(*texts: str) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
