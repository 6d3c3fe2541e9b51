"""What drafts bring on the demo's traffic and on a patrol's: steps, guesses that were right, and time, by label.

    python benchmarks/drafts.py
    python benchmarks/drafts.py --device benchmarks/devices/cpu-saw-tooth.yaml
    python benchmarks/drafts.py --model SmolLM2-135M-Instruct.Q4_1.gguf --step-times

The tokens are the model's; time is a device profile's, on a virtual clock, so that the figures are the same on any machine. The demo is one
tour of the robot, with people who ask it things; the patrol is the same tour again and again, with other questions.

With ``--step-times``, how long steps with drafts take here, beside steps with as many goals: the latency model takes them for alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.table import Table

from slice_ros.demo.language import CONTROL_PHRASES
from slice_ros.demo.traffic import ASKED, CONTROL_PERIOD_S, KINDS, TOUR_LIMIT_S, questions
from slice_ros.demo.world import World, make_floor
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.shapes import default_model_path
from slice_ros.engines.paced import PacedEngine
from slice_ros.goal import ChatMessage, GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, Column
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.drafts import MAX_DRAFT
from slice_ros.scheduling.engine import Output
from slice_ros.scheduling.events import Event, Finished
from slice_ros.scheduling.policies import make_policy
from slice_ros.scheduling.scheduler import Scheduler
from slice_ros.slo import BestEffort

TICK_S = 0.02
WIDTHS = (1, 2, 4, 8)
BOUNDS = ("ttft_s", "tpot_s", "deadline_s")


@dataclass
class Counts:
    """Of one label."""

    goals: int = 0
    attained: int = 0
    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    right: int = 0
    e2e_s: list[float] = field(default_factory=list)


class Virtual(PacedEngine):
    """Real tokens, and the time of a latency model on a virtual clock; counts drafts."""

    def __init__(self, inner: LlamaEngine, latency: LatencyModel, clock: VirtualClock, kinds: dict[str, str]) -> None:
        super().__init__(inner, latency, now=clock.now, sleep=clock.advance)
        self.counts: defaultdict[str, Counts] = defaultdict(Counts)
        self._kinds = kinds

    def step(self, column: Column) -> list[Output]:
        outputs = super().step(column)
        for cell in column:
            self.counts[self._kinds[cell.goal_id]].drafted += cell.drafted
        for output in outputs:
            self.counts[self._kinds[output.goal_id]].right += output.right
        return outputs


class Run:
    """Tours one after the other, each with a floor, and with questions of its own.

    Args:
        max_draft: tokens guessed ahead at most; 0 = none.
    """

    def __init__(self, inner: LlamaEngine, latency: LatencyModel, *, max_draft: int, chat: bool, bounds_scale: float) -> None:
        self._kinds: dict[str, str] = {}
        self._clock = VirtualClock()
        self._engine = Virtual(inner, latency, self._clock, self._kinds)
        self._scheduler = Scheduler(self._engine, make_policy("slack"), latency, self._hear, clock=self._clock, max_draft=max_draft)
        self._chat = chat
        self._scale = bounds_scale
        self._ended: dict[str, Finished] = {}
        self.bumps = 0

    @property
    def counts(self) -> dict[str, Counts]:
        return self._engine.counts

    def tour(self, seed: int, question_seed: int) -> None:
        floor = make_floor(seed)
        world, start_s, asked_s, leg_asked = World(floor), self._clock.now(), 0.0, -1
        seats = len(floor.seats)
        trace = sorted(
            (question.at_s, label, question.example.prompt)
            for label in ASKED
            for question in questions(label, seed=question_seed, seats=seats)
        )
        commands, ways = {}, set()
        while not world.finished and world.time_s < TOUR_LIMIT_S:
            now_s = self._clock.now() - start_s
            world.advance(now_s - world.time_s)
            while trace and trace[0][0] <= now_s:
                self._ask(*trace.pop(0)[1:])
            if not world.is_driving and leg_asked == world.leg and not world.finished:
                leg_asked += 1
                ways.add(self._ask("navigation", floor.order(leg_asked)))
            if now_s >= asked_s:
                asked_s += CONTROL_PERIOD_S
                sight = world.sight()
                phrase = CONTROL_PHRASES[0].format(distance=sight.distance_dm / 10, side=sight.side, speed=sight.speed_dm / 10)
                commands[self._ask("control", phrase)] = sight.right_command
            if not self._scheduler.turn():
                self._clock.advance(TICK_S)
            for goal_id in list(self._ended):
                del self._ended[goal_id]
                if goal_id in commands:
                    world.obey(commands.pop(goal_id))  # what matters is when it comes
                elif goal_id in ways:
                    world.set_off()
        self.bumps += world.bumps
        while self._scheduler.turn():
            pass
        self._ended.clear()

    def _ask(self, label: str, prompt: str) -> str:
        kind, goal_id = KINDS[label], str(len(self._kinds))
        self._kinds[goal_id] = label
        asked = {"messages": (ChatMessage("user", prompt),)} if self._chat else {"prompt": prompt}
        schema = kind.json_schema if isinstance(kind.json_schema, str) else json.dumps(kind.json_schema)
        bounds = {name: self._scale * bound for name in BOUNDS if (bound := getattr(kind.slo, name)) is not None}
        slo = replace(kind.slo, **bounds)
        self._scheduler.submit(
            GoalRequest(goal_id, slo, kind.max_tokens, submitted_s=self._clock.now(), label=label, json_schema=schema, **asked)
        )
        return goal_id

    def _hear(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Finished):
                self._ended[event.goal_id] = event
                report, counts = event.report, self.counts[self._kinds[event.goal_id]]
                counts.goals += 1
                counts.attained += report.attained
                counts.tokens += report.output_tokens
                counts.steps += report.steps
                counts.e2e_s.append(report.e2e_s)


class Wrong:
    """Guesses what nobody says."""

    def learn(self, kind: str, tokens: array[int], prompt_tokens: int) -> None: ...

    def guess(self, _kind: str, _tokens: array[int], most: int) -> array[int]:
        return array("i", [0] * most)


def timed_steps(engine: LlamaEngine, number: int) -> Iterator[tuple[int, bool, float]]:
    """Of new goals, until one of them ends: how many rows, whether they are one goal's draft, and the time of the step."""
    goal_ids = [f"{number} {i}" for i in range(WIDTHS[-1])]
    for goal_id in goal_ids:
        request = GoalRequest(goal_id, BestEffort(), 64, prompt=f"{goal_id} The robot drives to the dock and waits.")
        engine.step((Cell(goal_id, engine.prepare(request) - engine.open(goal_id)),))
    for width, is_draft in product(WIDTHS, (False, True)):
        drafted = engine.draft(goal_ids[0], width - 1) if is_draft else 0
        column = tuple(Cell(goal_id, drafted=drafted) for goal_id in goal_ids[: 1 if is_draft else width])
        began_s = time.perf_counter()
        outputs = engine.step(column)
        yield width, is_draft, time.perf_counter() - began_s
        if any(output.finish for output in outputs):
            break
    for goal_id in goal_ids:
        engine.close(goal_id)


