"""What a step with prompt tokens takes on a CPU: beside decodes, in one part and in two, and beside cells that are kept of other goals.

    python benchmarks/parts.py --shape smollm2-135m --threads 1

Times are medians, each way in turns.
"""

from __future__ import annotations

import argparse
import random
import string
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from engine import shaped_model
from rich.console import Console
from rich.table import Table

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.architectures import SHAPES
from slice_ros.engines.llama.parts import Tiles
from slice_ros.goal import GoalRequest
from slice_ros.mask import Cell, Column
from slice_ros.slo import BestEffort

CONTEXT = 16384
DECODES = (1, 3, 7, 15)
CHUNKS = (16, 32, 48, 60, 64, 128)
KEPT = (0, 1000, 2000)
DECODE_KV = (80, 220)
"""KV tokens of the goals that decode, from and to."""
KEPT_TOKENS = 200
"""Of each goal that is kept."""
MAX_TOKENS = 4096
FURTHER = 8
"""Tokens of a prompt that are not computed, so that no answer begins."""


class Probe:
    """An engine, goals with random letters for prompts, and the time of a step."""

    def __init__(self, path: Path, threads: int) -> None:
        self.engine = LlamaEngine(LlamaConfig(path, n_ctx=CONTEXT, n_threads=threads, n_gpu_layers=0, prefix_cache=0))
        self.tiles = self.engine._tiles
        self._rng = random.Random(0)
        self._goals = 0

    def begin(self, tokens: int) -> tuple[str, int]:
        """An open goal, and how many prompt tokens it has: about so many."""
        self._goals += 1
        goal_id = f"goal {self._goals}"
        text = "".join(self._rng.choices(string.ascii_lowercase + " ", k=tokens))
        return goal_id, self.engine.prepare(GoalRequest(goal_id, BestEffort(), MAX_TOKENS, prompt=text)) - self.engine.open(goal_id)

    def decoding(self, tokens: int) -> str:
        """A goal that decodes."""
        goal_id, left = self.begin(tokens)
        while left:
            count = min(left, 256)
            self.engine.step((Cell(goal_id, count),))
            left -= count
        return goal_id

    def chunk_ms(self, tokens: int, decodes: Sequence[str] = ()) -> float:
        """How long a step takes with so many tokens of a new prompt, and these decodes."""
        goal_id, _ = self.begin(tokens + FURTHER)
        taken_ms = self.step_ms((*(Cell(decode) for decode in decodes), Cell(goal_id, tokens)))
        self.engine.close(goal_id)
        return taken_ms

    def step_ms(self, column: Column) -> float:
        began_s = time.monotonic()
        self.engine.step(column)
        return 1e3 * (time.monotonic() - began_s)


def beside_decodes(probe: Probe, repeats: int) -> Table:
    """In one part, and in parts, of each number of decodes and prompt tokens."""
    first, last = DECODE_KV
    goals = [probe.decoding(first + (last - first) * i // DECODES[-1]) for i in range(DECODES[-1])]
    table = Table("decodes", *(f"{tokens} prompt tokens" for tokens in CHUNKS), title="a step, ms: in one part, in parts")
    for decodes in DECODES:
        cells = []
        for tokens in CHUNKS:
            taken_ms: dict[Tiles | None, list[float]] = {None: [], probe.tiles: []}
            for _ in range(repeats):
                for probe.engine._tiles, values in taken_ms.items():
                    values.append(probe.chunk_ms(tokens, goals[:decodes]))
            cells.append(", ".join(f"{median(values):.0f}" for values in taken_ms.values()))
        table.add_row(str(decodes), *cells)
    for goal_id in goals:
        probe.engine.close(goal_id)
    return table


def beside_kept(probe: Probe, repeats: int) -> Table:
    """With so many cells in use that are no part of the step."""
    table = Table("kept cells", "a decode", *(f"{tokens} prompt tokens" for tokens in CHUNKS), title="a step, ms")
    for cells in KEPT:
        while probe.engine.kv.used < cells:
            probe.decoding(KEPT_TOKENS)
        goal_id = probe.decoding(DECODE_KV[0])
        taken_ms = [[probe.step_ms((Cell(goal_id),))] + [probe.chunk_ms(tokens) for tokens in CHUNKS] for _ in range(repeats)]
        probe.engine.close(goal_id)
        table.add_row(str(cells), *(f"{median(values):.1f}" for values in zip(*taken_ms, strict=True)))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", type=Path, metavar="PATH", help="GGUF file")
    model.add_argument("--shape", choices=sorted(SHAPES), default="smollm2-135m", help="a model of that public shape with random weights")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of llama.cpp; 0 = the physical cores (default)")
    parser.add_argument("--repeat", type=int, default=7, metavar="N", help="steps of each kind (default: %(default)s)")
    arguments = parser.parse_args()
    probe = Probe(arguments.model or shaped_model(arguments.shape, "q4_0"), arguments.threads)
    console = Console()
    if probe.tiles:
        console.print(beside_decodes(probe, arguments.repeat))
    else:
        print("parts: this model has none", file=sys.stderr)
    console.print(beside_kept(probe, arguments.repeat))
    probe.engine.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
