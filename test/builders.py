"""Short ways to make what the tests of the scheduler talk about."""

from __future__ import annotations

from functools import partial

from slice_ros import slo
from slice_ros.engines.simulated import Lengths, SimulatedEngine
from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Column
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.engine import KvFullError, Output
from slice_ros.scheduling.events import Finished, Progress
from slice_ros.scheduling.policies import Policy, make_policy
from slice_ros.scheduling.scheduler import Scheduler
from slice_ros.scheduling.task import Task
from slice_ros.slo import BestEffort, OnMiss, Slo

RealTime = partial(slo.RealTime, on_miss=OnMiss.CONTINUE)
"""A real-time SLO of a goal that runs to its end, in time or not, so that a test sees when that is."""

CONTROL = RealTime(tpot_ms=50, deadline_s=1.5)
VOICE = BestEffort(ttft_ms=1000, tpot_ms=125)
QA = BestEffort(ttft_ms=1000, tpot_ms=100)

PAPER = LatencyModel("paper", tuple(ms / 1e3 for ms in (14, 27, 38, 50, 60, 72, 83, 125, 126, 123, 124, 125, 126, 123, 124)))
"""The published l(b), prompts for nothing."""


def a_task(
    goal_id: str, slo: Slo = CONTROL, *, order: int = 0, max_tokens: int = 25, prompt_tokens: int = 1, arrival_s: float = 0.0
) -> Task:
    return Task(goal_id, slo, "test", max_tokens, prompt_tokens, arrival_s, order)


def a_goal(goal_id: str, slo: Slo = QA, *, max_tokens: int = 8, prompt_tokens: int = 1, **fields: object) -> GoalRequest:
    return GoalRequest(goal_id, slo, max_tokens, prompt="x" * 4 * prompt_tokens, **fields)  # type: ignore[arg-type]


class StrictEngine(SimulatedEngine):
    """Computes only what a real engine could.

    Args:
        cells: KV cells that there really are, where ``context_tokens`` promises more.
    """

    def __init__(
        self, latency: LatencyModel, clock: VirtualClock, lengths: dict[str, Lengths] | None = None, *, cells: int = 0, **options: int
    ) -> None:
        super().__init__(latency, clock, lengths, **options)
        self._cells = cells or self.info.context_tokens

    def step(self, column: Column) -> list[Output]:
        assert 0 < len(column) <= self.info.max_sequences
        assert len({cell.goal_id for cell in column}) == len(column), "a goal takes part once"
        assert sum(max(1, cell.prompt_tokens) for cell in column) <= self.info.max_step_tokens
        for goal_id, prompt_tokens, *_ in column:
            sequence = self._sequences[goal_id]
            assert sequence.is_open
            assert 0 < prompt_tokens <= sequence.prompt_left or prompt_tokens == sequence.prompt_left == 0, "a prompt first, then decodes"
        if self.kv.used + sum(max(1, cell.prompt_tokens) for cell in column) > self._cells:
            raise KvFullError(f"{self.kv.used} of {self._cells} KV cells are used")
        return super().step(column)


class Bench:
    """A scheduler on a virtual clock, and what it said."""

    def __init__(
        self, policy: Policy | str = "orca", latency: LatencyModel = PAPER, lengths: dict[str, Lengths] | None = None, **engine: int
    ) -> None:
        self.clock = VirtualClock()
        self.engine = StrictEngine(latency, self.clock, lengths, **engine)
        self.events: list[object] = []
        self.scheduler = Scheduler(
            self.engine, make_policy(policy) if isinstance(policy, str) else policy, latency, self.events.extend, clock=self.clock
        )

    def submit(self, *goals: GoalRequest) -> None:
        for goal in goals:
            self.scheduler.submit(goal)

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.scheduler.turn()

    def drain(self, most: int = 10_000) -> None:
        """Serve until nothing is left to do."""
        for _ in range(most):
            if not self.scheduler.turn():
                return
        raise AssertionError(f"still busy after {most} turns")

    @property
    def ends(self) -> list[Finished]:
        return [event for event in self.events if isinstance(event, Finished)]

    def end(self, goal_id: str) -> Finished:
        (end,) = [end for end in self.ends if end.goal_id == goal_id]
        return end

    def tokens(self, goal_id: str) -> int:
        return sum(isinstance(event, Progress) and event.goal_id == goal_id for event in self.events)
