"""How much of the KV cache is worth keeping for goals that may begin alike."""

from __future__ import annotations

from typing import Any

from slice_ros.engines.llama.config import LlamaConfig
from slice_ros.engines.llama.loading import is_on_cpu, weights_a_head
from slice_ros.engines.llama.memory import Memory

WEIGHTS_A_CELL = 280
"""On a CPU, a head passes over a cell that is not its sequence's in the time of so many weights (SmolLM2-135M on an AMD EPYC: 0.54 us for
all heads, 0.97 ms for all weights)."""
SHARE = 0.25
"""Each token of a prompt may take this share longer for cells that nobody has asked for yet; ..."""
LEAST = 512
"""... but so many are kept in any case."""


def most_unwanted(config: LlamaConfig, model: Any, memory: Memory) -> int:
    """Cells that may be kept of what no other goal has begun with yet.

    Every token passes over all cells in use, its own or not. On a GPU that is next to nothing; on a CPU, with a small model, as many cells
    as may be kept would make short prompts half as long again. What others have asked for, or a session, is kept all the same; so is all
    of a model that cannot go on from anywhere, whose checkpoints wait for others to part there.
    """
    if not (is_on_cpu(config, model) and memory.goes_on_anywhere):
        return config.prefix_cache
    return min(config.prefix_cache, max(LEAST, int(SHARE * weights_a_head(model) / WEIGHTS_A_CELL)))
