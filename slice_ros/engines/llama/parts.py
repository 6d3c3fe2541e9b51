"""Which tokens of a step llama.cpp computes together: on a GPU all of them, on a CPU prompts and decodes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slice_ros.engines.llama.config import LlamaConfig
from slice_ros.engines.llama.loading import is_on_cpu
from slice_ros.engines.llama.memory import Memory

TILE = 64
"""Tokens that llama.cpp's flash attention computes at once on a CPU, where there are so many (its ``GGML_FA_TILE_Q``)."""


def tile_of(config: LlamaConfig, model: Any, memory: Memory) -> int:
    """Of how many tokens on a part has all of them look at what any of them looks back on; 0 where there is no such number.

    A prompt's tokens look back on the same cells, and are quicker together. Decodes look back on different ones: beside a prompt, each of
    theirs takes as long as 64. Models of which a part cannot be taken back, when there is no room for the next one, have none.
    """
    is_plain = config.flash_attn and config.type_k == config.type_v and config.type_k in ("f16", "f32")
    return TILE if is_plain and is_on_cpu(config, model) and memory.goes_on_anywhere else 0


def parts_of(prompts: int, tokens: Sequence[int], tile: int) -> list[slice]:
    """The cells of a step in parts: its prompts, which come first, then its decodes, as many together as have fewer tokens than a tile.

    Args:
        prompts: how many of the cells are prompts.
        tokens: of each cell, with what is drafted.
        tile: as in :func:`tile_of`, above 0.
    """
    if prompts == len(tokens) or sum(tokens) < tile:
        return [slice(0, len(tokens))]
    begins, size = [prompts], 0
    for cell, count in enumerate(tokens[prompts:], prompts):
        if size and size + count >= tile:
            begins.append(cell)
            size = 0
        size += count
    if prompts:
        begins.insert(0, 0)
    return [slice(begin, end) for begin, end in zip(begins, [*begins[1:], len(tokens)], strict=True)]
