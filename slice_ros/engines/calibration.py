"""Measures how long an engine's steps take, in a few seconds, so that plans rest on this machine's own numbers."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from slice_ros.goal import GoalError, GoalRequest
from slice_ros.latency.fit import Step, fit_latency
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell
from slice_ros.scheduling.clock import Clock, MonotonicClock
from slice_ros.scheduling.engine import Engine, EngineError
from slice_ros.slo import BestEffort

ROUNDS = (3, 25)
"""How often each number of rows is measured, at least and at most."""
ROUNDS_S = 2.0
"""How long rounds go on beyond the least; they end after three times as long in any case."""
CHUNKS = (8, 32, 128, 512)
"""Lengths of prompt chunks to measure; ..."""
CHUNK_S = 0.5
"""... those that would take longer are left out."""
CHUNK_REPEATS = 2
COMPANIONS = 3
"""Decodes that share a step with a chunk, in every other of its measurements."""
VARIED_S = 2.0
"""How long the prompts of the goals that decode may take at most, together."""
LONG_S = 4.0
"""How long a prompt may take to compute with which the cost of KV tokens is measured, ..."""
LONG_TOKENS = 4096
LONG_CHUNK = 128
"""... in steps of so many tokens, which tell what they cost to those behind them."""
KV_PAIRS, PAIRS_S = 12, 1.0
"""Of its decodes and those of a goal with a short prompt, at most; they end after so long."""
MIXES = 80
"""Steps of random mixes to learn from, and to judge by, at most; ..."""
TRAINING_S, MIXES_S = 3.0, 4.0
"""... they end after so long."""
ALIKE = 40
"""Steps that tell the machine's noise."""
TRAINING_SEED = -1
"""Judges take other mixes."""
MAX_TOKENS = 128
"""Answer length of the goals that decode; they are replaced as they end."""
SAMPLE_WORDS = 16


