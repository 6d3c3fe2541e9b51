"""A goal as it crosses from the node to the engine process: plain data, checked at construction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import NamedTuple

from slice_ros.slo import Slo


class ErrorCode(IntEnum):
    """Why a goal ended without success; numbered as in ``action/Generate.action``."""

    NONE = 0
    INVALID_GOAL = 1
    INVALID_SLO = 2
    INVALID_GRAMMAR = 3
    CONTEXT_EXCEEDED = 4
    INFEASIBLE = 5
    SLO_MISSED = 6
    OVERLOADED = 7
    UNKNOWN_GOAL = 8
    PREDECESSOR_FAILED = 9
    CANCELED = 10
    ENGINE_DIED = 11
    SHUTTING_DOWN = 12
    SUPERSEDED = 13
    INTERNAL = 99


class FinishReason(Enum):
    """Why generation ended with success."""

    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"


class GoalError(Exception):
    """A goal cannot be served; carries the error code and a sentence for its sender."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)  # both in args, so that the error survives pickling
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


HOTTEST = 1000.0
"""Temperature at which all tokens are about as likely as each other."""
PENALTIES = 0.01, 100.0
"""Beyond these, logits times a penalty are no numbers any more."""


class ToolCall(NamedTuple):
    """A call of a tool; in a stream, one with an id begins a call, and one without goes on with the arguments of the latest.

    Args:
        id: nine letters and digits.
        name: the tool's.
        arguments: a JSON object as text, or the new piece of it.
    """

    id: str
    name: str
    arguments: str


def joined(pieces: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    """The calls that a stream's pieces make up."""
    calls: list[ToolCall] = []
    for piece in pieces:
        if piece.id:
            calls.append(piece)
        elif calls:
            calls[-1] = calls[-1]._replace(arguments=calls[-1].arguments + piece.arguments)
    return tuple(calls)


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation.

    Args:
        role: system, user, assistant, tool, or what the model's template knows.
        content: its text; of a tool, its result.
        tool_calls: calls that the assistant wrote.
        tool_call_id: of a tool's result, the call that it answers.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How output tokens are drawn; the defaults are greedy. Meanings and zero values as in ``msg/Sampling.msg``."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    repeat_penalty: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(
            0.0 <= self.temperature <= HOTTEST,
            f"sampling.temperature is {self.temperature}; it must be 0 (greedy) to {HOTTEST:g}",
        )
        _require(self.top_k >= 0, f"sampling.top_k is {self.top_k}; it must be 0 (all) or more")
        _require(0.0 <= self.top_p <= 1.0, f"sampling.top_p is {self.top_p}; it must be in 0..1")
        _require(0.0 <= self.min_p <= 1.0, f"sampling.min_p is {self.min_p}; it must be in 0..1")
        _require(
            self.repeat_penalty == 0.0 or PENALTIES[0] <= self.repeat_penalty <= PENALTIES[1],
            f"sampling.repeat_penalty is {self.repeat_penalty}; it must be 0 (off), or {PENALTIES[0]:g} to {PENALTIES[1]:g}",
        )