def step_times(engine: LlamaEngine, repeats: int) -> Table:
    """Steps of n goals, and of one goal with n - 1 tokens drafted, in turns."""
    engine._habits = Wrong()  # type: ignore[assignment]
    taken_s: defaultdict[tuple[int, bool], list[float]] = defaultdict(list)
    for number in range(repeats):
        for width, is_draft, step_s in timed_steps(engine, number):
            taken_s[width, is_draft].append(step_s)
    table = Table(title=f"{engine.info.model} on {engine.info.device}, medians of {repeats}")
    for column_name in ("n", "n goals", "n - 1 drafted", "ratio"):
        table.add_column(column_name, justify="right")
    for width in WIDTHS:
        rows_s, draft_s = (statistics.median(taken_s[width, is_draft]) for is_draft in (False, True))
        table.add_row(str(width), f"{1e3 * rows_s:.1f} ms", f"{1e3 * draft_s:.1f} ms", f"{draft_s / rows_s:.2f}")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="GGUF file; the default model without one")
    parser.add_argument("--device", default="h200-chatglm2-6b-q4_0", help="whose step times: a profile's name or file")
    parser.add_argument("--threads", type=int, default=0, help="threads of llama.cpp; 0 = the physical cores")
    parser.add_argument("--chat", action="store_true", help="ask in messages, with the model's chat template")
    parser.add_argument("--seed", type=int, default=0, help="of the floor and of the questions")
    parser.add_argument("--laps", type=int, default=4, help="tours of a patrol")
    parser.add_argument("--bounds-scale", type=float, default=1.0, help="all bounds of the SLOs times this")
    parser.add_argument("--step-times", type=int, nargs="?", const=40, metavar="N", help="measure these instead, N times (default: 40)")
    arguments = parser.parse_args(argv)
    if arguments.step_times:
        config = LlamaConfig(arguments.model or default_model_path(), n_ctx=4096, n_threads=arguments.threads, n_gpu_layers=0)
        Console().print(step_times(LlamaEngine(config), arguments.step_times))
        return
    latency = LatencyModel.profile(arguments.device)
    model = arguments.model or default_model_path()
    console = Console(width=140)
    for name, laps in (("demo", 1), ("patrol", arguments.laps)):
        runs = {}
        for max_draft in (0, MAX_DRAFT):
            inner = LlamaEngine(LlamaConfig(model, n_ctx=8192, n_threads=arguments.threads, n_gpu_layers=0))
            run = Run(inner, latency, max_draft=max_draft, chat=arguments.chat, bounds_scale=arguments.bounds_scale)
            for lap in range(laps):
                run.tour(arguments.seed, arguments.seed + lap)
            runs[max_draft] = run
            inner.shutdown()
        before, after = runs[0], runs[MAX_DRAFT]
        table = Table(title=f"{name}: {model.name}, steps as of {latency.device}; without drafts, with")
        for column in ("label", "goals", "attained", "", "tokens/step", "", "drafted/goal", "right", "end, mean", "", "ratio"):
            table.add_column(column, justify="left" if column == "label" else "right")
        for label in KINDS:
            old, new = before.counts[label], after.counts[label]
            old_s, new_s = (statistics.fmean(counts.e2e_s) for counts in (old, new))
            table.add_row(
                label, str(new.goals), f"{old.attained / old.goals:.3f}", f"{new.attained / new.goals:.3f}",
                f"{old.tokens / old.steps:.2f}", f"{new.tokens / new.steps:.2f}", f"{new.drafted / new.goals:.1f}",
                f"{new.right / new.drafted:.2f}" if new.drafted else "-", f"{1e3 * old_s:.0f} ms", f"{1e3 * new_s:.0f} ms",
                f"{new_s / old_s:.2f}",
            )  # fmt: skip
        console.print(table)
        console.print(f"bumps: {before.bumps}, {after.bumps}")


if __name__ == "__main__":
    main()
