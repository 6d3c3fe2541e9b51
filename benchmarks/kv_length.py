"""How long steps take by the length of what is in the KV cache, and what was predicted, per architecture.

Run with ``python benchmarks/kv_length.py [--shapes lfm2-350m,...]``; models have random weights of those public shapes. Step times are
calibrated as for a server first; then one prompt after the other is computed in chunks and decodes, each alone in its steps.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from statistics import median

from engine import shaped_model

from slice_ros.engines.calibration import measure_latency
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell
from slice_ros.slo import BestEffort

LENGTHS = (128, 512, 1024, 2048, 4096)
CHUNK, DECODES = 128, 9


def measure(engine: LlamaEngine, latency: LatencyModel, prompts: int) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Of each kind of step and KV length, the times that steps were predicted to take and took, s."""
    seen: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)

    def step(kind: str, about: int, cell: Cell, kv_tokens: int) -> None:
        began_s = time.monotonic()
        engine.step((cell,))
        seen[kind, about].append((latency.column_s((cell,), [kv_tokens]), time.monotonic() - began_s))

    for number in range(prompts):
        for length in LENGTHS:
            goal_id = f"{number} {length}"
            engine.prepare(GoalRequest(goal_id, BestEffort(), DECODES + 1, prompt=(goal_id + "x" * length)[: length + 1]))
            engine.open(goal_id)
            for computed in range(0, length, CHUNK):
                step("chunk", computed, Cell(goal_id, CHUNK), computed)
            for decoded in range(DECODES):
                step("decode", length, Cell(goal_id), length + decoded)
            engine.close(goal_id)
            engine.forget()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="lfm2-350m,gemma-3-270m,mamba2-130m,smollm2-135m")
    parser.add_argument("--threads", type=int, default=0, help="threads of llama.cpp; 0 = the physical cores")
    parser.add_argument("--prompts", type=int, default=2, help="of each length")
    parser.add_argument("--small-windows", action="store_true", help="swa_full off")
    arguments = parser.parse_args()
    for shape in arguments.shapes.split(","):
        config = LlamaConfig(
            shaped_model(shape, "q4_0"), n_ctx=8192, n_seq_max=8, n_threads=arguments.threads, swa_full=not arguments.small_windows
        )
        engine = LlamaEngine(config)
        latency = measure_latency(engine, max_batch=4)
        print(latency.to_yaml(shape), end="")
        for (kind, kv_tokens), pairs in sorted(measure(engine, latency, arguments.prompts).items()):
            if kind == "decode" or kv_tokens in (0, *LENGTHS[1:-1], LENGTHS[-1] - CHUNK):
                taken_ms = sorted(1e3 * taken_s for _, taken_s in pairs)
                ratio = median(predicted_s / taken_s for predicted_s, taken_s in pairs)
                low, mid, high = taken_ms[0], median(taken_ms), taken_ms[-1]
                print(f"  {kind} at {kv_tokens}: {mid:.1f} ms ({low:.1f} to {high:.1f}) of {len(taken_ms)}", end=", ")
                print(f"predicted / measured {ratio:.2f}")
        engine.shutdown()


if __name__ == "__main__":
    main()