class TokenLogprob(NamedTuple):
    """An output token, and the natural logarithm of its probability under the model, before sampling settings and grammar.

    Args:
        token: its text, or a control token's name.
        data: its bytes in the answer; none of a control token.
    """

    token: str
    logprob: float
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class GoalRequest:
    """One goal.

    Args:
        goal_id: unique; the action's UUID in hex.
        slo: what the answer must meet.
        max_tokens: output tokens at most, above 0.
        is_default: nobody asked for so many, so that fewer will do where no more fit.
        prompt: text to complete as it stands; or
        messages: a conversation, rendered with the model's chat template.
        tools: JSON list of the tools that an answer to messages may call; empty is none.
        tool_choice: auto, none, required, or the name of the tool to call; empty is auto.
        reasoning: off, on, tokens that it may take, or deadline: it ends while there is time for an answer; empty is as the model does.
        submitted_s: ``time.monotonic()`` when the node received it (one clock for all processes of a machine).
        label: kind of goal, for statistics and learnt lengths; empty takes the service class.
        supersede: whether it makes void what its client has asked before under its label.
        client: who sent it, by its own word; empty is nobody in particular.
        adapter: name of the LoRA adapter to compute it with; empty is none.
        grammar: Lark or GBNF, json_schema: JSON or the name of a schema, regex: a regular expression; what the answer must be, at most one.
        logprobs: whether the log-probabilities of the output tokens are wanted.
        after: goal ids that must succeed first.
        chain_deadline_s: submission of this goal to the end of the last goal that depends on it; ``None`` is no bound.
        model: file name of the model that is to answer; empty is any.
        answer_prefix: beginning of the answer that is there already: generation goes on after it.
        hedge: a dispatcher sends it to two members, and the first one that says something goes on with it.

    Raises:
        GoalError: INVALID_GOAL with the field, its value and what would be right.
    """

    goal_id: str
    slo: Slo
    max_tokens: int
    prompt: str = ""
    messages: tuple[ChatMessage, ...] = ()
    submitted_s: float = 0.0
    label: str = ""
    supersede: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    grammar: str = ""
    json_schema: str = ""
    regex: str = ""
    logprobs: bool = False
    tools: str = ""
    tool_choice: str = ""
    reasoning: str = ""
    adapter: str = ""
    session_id: str = ""
    client: str = ""
    after: tuple[str, ...] = ()
    chain_deadline_s: float | None = None
    model: str = ""
    answer_prefix: str = ""
    hedge: bool = False

    is_default: bool = False

    def __post_init__(self) -> None:
        _require(bool(self.prompt) or bool(self.messages), "prompt and messages are both empty; give one of them")
        _require(not (self.prompt and self.messages), "prompt and messages are both given; give one of them")
        _require(self.max_tokens > 0, f"max_tokens is {self.max_tokens}; it must be above 0")
        _require(all(self.stop), "stop holds an empty string; leave it out")
        _require(bool(self.label) or not self.supersede, "supersede is set and label is empty; give such goals a label")
        forms = [name for name in ("grammar", "json_schema", "regex") if getattr(self, name)]
        _require(len(forms) < 2, f"{' and '.join(forms)} are {'both' if len(forms) == 2 else 'all'} given; give one of them")
        _require(not self.tools or bool(self.messages), "tools are given with a prompt; give messages, which a template renders with them")
        _require(not (self.tools and forms), f"tools and {''.join(forms)} are both given; give one of them")
        _require(
            bool(self.tools) or self.tool_choice in ("", "auto", "none"),
            f"tool_choice is {self.tool_choice[:40]!r}, but there are no tools; give some, or leave it out",
        )
        _require(
            self.reasoning in ("", "off", "on", "deadline") or self.reasoning_budget is not None,
            f"reasoning is {self.reasoning[:40]!r}; it must be off, on, deadline, a number of tokens above 0, or empty",
        )
        _require(
            self.reasoning != "deadline" or self.slo.deadline_s is not None or self.chain_deadline_s is not None,
            "reasoning is 'deadline', but the goal has none; give slo.deadline or chain_deadline",
        )
        _require(
            self.chain_deadline_s is None or (math.isfinite(self.chain_deadline_s) and self.chain_deadline_s > 0.0),
            f"chain_deadline is {self.chain_deadline_s} s; it must be above 0, or absent for no bound",
        )

    def fitted(self, prompt_tokens: int, goal_tokens: int) -> GoalRequest:
        """The goal with no more ``max_tokens`` than fit beside its prompt, unless it asked for them.

        Args:
            goal_tokens: that prompt and answer can have together.
        """
        room = goal_tokens - prompt_tokens
        return replace(self, max_tokens=room) if self.is_default and 0 < room < self.max_tokens else self

    @property
    def reasoning_budget(self) -> int | None:
        """Tokens that the reasoning may take; ``None`` where it names no number."""
        is_number = self.reasoning.isascii() and self.reasoning.isdigit() and len(self.reasoning) < 10
        return int(self.reasoning) or None if is_number else None

    @property
    def kind(self) -> str:
        """The label, or the service class's name where none was given."""
        return self.label or self.slo.service_class.name.lower()


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise GoalError(ErrorCode.INVALID_GOAL, sentence)
