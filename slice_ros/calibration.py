"""Measures how long an engine's steps take, in a few seconds, so that plans rest on this machine's own numbers."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from slice_ros.clock import Clock, MonotonicClock
from slice_ros.engines.base import Engine, EngineError
from slice_ros.goal import GoalError, GoalRequest
from slice_ros.latency import LatencyModel
from slice_ros.mask import Cell
from slice_ros.slo import BestEffort

ROUNDS = (3, 25)
"""How often each number of rows is measured, at least and at most."""
ROUNDS_S = 3.0
"""How long rounds go on beyond the least; they end after three times as long in any case."""
CHUNKS = (8, 32, 128, 512)
"""Lengths of prompt chunks to measure; ..."""
CHUNK_S = 0.5
"""... those that would take longer are left out."""
CHUNK_REPEATS = 3
COMPANIONS = 3
"""Decodes that share a step with a chunk, in every other of its measurements."""
LONG_S = 1.0
"""How long a prompt may take to compute with which the cost of KV tokens is measured."""
LONG_TOKENS = 4096
KV_PAIRS = 12
MIXES = 80
"""Steps of random mixes by which a model is judged, at most; ..."""
MIXES_S = 4.0
"""... they end after so long."""
FIT_STEPS = 5
"""Numbers of rows that fewer steps had are left to interpolation."""
MAX_TOKENS = 128
"""Answer length of the goals that decode; they are replaced as they end."""
SHORTEST_STEP_S = 1e-5
"""No step is shorter, whatever noise makes of the fit."""
SAMPLE_WORDS = 16


@dataclass(frozen=True, slots=True)
class Step:
    """One measured step: how many rows, how many prompt tokens in all of them, KV tokens before it, and its time."""

    rows: int
    prompt_tokens: int
    kv_tokens: int
    taken_s: float


def measure_latency(
    engine: Engine,
    *,
    max_batch: int = 16,
    clock: Clock | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> LatencyModel:
    """A model of an idle engine's step times; the engine is idle again afterwards.

    Other work on the machine makes it slower than it is: every number is a median of several measurements, spread over time.

    Args:
        engine: no goal is open in it.
        max_batch: up to so many rows in a step, or as many as it has sequences.
        clock: what tells the time of its steps.
        on_progress: called with the share that is done, 0 to 1.

    Raises:
        EngineError: the engine broke, or its context is too short to measure in.
    """
    with _Probe(engine, clock or MonotonicClock(), max_batch) as probe:
        rows = probe.max_rows
        decodes = list(_decode_steps(probe, rows, lambda share: on_progress(0.6 * share)))
        base_s = _medians(decodes)
        probe.keep(min(COMPANIONS, rows - 1))
        chunks = list(_chunk_steps(probe))
        on_progress(0.8)
        chunk_s, prompt_token_s = _fit_prompts(chunks, base_s)
        probe.keep(1)
        kv_token_s = _kv_token_s(probe, prompt_token_s) if rows > 1 else 0.0
    # What the short sequences' own KV tokens took is not to be counted twice.
    if kv_token_s:
        base_s = _medians(decodes, kv_token_s)
        chunk_s, prompt_token_s = _fit_prompts(chunks, base_s, kv_token_s)
    on_progress(1.0)
    table = tuple(max(SHORTEST_STEP_S, seconds) for seconds in base_s)
    device = f"{engine.info.model} on {engine.info.device}"
    return LatencyModel(device, table, chunk_s, prompt_token_s, kv_token_s, _row_s(table))


def relative_errors(
    engine: Engine, latency: LatencyModel, *, max_batch: int = 16, clock: Clock | None = None, seed: int = 0
) -> list[float]:
    """How far a model is off: ``|predicted - measured| / measured`` of fresh steps, each a random mix of decodes and a prompt chunk.

    The goals that decode have KV of different lengths; two thirds of the steps have a chunk, of any length up to the longest measured one.

    Args:
        engine: no goal is open in it before and after.
        latency: what predicts.
        max_batch: as in ``measure_latency``.
        clock: as in ``measure_latency``.

    Raises:
        EngineError: the engine broke, or its context is too short to measure in.
    """
    rng = random.Random(seed)
    errors: list[float] = []
    with _Probe(engine, clock or MonotonicClock(), max_batch) as probe:
        rows = probe.max_rows - 1
        probe.vary_prompts(rng, int(LONG_S / latency.prompt_token_s) if latency.prompt_token_s else LONG_TOKENS)
        probe.keep(rows)
        longest = min(CHUNKS[-1], engine.info.max_step_tokens - rows, probe.room - 16)
        if latency.prompt_token_s:
            longest = max(1, min(longest, int(CHUNK_S / latency.prompt_token_s)))
        spent_s = 0.0
        while len(errors) < MIXES and spent_s < MIXES_S:
            probe.shuffle(rng)
            decodes = rng.randint(0, rows)
            if decodes and rng.random() < 1 / 3:
                step = probe.step(decodes)
            else:
                tokens = round(math.exp(rng.uniform(0.0, math.log(longest))))
                goal = probe.open(tokens + 1)
                step = probe.step(decodes, goal, min(tokens, goal.prompt_left))
                probe.close(goal)
            predicted_s = latency.step_s(step.rows, step.prompt_tokens, int(step.prompt_tokens > 0), step.kv_tokens)
            errors.append(abs(predicted_s - step.taken_s) / step.taken_s)
            spent_s += step.taken_s
    return errors


def fit_latency(device: str, steps: Sequence[Step]) -> LatencyModel:
    """The model that steps of all kinds, as they came in the service of goals, follow on average: ordinary least squares.

    What they lost to other work on the machine is in it, as is the cost of the KV tokens they had; numbers of rows that few steps had are
    interpolated.

    Args:
        device: what the model is called.
        steps: at least one.
    """
    counts = Counter(step.rows for step in steps)
    common = sorted(rows for rows, count in counts.items() if count >= FIT_STEPS) or sorted(counts)
    used = [step for step in steps if step.rows in common]
    columns = [[float(step.rows == rows) for step in used] for rows in common]
    columns.append([float(step.prompt_tokens) for step in used])
    *fitted, prompt_token_s = np.linalg.lstsq(np.array(columns).T, np.array([step.taken_s for step in used]))[0]
    known = {rows: float(row_s) for rows, row_s in zip(common, fitted, strict=True) if row_s > 0.0}
    table = tuple(map(float, np.interp(range(1, max(known) + 1), list(known), list(known.values()))))
    return LatencyModel(device, table, prompt_token_s=max(0.0, float(prompt_token_s)), further_row_s=_row_s(table))


def _row_s(table: Sequence[float]) -> float:
    """What a row beyond the measured ones is taken to cost: as much as those in it do on average, for they may go up and down."""
    return max(0.0, (table[-1] - table[0]) / (len(table) - 1)) if len(table) > 1 else 0.0


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

    def vary_prompts(self, rng: random.Random, tokens: int) -> None:
        """Goals that decode from now on have prompts of random lengths, together about so many tokens, as far as there is room."""
        longest = max(1, min(2 * tokens // self.max_rows, self.room // self.max_rows - self._max_tokens - 8))
        self._prompt_length = lambda: rng.randint(1, longest)

    def shuffle(self, rng: random.Random) -> None:
        """Let others decode than before."""
        rng.shuffle(self._decoding)

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
        kv_tokens = sum(goal.kv_tokens for goal in goals)
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


def _decode_steps(probe: _Probe, max_rows: int, on_progress: Callable[[float], None]) -> Iterator[Step]:
    """Rounds over all numbers of rows: what disturbs the machine for a while disturbs all of them alike."""
    probe.keep(max_rows)
    for rows in range(1, max_rows + 1):
        probe.step(rows)  # kernels and caches warm up
    least, most = ROUNDS
    spent_s = 0.0
    for done in range(most):
        for rows in range(1, max_rows + 1):
            step = probe.step(rows)
            spent_s += step.taken_s
            yield step
        share_of_time = spent_s / (ROUNDS_S if done + 1 >= least else 3 * ROUNDS_S)
        on_progress(max((done + 1) / most, min(1.0, share_of_time)))
        if share_of_time >= 1.0:
            return


def _chunk_steps(probe: _Probe) -> Iterator[Step]:
    """Prompt chunks of rising length, alone and beside decodes."""
    longest = min(probe.engine.info.max_step_tokens - probe.decoding, probe.room - 16)
    taken_s = 0.0
    for index, tokens in enumerate(CHUNKS):
        # A chunk's own cost and that of its tokens can be told apart from two lengths on.
        if tokens > longest or (index >= 2 and taken_s * tokens / CHUNKS[index - 1] > CHUNK_S):
            return
        for decodes in (0, probe.decoding) * CHUNK_REPEATS:
            goal = probe.open(tokens + 1)
            step = probe.step(decodes, goal, min(tokens, goal.prompt_left))
            probe.close(goal)
            yield step
        taken_s = step.taken_s


def _medians(steps: Sequence[Step], kv_token_s: float = 0.0) -> list[float]:
    """l(1), l(2), ... in seconds."""
    times: dict[int, list[float]] = defaultdict(list)
    for step in steps:
        times[step.rows].append(step.taken_s - kv_token_s * step.kv_tokens)
    return [max(0.0, float(np.median(times[rows]))) for rows in sorted(times)]


def _fit_prompts(steps: Sequence[Step], base_s: Sequence[float], kv_token_s: float = 0.0) -> tuple[float, float]:
    """Least squares over relative errors for (seconds a chunk, seconds a prompt token), neither below 0."""
    if not steps:
        return 0.0, 0.0
    weights = np.array([1.0 / max(step.taken_s, 1e-9) for step in steps])
    extra_s = weights * [step.taken_s - base_s[step.rows - 1] - kv_token_s * step.kv_tokens for step in steps]
    tokens = weights * [step.prompt_tokens for step in steps]
    (chunk_s, token_s), *_ = np.linalg.lstsq(np.column_stack((weights, tokens)), extra_s)
    if chunk_s < 0.0 or len({step.prompt_tokens for step in steps}) == 1:
        chunk_s, token_s = 0.0, tokens @ extra_s / (tokens @ tokens)
    elif token_s < 0.0:
        chunk_s, token_s = weights @ extra_s / (weights @ weights), 0.0
    return max(0.0, float(chunk_s)), max(0.0, float(token_s))


def _kv_token_s(probe: _Probe, prompt_token_s: float) -> float:
    """Seconds a KV token adds to a decode: a goal with a long prompt against one with a short, in turns.

    The lower quartile of the differences, so that noise is not taken for a cost.
    """
    info = probe.engine.info
    tokens = min(LONG_TOKENS, probe.room - 2 * KV_PAIRS, int(LONG_S / prompt_token_s) if prompt_token_s else LONG_TOKENS)
    goal = probe.open(max(1, tokens), KV_PAIRS + 2)
    try:
        while goal.prompt_left:
            probe.step(0, goal, min(goal.prompt_left, info.max_step_tokens))
        pairs: list[tuple[Step, Step]] = []
        while len(pairs) < KV_PAIRS and not goal.ended and sum(a.taken_s + b.taken_s for a, b in pairs) < LONG_S:
            pairs.append((probe.step(1), probe.step(0, goal)))
    finally:
        probe.close(goal)
    slopes = [
        (long.taken_s - short.taken_s) / (long.kv_tokens - short.kv_tokens) for short, long in pairs if long.kv_tokens > short.kv_tokens
    ]
    return max(0.0, float(np.percentile(slopes, 25))) if slopes else 0.0
