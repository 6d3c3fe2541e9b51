"""Traffic in real time through an engine that computes: the goals of the simulator, with prompts and answers of the same lengths."""

from __future__ import annotations

import math
import random
import string
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from slice_ros.bench.simulate import Outcome, Recorder
from slice_ros.bench.workload import Arrival
from slice_ros.engines.simulated import Lengths
from slice_ros.goal import ErrorCode, FinishReason, GoalError, GoalRequest
from slice_ros.latency.fit import Step
from slice_ros.latency.model import LatencyModel, rows_of
from slice_ros.mask import Column
from slice_ros.scheduling.clock import MonotonicClock
from slice_ros.scheduling.engine import Engine, EngineInfo, KvUse, Output
from slice_ros.scheduling.policies import Policy
from slice_ros.scheduling.scheduler import Scheduler, failed
from slice_ros.slo import BestEffort

CHARACTERS_PER_TOKEN = 4
"""Random letters are never fewer tokens than one for so many."""


class ScriptedEngine:
    """Ends each goal after its scripted number of tokens, which no policy sees. A model that ends earlier by itself is let.

    Args:
        inner: computes the steps.
        lengths: answer length by goal id.
        on_step: called with each step, timed from the end of the one before, where there was work all the time: what the scheduler does
            between steps is part of what they cost.
    """

    def __init__(self, inner: Engine, lengths: Mapping[str, Lengths], on_step: Callable[[Step], None]) -> None:
        self._inner = inner
        self._on_step = on_step
        self._left = {goal_id: length.output_tokens for goal_id, length in lengths.items()}
        self._in_hand: set[str] = set()
        self._busy_since_s = math.inf
        self._start_s = time.monotonic()

    @property
    def info(self) -> EngineInfo:
        return self._inner.info

    @property
    def kv(self) -> KvUse:
        return self._inner.kv

    @property
    def copy_token_s(self) -> float:
        return self._inner.copy_token_s

    def held(self, goal_ids: Collection[str]) -> int:
        return self._inner.held(goal_ids)

    def prepare(self, request: GoalRequest) -> int:
        prompt_tokens = self._inner.prepare(request)
        self._in_hand.add(request.goal_id)
        return prompt_tokens

    def lead(self, goal_id: str) -> int:
        return self._inner.lead(goal_id)

    def open(self, goal_id: str, copy_s: float = math.inf) -> int:
        return self._inner.open(goal_id, copy_s)

    def cached(self, goal_id: str) -> int:
        return self._inner.cached(goal_id)

    def reuse(self, goal_id: str) -> int:
        return self._inner.reuse(goal_id)

    def stride(self, goal_id: str, count: int) -> int:
        return self._inner.stride(goal_id, count)

    def draft(self, goal_id: str, most: int) -> int:
        return self._inner.draft(goal_id, most)

    def step(self, column: Column) -> list[Output]:
        began_s = min(self._busy_since_s, time.monotonic())
        outputs = self._inner.step(column)
        self._busy_since_s = time.monotonic()
        prompt_tokens, ended_s = sum(cell.prompt_tokens for cell in column), self._busy_since_s - self._start_s
        self._on_step(Step(rows_of(column), prompt_tokens, (), self._busy_since_s - began_s, ended_s))
        return [self._scripted(output) for output in outputs]

    def conclude(self, goal_id: str) -> None:
        self._inner.conclude(goal_id)

    def evict(self, goal_id: str, copy_s: float = math.inf) -> int:
        return self._inner.evict(goal_id, copy_s)

    def close(self, goal_id: str) -> None:
        self._inner.close(goal_id)
        self._in_hand.discard(goal_id)
        if not self._in_hand:
            self._busy_since_s = math.inf

    def shutdown(self) -> None:
        self._inner.shutdown()

    def _scripted(self, output: Output) -> Output:
        self._left[output.goal_id] -= output.tokens
        return output if self._left[output.goal_id] > 0 else output._replace(finish=output.finish or FinishReason.STOP)


def replay(
    arrivals: Sequence[Arrival],
    policy: Policy,
    engine: Engine,
    latency: LatencyModel,
    *,
    max_batch: int = 16,
    on_step: Callable[[Step], None] = lambda _: None,
) -> list[Outcome]:
    """Serve the traffic to its last goal, at the pace of the clock on the wall.

    Args:
        engine: no goal is open in it before and after.
        latency: predicts its steps.
        on_step: called with each step, timed, on the scheduler's thread; KV tokens are not counted.

    Returns:
        One outcome per arrival, in order of arrival.

    Raises:
        EngineError: the engine broke.
    """
    arrivals = write_prompts(engine, arrivals)
    all_ended = threading.Event()

    def count() -> None:
        if len(recorder) == len(arrivals):
            all_ended.set()

    recorder = Recorder(count)
    clock = MonotonicClock()
    scripted = ScriptedEngine(engine, {a.request.goal_id: a.lengths for a in arrivals}, on_step)
    scheduler = Scheduler(scripted, policy, latency, recorder, clock=clock, max_batch=max_batch)
    start_s = clock.now()
    with ThreadPoolExecutor(1, "scheduler") as thread:
        run = thread.submit(scheduler.run)
        try:
            for arrival in arrivals:
                due_s = start_s + arrival.time_s
                time.sleep(max(0.0, due_s - clock.now()))
                request = replace(arrival.request, submitted_s=due_s)
                try:
                    scheduler.submit(request)
                except GoalError as error:
                    recorder([failed(request, error)])
            while arrivals and not run.done() and not all_ended.wait(0.1):
                pass
        finally:
            scheduler.stop()
        run.result()
    return [recorder.outcome(arrival) for arrival in arrivals]


def write_prompts(engine: Engine, arrivals: Sequence[Arrival], seed: int = 0) -> list[Arrival]:
    """Give each goal a prompt of random letters, of the length in tokens that its script says. No two begin alike, of two seeds neither."""
    rng = random.Random(seed)
    return [replace(a, request=replace(a.request, prompt=_prompt(engine, a.lengths.prompt_tokens, rng))) for a in arrivals]


def _prompt(engine: Engine, tokens: int, rng: random.Random) -> str:
    text = "".join(rng.choices(string.ascii_lowercase, k=CHARACTERS_PER_TOKEN * tokens))
    length = bisect_left(range(1, len(text) + 1), tokens, key=lambda n: _count_tokens(engine, text[:n]))
    return text[: length + 1]


def _count_tokens(engine: Engine, text: str) -> int:
    request = GoalRequest("count tokens", BestEffort(), max_tokens=1, prompt=text)
    try:
        return engine.prepare(request)
    except GoalError as error:
        if error.code is ErrorCode.CONTEXT_EXCEEDED:
            return engine.info.context_tokens
        raise
    finally:
        engine.close(request.goal_id)
