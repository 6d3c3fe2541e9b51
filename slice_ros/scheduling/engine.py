"""What the scheduler asks of an engine."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from slice_ros.goal import FinishReason, GoalError, GoalRequest, TokenLogprob, ToolCall
from slice_ros.mask import Column


class EngineError(Exception):
    """The engine cannot start or go on; the message is one sentence: what is wrong, with the value, and the remedy."""


class KvFullError(EngineError):
    """A step did not fit into the KV cells left. Nothing of it happened: after evicting a goal it can be tried again."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts that do not change while the engine lives.

    Args:
        model: file name or a short description.
        device: what computes, or whose speed is imitated.
        context_tokens: KV cells shared by all sequences (``n_ctx``).
        max_sequences: sequences that can hold KV at once (``n_seq_max``).
        max_step_tokens: prompt tokens and decodes together that one step can take (``n_batch``).
        goal_tokens: prompt and answer of one goal at most: no more than its model was trained with.
        can_draft: whether it can verify drafts: its memory can forget the tokens that turn out wrong.
        adapters: names of the LoRA adapters that goals may be computed with.
        chat_template: where that is from: ``model``, or what was named instead; empty = it has none, and one is guessed.
        window: tokens that some of its layers look back on; 0 = all look back on all.
    """

    model: str
    device: str
    context_tokens: int
    max_sequences: int
    max_step_tokens: int
    goal_tokens: int
    can_draft: bool = False
    adapters: tuple[str, ...] = ()
    chat_template: str = ""
    window: int = 0


@dataclass(frozen=True, slots=True)
class KvUse:
    """KV cells, in tokens.

    Args:
        used: held by open goals; one that several share counts once.
        total: all there are.
        cached: held for prompts to come alone; they are free for the goals that need them.
        parked_bytes: host memory that holds KV of evicted goals.
    """

    used: int
    total: int
    cached: int = 0
    parked_bytes: int = 0


class Output(NamedTuple):
    """What one goal got from one step: a token and those that it forces, more of both where a draft was right, or an error.

    Args:
        text: the piece of text that became certain; empty while a character or a possible stop string is incomplete.
        tokens: how many tokens of its answer it got, the end of generation being one; 0 = only log-probabilities were missing.
        pending: of its tokens, those to compute before the next one can be drawn: 1, or more where some were forced.
        finish: set with the goal's last token.
        logprobs: for a goal that asked for them, of tokens that it got, each once and in their order; of forced ones a step later.
        error: why there is no token, and none will come.
        reasoning: the piece of reasoning that became certain; it is no part of the answer.
        is_reasoning: whether the answer has not begun yet.
        calls: what became certain of the calls of tools in the answer, a call's beginning or a piece of its arguments.
        right: of its draft's tokens, so many were right, up to the first that was not.
        saved: steps that these saved: tokens drawn beyond the first.
    """

    goal_id: str
    text: str
    tokens: int = 1
    pending: int = 1
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    error: GoalError | None = None
    calls: tuple[ToolCall, ...] = ()
    right: int = 0
    saved: int = 0
    reasoning: str = ""
    is_reasoning: bool = False


class Engine(Protocol):
    """Computes steps for many goals. All methods but ``prepare`` belong to the scheduler's thread."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def kv(self) -> KvUse: ...

    @property
    def copy_token_s(self) -> float:
        """How long a token's KV takes to host memory, or back, as copies of the last seconds did; 0 = there were none."""

    def held(self, goal_ids: Collection[str]) -> int:
        """KV cells that any of these open goals holds; one that several of them share counts once."""

    def prepare(self, request: GoalRequest) -> int:
        """Tokenise the prompt, build the sampler, remember both; thread-safe.

        Returns:
            The number of prompt tokens.

        Raises:
            GoalError: the goal cannot be served (CONTEXT_EXCEEDED, INVALID_GRAMMAR, INVALID_GOAL, ...); nothing is remembered then.
        """

    def lead(self, goal_id: str) -> int:
        """How many tokens of a prepared goal's answer are certain before the first is drawn; they are computed with its prompt."""

    def open(self, goal_id: str, copy_s: float = math.inf) -> int:
        """Give a prepared goal a sequence, with what is cached of it.

        Args:
            copy_s: how long its KV may be copied back from host memory, s; what takes longer must be computed again.

        Returns:
            How many of its tokens (prompt and output so far) need no computing.
        """

    def cached(self, goal_id: str) -> int:
        """How many of a goal's tokens need no computing: an open goal's own, or what it would find if it were opened now.

        What another goal computes or gives up changes it until it is opened.
        """

    def reuse(self, goal_id: str) -> int:
        """Let an open goal take over what another one has computed of its tokens since.

        Returns:
            How many more need no computing.
        """

    def stride(self, goal_id: str, count: int) -> int:
        """How many of an open goal's next so many tokens one step should compute, so that others can go on from there; 1 or more."""

    def draft(self, goal_id: str, most: int) -> int:
        """Guess how an open goal's answer goes on after all that is pending, for a step to verify.

        Returns:
            How many tokens were guessed, ``most`` at most.
        """

    def step(self, column: Column) -> list[Output]:
        """Compute one step: for each cell so many of the goal's pending tokens, or the only one, and of its draft. Every goal is open.

        Returns:
            One output for each goal of which nothing is pending any more.

        Raises:
            KvFullError: the step needs more KV cells than are free; nothing of it happened.
            EngineError: the engine is broken and must be replaced.
        """

    def conclude(self, goal_id: str) -> None:
        """Have a goal that reasons begin its answer: its next token ends the reasoning."""

    def evict(self, goal_id: str, copy_s: float = math.inf) -> int:
        """Take an open goal's sequence away; it keeps its text and may be opened again.

        Args:
            copy_s: how long its KV may be copied to host memory, s.

        Returns:
            How many tokens (prompt and output so far) it has; those that ``open`` does not find then must be computed again.
        """

    def close(self, goal_id: str) -> None:
        """Forget a goal, in whatever state it is; an unknown one is no error."""

    def shutdown(self) -> None:
        """Free everything; no other call follows."""
