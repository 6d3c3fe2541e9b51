"""How many seeded goals get another text beside 15 others than alone: a model of random weights, two blocks of Qwen2.5-0.5B's shape.

python benchmarks/repeatability.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama import shapes as models
from slice_ros.goal import GoalRequest, Sampling
from slice_ros.mask import Cell
from slice_ros.slo import Slo

GOALS = 64
AT_ONCE = 16
TOKENS = 24
SHAPE = replace(models.SHAPES["qwen2.5-0.5b"], vocab_size=2048, block_count=2, feed_forward_length=1024)
TEXT = "Where is the charging station? Drive two metres back, turn left and wait for the door to open. "


def texts(engine: LlamaEngine, numbers: Sequence[int], temperature: float) -> dict[str, str]:
    """What these goals get when they run together."""
    outputs = []
    for number in numbers:
        request = GoalRequest(str(number), Slo(), TOKENS, prompt=TEXT[number:][:20], sampling=Sampling(temperature, seed=number + 1))
        tokens = engine.prepare(request)
        outputs += engine.step((Cell(request.goal_id, tokens - engine.open(request.goal_id)),))
    collected = dict.fromkeys(map(str, numbers), "")
    while outputs:
        for output in outputs:
            collected[output.goal_id] += output.text
        outputs = engine.step(tuple(Cell(output.goal_id) for output in outputs if output.finish is None))
    for goal_id in collected:
        engine.close(goal_id)
    return collected


def main() -> None:
    print("weights  temperature  other text beside 15 others  other text alone again")
    for quantization in ("f32", "f16", "q8_0", "q4_0"):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model.gguf"
            models.make_model(SHAPE, path, quantization)
            engine = LlamaEngine(LlamaConfig(path, n_ctx=4096, n_threads=1, prefix_cache=0))
            for temperature in (0.0, 0.8):
                alone, again, beside = ({} for _ in range(3))
                for number in range(GOALS):
                    alone |= texts(engine, [number], temperature)
                    again |= texts(engine, [number], temperature)
                for first in range(0, GOALS, AT_ONCE):
                    beside |= texts(engine, range(first, first + AT_ONCE), temperature)
                others = [sum(alone[goal_id] != run[goal_id] for goal_id in alone) for run in (beside, again)]
                print(f"{quantization:7}  {temperature:11}  {others[0]:15} of {GOALS}  {others[1]:15} of {GOALS}")
            engine.shutdown()


if __name__ == "__main__":
    main()
