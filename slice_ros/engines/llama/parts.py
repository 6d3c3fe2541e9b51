"""Which tokens of a step llama.cpp computes together: on a GPU all of them, on a CPU prompts and decodes apart where that is quicker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slice_ros.engines.llama.config import LlamaConfig
from slice_ros.engines.llama.loading import is_on_cpu, weights_a_head
from slice_ros.engines.llama.memory import Memory

TILE = 64
"""Tokens that llama.cpp's flash attention computes at once on a CPU, where there are so many (its ``GGML_FA_TILE_Q``)."""
SLOWER = 4.0
"""Where there are fewer, each takes so many times as long for a cell, but has no others' cells to look at."""
WEIGHTS_A_PAIR = 68
"""Weights that are read while a head looks at a cell for one token of a tile (SmolLM2-135M on an AMD EPYC: 0.75 us for all heads, 5 ms for
all weights)."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """How attention goes through a step.

    Args:
        tokens: how many it computes at once, each with all cells that any of them looks back on.
        reading: what it costs to read the weights once more, in pairs of one of these tokens and a cell.
    """

    tokens: int
    reading: float

    def pairs(self, tokens: Sequence[int], cells: Sequence[int]) -> float:
        """What it looks at for cells that are computed together, in pairs of a token and a cell.

        Args:
            tokens: of each.
            cells: in the KV cache of each.
        """
        count = sum(tokens)
        if count >= self.tokens:
            return self.tokens * math.ceil(count / self.tokens) * float(count + sum(cells))
        return SLOWER * sum([own * (before + 0.5 * own) for own, before in zip(tokens, cells, strict=True)])


def tiles_of(config: LlamaConfig, model: Any, memory: Memory) -> Tiles | None:
    """How attention goes through a step; ``None`` where all of it is best computed together.

    A prompt's tokens look back on the same cells, and are quicker together. Decodes look back on different ones: beside a prompt, each of
    theirs may take as long as a whole tile's. A model of which a part cannot be taken back, where there is no room for the next, has none.
    """
    is_plain = config.flash_attn and config.type_k == config.type_v and config.type_k in ("f16", "f32")
    if not (is_plain and is_on_cpu(config, model) and memory.goes_on_anywhere):
        return None
    return Tiles(TILE, weights_a_head(model) / WEIGHTS_A_PAIR)


def parts_of(prompts: int, tokens: Sequence[int], cells: Sequence[int], tiles: Tiles) -> list[slice]:
    """The cells of a step in parts: all together, or its prompts, which come first, and then its decodes, fewer than a tile at a time.

    Args:
        prompts: how many of the cells are prompts.
        tokens: of each cell, with what is drafted.
        cells: in the KV cache of each.
    """
    whole = slice(0, len(tokens))
    if prompts == len(tokens) or sum(tokens) < tiles.tokens:
        return [whole]
    begins, size = [prompts], 0
    for cell, count in enumerate(tokens[prompts:], prompts):
        if size and size + count >= tiles.tokens:
            begins.append(cell)
            size = 0
        size += count
    if prompts:
        begins.insert(0, 0)
    parts = [slice(begin, end) for begin, end in zip(begins, [*begins[1:], len(tokens)], strict=True)]
    apart = sum([tiles.pairs(tokens[part], cells[part]) for part in parts]) + tiles.reading * (len(parts) - 1)
    return parts if apart < tiles.pairs(tokens, cells) else [whole]