def measure_latency(
    engine: Engine,
    *,
    max_batch: int = 16,
    clock: Clock | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> LatencyModel:
    """A model of an idle engine's step times; the engine is idle again afterwards.

    Other work on the machine makes it slower than it is: steps of every kind are measured several times, spread over time, and odd ones
    do not count.

    Args:
        engine: no goal is open in it.
        max_batch: up to so many rows in a step, or as many as it has sequences.
        clock: what tells the time of its steps.
        on_progress: called with the share that is done, 0 to 1.

    Raises:
        EngineError: the engine broke, or its context is too short to measure in.
    """
    with _Probe(engine, clock or MonotonicClock(), max_batch) as probe:
        steps = list(_chunk_steps(probe))
        on_progress(0.1)
        token_s = min((step.taken_s / step.prompt_tokens for step in steps), default=0.0)
        probe.vary_prompts(random.Random(TRAINING_SEED), token_s)
        steps += _decode_steps(probe, lambda share: on_progress(0.1 + 0.6 * share))
        steps += _mixed_steps(probe, token_s, TRAINING_S, TRAINING_SEED)
        on_progress(0.9)
        steps += _long_steps(probe, token_s)
    on_progress(1.0)
    return fit_latency(f"{engine.info.model} on {engine.info.device}", steps, engine.info.window)


@dataclass(frozen=True, slots=True)
class Errors:
    """How far predictions were off.

    Args:
        relative: ``|predicted - measured| / measured`` of each step.
        noise: the same of steps that were all alike, measured against their own median: no prediction can be better.
    """

    relative: list[float]
    noise: list[float]


def relative_errors(engine: Engine, latency: LatencyModel, *, max_batch: int = 16, clock: Clock | None = None, seed: int = 0) -> Errors:
    """How far a model is off on fresh steps, each a random mix of decodes and a prompt chunk.

    The goals that decode have KV of different lengths; two thirds of the steps have a chunk, of any length up to the longest measured one,
    each the next of a long prompt.

    Args:
        engine: no goal is open in it before and after.
        latency: what predicts.
        max_batch: as in ``measure_latency``.
        clock: as in ``measure_latency``.

    Raises:
        EngineError: the engine broke, or its context is too short to measure in.
    """
    with _Probe(engine, clock or MonotonicClock(), max_batch) as probe:
        probe.vary_prompts(random.Random(seed), latency.prompt_token_s)
        steps = list(_mixed_steps(probe, latency.prompt_token_s, MIXES_S, seed))
        alike_s = [probe.step(max(1, probe.max_rows // 2)).taken_s for _ in range(ALIKE)]
    predicted_s = [step.predicted_s(latency) for step in steps]
    typical_s = median(alike_s)
    return Errors(
        [abs(predicted - step.taken_s) / step.taken_s for predicted, step in zip(predicted_s, steps, strict=True)],
        [abs(typical_s - taken_s) / taken_s for taken_s in alike_s],
    )


@dataclass(slots=True)
class _Goal:
    goal_id: str
    prompt_left: int
    kv_tokens: int = 0
    ended: bool = False


class _Probe:
    """Keeps goals decoding on an engine, replaces those that end, and times steps."""

    def __init__(self, engine: Engine, clock: Clock, max_batch: int) -> None:
        info = engine.info
        self.engine = engine
        self.max_rows = max(1, min(max_batch, info.max_sequences, info.max_step_tokens))
        # Half of the context is for the goals that decode, half for one with a long prompt, as far as its model allows.
        self.room = min(info.context_tokens // 2, info.goal_tokens)
        self._max_tokens = max(2, min(MAX_TOKENS, self.room // self.max_rows - 8))
        self._clock = clock
        self._decoding: list[_Goal] = []
        self._numbers = itertools.count()
        self._rng = random.Random()
        self._prompt_length: Callable[[], int] = lambda: 1
        self._tokens_per_word = 1.0
        sample = self.open(SAMPLE_WORDS)
        self._tokens_per_word = sample.prompt_left / SAMPLE_WORDS
        self.close(sample)

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep(0)

    @property
    def decoding(self) -> int:
        return len(self._decoding)

    def open(self, prompt_tokens: int, max_tokens: int = 1) -> _Goal:
        """A goal whose prompt has about so many tokens, rather more. No two begin alike, so that none is found computed already."""
        number = next(self._numbers)
        words = math.ceil(prompt_tokens / self._tokens_per_word)
        request = GoalRequest(f"calibration-{number}", BestEffort(), max_tokens, prompt=f"{number}" + " the" * words)
        try:
            goal = _Goal(request.goal_id, self.engine.prepare(request))
        except GoalError as error:
            raise EngineError(f"step times cannot be measured: {error}") from error
        goal.kv_tokens = self.engine.open(goal.goal_id)
        goal.prompt_left -= goal.kv_tokens
        return goal

    def close(self, goal: _Goal) -> None:
        self.engine.close(goal.goal_id)

    def keep(self, rows: int) -> None:
        """Have so many goals ready to decode."""
        while len(self._decoding) > rows:
            self.close(self._decoding.pop())
        while len(self._decoding) < rows:
            goal = self.open(self._prompt_length(), self._max_tokens)
            self._decoding.append(goal)
            while goal.prompt_left:
                self.step(0, goal, min(goal.prompt_left, self.engine.info.max_step_tokens))

    def vary_prompts(self, rng: random.Random, token_s: float) -> None:
        """Goals that decode from now on have prompts of random lengths, as far as there are room and time."""
        longest = max(1, min(_tokens_in(VARIED_S, token_s) // self.max_rows, self.room // self.max_rows - self._max_tokens - 8))
        self._prompt_length = lambda: rng.randint(1, longest)
        self._rng = rng
        self.keep(0)

    def shuffle(self) -> None:
        """Let others decode than before."""
        self._rng.shuffle(self._decoding)

    def chunk(self, decodes: int, tokens: int) -> Step:
        """Time one step: so many decodes, and so many tokens of a longer prompt."""
        goal = self.open(tokens + 1)
        step = self.step(decodes, goal, min(tokens, goal.prompt_left))
        self.close(goal)
        return step

    def _replace_ended(self) -> None:
        rows = len(self._decoding)
        for goal in [goal for goal in self._decoding if goal.ended]:
            self._decoding.remove(goal)
            self.close(goal)
        self.keep(rows)

    def step(self, decodes: int, chunk_of: _Goal | None = None, prompt_tokens: int = 0) -> Step:
        """Time one step: so many decodes, and prompt tokens of another goal (0 decodes it)."""
        goals = [goal for goal in self._decoding if goal is not chunk_of][:decodes] + ([chunk_of] if chunk_of else [])
        column = tuple(Cell(goal.goal_id, prompt_tokens if goal is chunk_of else 0) for goal in goals)
        kv_tokens = tuple(goal.kv_tokens for goal in goals)
        began = self._clock.now()
        outputs = self.engine.step(column)
        taken_s = self._clock.now() - began
        finishes = {output.goal_id: output.finish for output in outputs}
        for goal, cell in zip(goals, column, strict=True):
            goal.kv_tokens += cell.prompt_tokens + (goal.goal_id in finishes)
            goal.prompt_left -= cell.prompt_tokens
            goal.ended = finishes.get(goal.goal_id) is not None
        self._replace_ended()
        return Step(len(column), prompt_tokens, kv_tokens, taken_s)


def _chunk_steps(probe: _Probe) -> Iterator[Step]:
    """Prompt chunks of rising length, alone and beside decodes."""
    probe.keep(min(COMPANIONS, probe.max_rows - 1))
    longest = min(probe.engine.info.max_step_tokens - probe.decoding, probe.room - 16)
    taken_s = 0.0
    for index, tokens in enumerate(CHUNKS):
        # A chunk's own cost and that of its tokens can be told apart from two lengths on.
        if tokens > longest or (index >= 2 and taken_s * tokens / CHUNKS[index - 1] > CHUNK_S):
            return
        for decodes in (0, probe.decoding) * CHUNK_REPEATS:
            yield (step := probe.chunk(decodes, tokens))
        taken_s = step.taken_s


def _decode_steps(probe: _Probe, on_progress: Callable[[float], None]) -> Iterator[Step]:
    """Rounds over all numbers of rows: what disturbs the machine for a while disturbs all of them alike."""
    max_rows = probe.max_rows
    probe.keep(max_rows)
    for rows in range(1, max_rows + 1):
        probe.step(rows)  # kernels and caches warm up
    least, most = ROUNDS
    spent_s = 0.0
    for done in range(most):
        for rows in range(1, max_rows + 1):
            probe.shuffle()
            step = probe.step(rows)
            spent_s += step.taken_s
            yield step
        share_of_time = spent_s / (ROUNDS_S if done + 1 >= least else 3 * ROUNDS_S)
        on_progress(max((done + 1) / most, min(1.0, share_of_time)))
        if share_of_time >= 1.0:
            return


def _mixed_steps(probe: _Probe, token_s: float, most_s: float, seed: int) -> Iterator[Step]:
    """Random mixes of decodes and the next chunk of a long prompt: two thirds have one, up to the longest of ``_chunk_steps``."""
    rng = random.Random(seed)
    rows = probe.max_rows - 1
    probe.keep(rows)
    longest = min(CHUNKS[-1], probe.engine.info.max_step_tokens - rows, probe.room - 16)
    if token_s:
        longest = max(1, min(longest, int(CHUNK_S / token_s)))
    spent_s = 0.0
    goal = probe.open(1)
    try:
        for _ in range(MIXES):
            if spent_s >= most_s:
                return
            probe.shuffle()
            decodes = rng.randint(0, rows)
            if decodes and rng.random() < 1 / 3:
                step = probe.step(decodes)
            else:
                tokens = round(math.exp(rng.uniform(0.0, math.log(longest))))
                if goal.prompt_left <= tokens:
                    probe.close(goal)
                    goal = probe.open(max(tokens + 1, min(LONG_TOKENS, probe.room - 16)))
                step = probe.step(decodes, goal, tokens)
            spent_s += step.taken_s
            yield step
    finally:
        probe.close(goal)


def _long_steps(probe: _Probe, token_s: float) -> Iterator[Step]:
    """Chunks of a long prompt, and its decodes and those of a short one, in turns: they tell what KV tokens cost."""
    if probe.max_rows < 2:
        return
    probe.keep(1)
    goal = probe.open(max(1, min(_tokens_in(LONG_S, token_s), probe.room - 2 * KV_PAIRS)), KV_PAIRS + 2)
    longest = min(LONG_CHUNK, probe.engine.info.max_step_tokens)
    try:
        while goal.prompt_left:
            yield probe.step(0, goal, min(goal.prompt_left, longest))
        spent_s = 0.0
        for _ in range(KV_PAIRS):
            if goal.ended or spent_s >= PAIRS_S:
                return
            for step in (probe.step(1), probe.step(0, goal)):
                spent_s += step.taken_s
                yield step
    finally:
        probe.close(goal)


def _tokens_in(time_s: float, token_s: float) -> int:
    """How many prompt tokens take so long, but no more than ``LONG_TOKENS``."""
    return min(LONG_TOKENS, int(time_s / token_s)) if token_s else LONG_TOKENS
