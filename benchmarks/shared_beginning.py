"""How much sooner the first token comes where another goal had the same beginning, per architecture, and what memory that takes.

Run with ``python benchmarks/shared_beginning.py [--shapes lfm2-350m,...]``; models have random weights of those public shapes. The
first goal computes its whole prompt, the second what its memory cannot share, the third what it has of its own.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import llama_cpp
from engine import shaped_model

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.goal import GoalRequest
from slice_ros.mask import Cell
from slice_ros.slo import BestEffort

BEGINNING = ("You drive a robot in a warehouse. Answer with one command: go, stop, turn left, turn right, dock. " * 5)[:400]
ENDS = (" A pallet is ahead, 0.6 m.", " Nothing is ahead of you.", " Somebody waves at you.")
OTHERS = ("lfm2-350m", "granite-4.0-h-350m", "mamba2-130m", "gemma-3-270m", "smollm2-135m")


def first_token(engine: LlamaEngine, goal_id: str, end: str) -> tuple[float, int]:
    """Seconds to the first token of a goal that is alone, and how many prompt tokens were computed."""
    left = engine.prepare(GoalRequest(goal_id, BestEffort(), 4, prompt=BEGINNING + end))
    began = time.monotonic()
    left = computed = left - engine.open(goal_id)
    while left:
        chunk = engine.stride(goal_id, min(left, engine.info.max_step_tokens))
        engine.step((Cell(goal_id, chunk),))
        left -= chunk
    taken_s = time.monotonic() - began
    engine.close(goal_id)
    return taken_s, computed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default=",".join(OTHERS))
    parser.add_argument("--threads", type=int, default=0, help="threads of llama.cpp; 0 = the physical cores")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small-windows", action="store_true", help="swa_full off")
    arguments = parser.parse_args()
    for shape in arguments.shapes.split(","):
        config = LlamaConfig(
            shaped_model(shape, "q4_0"), n_ctx=4096, n_seq_max=16, n_threads=arguments.threads, swa_full=not arguments.small_windows
        )
        engine = LlamaEngine(config)
        rows = []
        for repeat in range(arguments.repeats):
            engine.forget()
            rows.append([first_token(engine, f"{repeat} {i}", end) for i, end in enumerate(ENDS)])
        engine.prepare(GoalRequest("state", BestEffort(), 4, prompt="x"))
        engine.open("state")
        engine.step((Cell("state", 1),))
        state = llama_cpp.llama_state_seq_get_size(engine._context, engine._goals["state"].sequence or 0)
        print(f"{shape}: a sequence of one token has {state / 2**20:.2f} MiB")
        for i, name in enumerate(("first", "second", "third")):
            times_s = sorted(row[i][0] for row in rows)
            low, mid, high = times_s[0], median(times_s), times_s[-1]
            print(f"  {name}: {rows[0][i][1]} tokens computed, {mid * 1e3:.0f} ms ({low * 1e3:.0f} to {high * 1e3:.0f})")
        engine.shutdown()


if __name__ == "__main__":
    main()
