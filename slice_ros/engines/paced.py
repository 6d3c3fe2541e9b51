"""Real tokens at another device's speed: what a robot's computer would do, shown on the machine at hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Column
from slice_ros.scheduling.engine import Engine, EngineInfo, KvUse, Output

FINE_S = 0.001
"""``time.sleep`` may wake up about so much too late; the rest of a wait is slept in short pieces."""


class PacedEngine:
    """An engine whose steps last as long as a latency model predicts, if the inner engine is quick enough; a slower one sets its own pace.

    Args:
        inner: computes the steps.
        latency: how long a step shall last.
        now: seconds on a monotonic scale.
        sleep: waits for so many seconds, or a little longer.
    """

    def __init__(
        self,
        inner: Engine,
        latency: LatencyModel,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._inner = inner
        self._latency = latency
        self._now = now
        self._sleep = sleep
        where = f", on {inner.info.device}" if inner.info.device != latency.device else ""
        self._info = replace(inner.info, device=f"{latency.device} (paced{where})")
        self._kv_tokens: dict[str, int] = {}

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def kv(self) -> KvUse:
        return self._inner.kv

    @property
    def copy_token_s(self) -> float:
        return self._inner.copy_token_s

    def held(self, goal_ids: Collection[str]) -> int:
        return self._inner.held(goal_ids)

    def prepare(self, request: GoalRequest) -> int:
        return self._inner.prepare(request)

    def lead(self, goal_id: str) -> int:
        return self._inner.lead(goal_id)

    def open(self, goal_id: str, copy_s: float = math.inf) -> int:
        cached = self._inner.open(goal_id, copy_s)
        self._kv_tokens[goal_id] = cached
        return cached

    def cached(self, goal_id: str) -> int:
        return self._inner.cached(goal_id)

    def reuse(self, goal_id: str) -> int:
        reused = self._inner.reuse(goal_id)
        self._kv_tokens[goal_id] += reused
        return reused

    def stride(self, goal_id: str, count: int) -> int:
        return self._inner.stride(goal_id, count)

    def draft(self, goal_id: str, most: int) -> int:
        return self._inner.draft(goal_id, most)

    def step(self, column: Column) -> list[Output]:
        start_s = self._now()
        kv_tokens = [self._kv_tokens[cell.goal_id] for cell in column]
        outputs = self._inner.step(column)
        for cell in column:
            self._kv_tokens[cell.goal_id] += cell.prompt_tokens or 1
        for output in outputs:
            self._kv_tokens[output.goal_id] += output.right
        self._wait_until(start_s + self._latency.column_s(column, kv_tokens))
        return outputs

    def conclude(self, goal_id: str) -> None:
        self._inner.conclude(goal_id)

    def evict(self, goal_id: str, copy_s: float = math.inf) -> int:
        self._kv_tokens.pop(goal_id, None)
        return self._inner.evict(goal_id, copy_s)

    def close(self, goal_id: str) -> None:
        self._kv_tokens.pop(goal_id, None)
        self._inner.close(goal_id)

    def shutdown(self) -> None:
        self._inner.shutdown()

    def _wait_until(self, end_s: float) -> None:
        while (left_s := end_s - self._now()) > 0.0:
            self._sleep(left_s - FINE_S if left_s > 2 * FINE_S else min(left_s, FINE_S / 10))
