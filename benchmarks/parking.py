"""How long it takes to copy a goal's KV to host memory and back, against computing it again.

Run with ``python benchmarks/parking.py [--model x.gguf]``; prints one row per prompt length, each a median.
"""

from __future__ import annotations

import argparse
import random
import string
import time
from pathlib import Path
from statistics import median

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.shapes import default_model_path
from slice_ros.goal import GoalRequest
from slice_ros.mask import Cell
from slice_ros.slo import BestEffort

LENGTHS = (256, 1024, 4096)


def compute(engine: LlamaEngine, left: int) -> float:
    """Seconds to compute so many tokens of the goal."""
    began = time.monotonic()
    while left > 0:
        chunk = min(left, engine.info.max_step_tokens)
        engine.step((Cell("goal", chunk),))
        left -= chunk
    return time.monotonic() - began


def measure(engine: LlamaEngine, length: int) -> tuple[int, float, float, float]:
    """Bytes, and seconds to copy them out, back, and to compute them again."""
    prompt = "".join(random.Random(length).choices(string.ascii_lowercase + " ", k=length))
    left = engine.prepare(GoalRequest("goal", BestEffort(), 16, prompt=prompt))
    engine.open("goal")
    computing_s = compute(engine, left)
    began = time.monotonic()
    engine.evict("goal")
    evicted = time.monotonic()
    engine.open("goal")
    opened = time.monotonic()
    size = engine.kv.parked_bytes
    engine.close("goal")
    return size, evicted - began, opened - evicted, computing_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=None, help="GGUF file; the default model without one")
    parser.add_argument("--threads", type=int, default=0, help="threads of llama.cpp; 0 = the physical cores")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    model = arguments.model or default_model_path()
    engine = LlamaEngine(LlamaConfig(model, n_ctx=8192, n_threads=arguments.threads, prefix_cache=0, host_cache_mib=1 << 14))
    print(f"{engine.info.model} on {engine.info.device}")
    for length in LENGTHS:
        rows = [measure(engine, length) for _ in range(arguments.repeats)]
        size, out_s, back_s, computing_s = (median(column) for column in zip(*rows, strict=True))
        rate = size / out_s / 1e9, size / back_s / 1e9
        print(
            f"{length} characters, {size / 2**20:.1f} MiB: out {out_s * 1e3:.1f} ms ({rate[0]:.1f} GB/s), "
            f"back {back_s * 1e3:.1f} ms ({rate[1]:.1f} GB/s), computed again {computing_s * 1e3:.0f} ms"
        )
    engine.shutdown()


if __name__ == "__main__":
    main()
