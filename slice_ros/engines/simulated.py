"""An engine without a model: steps take the time the latency model says, on a virtual clock."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from slice_ros.goal import ErrorCode, FinishReason, GoalError, GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Column
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.engine import EngineInfo, KvUse, Output

CHARACTERS_PER_TOKEN = 4
"""What a prompt is taken to cost when its length in tokens is not given."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long a goal's prompt and answer are, in tokens, and how many each drawn one forces; only the engine knows.

    Args:
        guessed: how likely a drafted token is right; with 0 nothing is guessed.
        reasoning: so many of the output come before the answer.
    """

    prompt_tokens: int
    output_tokens: int
    forced: int = 0
    guessed: float = 0.0
    reasoning: int = 0


@dataclass(slots=True)
class _Sequence:
    lengths: Lengths
    max_tokens: int
    prompt_left: int
    tokens: int = 0
    is_open: bool = False
    is_concluded: bool = False

    @property
    def kv_tokens(self) -> int:
        return self.lengths.prompt_tokens + self.tokens - self.prompt_left if self.is_open else 0

    def conclude(self) -> None:
        """Go on as if the reasoning ended with the next token."""
        skipped = self.lengths.reasoning - self.tokens - 1
        self.lengths = replace(self.lengths, reasoning=self.lengths.reasoning - skipped, output_tokens=self.lengths.output_tokens - skipped)


class SimulatedEngine:
    """Args:
    latency: how long steps take.
    clock: moved forward by each step; without one, steps take no time (``PacedEngine`` makes them last on a real clock).
    lengths: prompt and answer length by goal id; where absent, a prompt token is four characters and an answer ``max_tokens``.
    slowness: factor on the time of a step that begins at a moment of the clock.
    """

    def __init__(
        self,
        latency: LatencyModel,
        clock: VirtualClock | None = None,
        lengths: Mapping[str, Lengths] | None = None,
        *,
        slowness: Callable[[float], float] = lambda _: 1.0,
        context_tokens: int = 32768,
        max_sequences: int = 256,
        max_step_tokens: int = 2048,
    ) -> None:
        self._latency = latency
        self._clock = clock
        self._lengths = {} if lengths is None else lengths
        self._slowness = slowness
        can_draft = any(of.guessed for of in self._lengths.values())
        self._info = EngineInfo(
            "simulated", latency.device, context_tokens, max_sequences, max_step_tokens, context_tokens, can_draft, window=latency.window
        )
        self._sequences: dict[str, _Sequence] = {}
        self._rng = random.Random(0)

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def kv(self) -> KvUse:
        # A copy: meanwhile another thread may prepare a goal.
        return KvUse(self.held(list(self._sequences)), self._info.context_tokens)

    @property
    def copy_token_s(self) -> float:
        return 0.0

    def held(self, goal_ids: Collection[str]) -> int:
        return sum(self._sequences[goal_id].kv_tokens for goal_id in goal_ids)

    def prepare(self, request: GoalRequest) -> int:
        text = (request.prompt or "".join(message.content for message in request.messages)) + request.answer_prefix
        lengths = self._lengths.get(request.goal_id) or Lengths(max(1, len(text) // CHARACTERS_PER_TOKEN), request.max_tokens + 1)
        request = request.fitted(lengths.prompt_tokens, self._info.goal_tokens)
        if lengths.prompt_tokens + request.max_tokens > self._info.goal_tokens:
            raise GoalError(
                ErrorCode.CONTEXT_EXCEEDED,
                f"the prompt's {lengths.prompt_tokens} tokens and max_tokens {request.max_tokens} exceed the context of "
                f"{self._info.context_tokens} tokens; shorten the prompt or lower max_tokens",
            )
        self._sequences[request.goal_id] = _Sequence(lengths, request.max_tokens, lengths.prompt_tokens)
        return lengths.prompt_tokens

    def lead(self, goal_id: str) -> int:  # noqa: ARG002
        return 0

    def open(self, goal_id: str, copy_s: float = math.inf) -> int:  # noqa: ARG002
        self._sequences[goal_id].is_open = True
        return 0

    def cached(self, goal_id: str) -> int:
        return self._sequences[goal_id].kv_tokens

    def reuse(self, goal_id: str) -> int:  # noqa: ARG002
        return 0

    def stride(self, goal_id: str, count: int) -> int:  # noqa: ARG002
        return count

    def draft(self, goal_id: str, most: int) -> int:
        sequence = self._sequences[goal_id]
        left = min(sequence.lengths.output_tokens, sequence.max_tokens) - sequence.tokens
        return max(0, min(most, left - 1)) if sequence.lengths.guessed else 0

    def step(self, column: Column) -> list[Output]:
        kv_tokens = [self._sequences[cell.goal_id].kv_tokens for cell in column]
        if self._clock is not None:
            self._clock.advance(self._latency.column_s(column, kv_tokens) * self._slowness(self._clock.now()))
        outputs = []
        for goal_id, prompt_tokens, _, drafted in column:
            sequence = self._sequences[goal_id]
            if prompt_tokens:
                sequence.prompt_left -= prompt_tokens
            if sequence.prompt_left > 0:
                continue
            if sequence.is_concluded and sequence.tokens < sequence.lengths.reasoning:
                sequence.conclude()
            right = next((i for i in range(drafted) if self._rng.random() >= sequence.lengths.guessed), drafted)
            burst = 1 + sequence.lengths.forced
            saved = right // burst
            gained = min(burst * (saved + 1), sequence.lengths.output_tokens - sequence.tokens, sequence.max_tokens - sequence.tokens)
            right = min(right, gained)
            pending = gained - right
            sequence.tokens += gained
            sequence.prompt_left = pending if pending > 1 else 0
            finish = None
            if sequence.tokens >= sequence.lengths.output_tokens:
                finish = FinishReason.STOP
            elif sequence.tokens >= sequence.max_tokens:
                finish = FinishReason.LENGTH
            is_reasoning = sequence.tokens < sequence.lengths.reasoning
            outputs.append(Output(goal_id, "x", gained, pending, finish, right=right, saved=saved, is_reasoning=is_reasoning))
        return outputs

    def conclude(self, goal_id: str) -> None:
        self._sequences[goal_id].is_concluded = True

    def evict(self, goal_id: str, copy_s: float = math.inf) -> int:  # noqa: ARG002
        sequence = self._sequences[goal_id]
        sequence.is_open = False
        sequence.prompt_left = sequence.lengths.prompt_tokens + sequence.tokens
        return sequence.prompt_left

    def close(self, goal_id: str) -> None:
        self._sequences.pop(goal_id, None)

    def shutdown(self) -> None:
        self._sequences.clear()
