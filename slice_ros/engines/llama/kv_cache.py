"""The KV cache of a context: sequences for open goals, and what is kept of others for as long as nobody needs the cells."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import llama_cpp

from slice_ros.engines.llama.cells import Cells
from slice_ros.engines.llama.prefixes import Prefixes


class Worth(IntEnum):
    """What a kept sequence is good for; the lower gives way first, and among equals the one not used for longest."""

    PREFIX = 0
    """Its beginning may come again."""
    SESSION = 1
    """A session that will probably go on."""
    PAUSED = 2
    """A goal that will certainly go on."""


@dataclass(slots=True)
class _Kept:
    owner: str
    worth: Worth
    used_at: int


class KvCache:
    """Sequences of the unified cache. One that is kept gives way at once where an open one needs its id or its cells, from its end on.

    Args:
        context: llama.cpp's context; its memory holds nothing.
        sequences: how many may hold cells at once.
        most_kept: cells that no open sequence holds, at most; 0 keeps nothing and shares nothing.
    """

    def __init__(self, context: Any, sequences: int, most_kept: int) -> None:
        self._memory = llama_cpp.llama_get_memory(context)
        self.total: int = llama_cpp.llama_n_ctx(context)
        self.version = 0
        """Another one means that other prefixes may be found."""
        self._most_kept = most_kept
        self._free = deque(range(sequences))
        self._open: set[int] = set()
        self._kept: dict[int, _Kept] = {}
        self._cells = Cells()
        self._prefixes = Prefixes()
        self._clock = 0

    @property
    def used(self) -> int:
        """Cells that open sequences hold, a shared one counted once."""
        return self.held(self._open)

    def held(self, sequences: Collection[int]) -> int:
        """Cells that any of these sequences holds, a shared one counted once."""
        return self._cells.held(sequences)

    @property
    def kept(self) -> int:
        """Cells that only kept sequences hold."""
        return self._cells.used - self.used

    def acquire(self, tokens: array[int]) -> int | None:
        """An open sequence for these tokens, which holds none of them yet; ``None`` if all are open."""
        if not self._free and self._kept:
            source, _ = self._prefixes.longest(tokens)
            self._release(min(self._kept.keys() - {source} or self._kept, key=self._rank))
        if not self._free:
            return None
        sequence = self._free.popleft()
        self._open.add(sequence)
        return sequence

    def longest(self, tokens: array[int]) -> int:
        """How many tokens at the beginning of a row are held by some sequence; always fewer than all, so that one is left to compute."""
        return min(self._prefixes.longest(tokens)[1], len(tokens) - 1)

    def adopt(self, sequence: int, tokens: array[int]) -> int:
        """Let an open sequence share the cells of the one that has most of these tokens.

        Args:
            tokens: it holds cells of none or more of them.

        Returns:
            How many it holds cells of now; never fewer than before, and never all.
        """
        source, count = self._prefixes.longest(tokens)
        count = min(count, len(tokens) - 1)
        if count <= self._cells.length(sequence):
            return self._cells.length(sequence)
        self._cut(sequence, self._cells.length(sequence))
        llama_cpp.llama_memory_seq_cp(self._memory, source, sequence, 0, count)
        self._cells.share(source, sequence, count)
        self._touch(source)
        return count

    def make_room(self, count: int) -> bool:
        """Have so many cells free, if need be at the cost of kept sequences; false if even so there are fewer."""
        self._give_way(count - (self.total - self._cells.used))
        return self.total - self._cells.used >= count

    def grow(self, sequence: int, count: int) -> None:
        """A step has computed so many cells of an open sequence."""
        self._cells.grow(sequence, count)

    def offer(self, sequence: int, tokens: array[int]) -> None:
        """Let others share the cells of an open sequence, which are those of these tokens."""
        if self._most_kept:
            self._prefixes.put(sequence, tokens)
            self.version += 1

    def keep(self, sequence: int, tokens: array[int], owner: str, worth: Worth) -> None:
        """Close an open sequence and keep its cells, which are those of these tokens, in place of what is kept of the same owner."""
        self._open.discard(sequence)
        self.forget(owner)
        self._prefixes.drop(sequence)
        holder, count = self._prefixes.longest(tokens)
        if count == len(tokens) or not self._most_kept:
            self._touch(holder)  # nothing but a copy, or of no use
            self._release(sequence)
        else:
            self._prefixes.put(sequence, tokens)
            self._kept[sequence] = _Kept(owner, worth, 0)
            self._touch(sequence)
        self._give_way(self.kept - self._most_kept)
        self.version += 1

    def forget(self, owner: str) -> None:
        """Release what is kept of an owner; ``""`` owns nothing."""
        for sequence in [sequence for sequence, kept in self._kept.items() if owner and kept.owner == owner]:
            self._release(sequence)

    def forget_all(self) -> None:
        """Release everything that is kept."""
        for sequence in list(self._kept):
            self._release(sequence)

    def _touch(self, sequence: int) -> None:
        if sequence in self._kept:
            self._clock += 1
            self._kept[sequence].used_at = self._clock

    def _rank(self, sequence: int) -> tuple[Worth, int]:
        """The kept sequence that has the lowest gives way first."""
        kept = self._kept[sequence]
        return kept.worth, kept.used_at

    def _give_way(self, count: int) -> None:
        """Free so many cells, or all that only kept sequences hold."""
        least = self._cells.used - count
        while self._kept and self._cells.used > least:
            order = sorted(self._kept, key=self._rank)
            # Those whose cells all have other holders cost nothing, unless they are each other's.
            sequence = next((sequence for sequence in order if self._cells.alone(sequence)), order[0])
            alone = self._cells.alone(sequence)
            if alone <= self._cells.used - least:
                self._release(sequence)
            else:
                self._cut(sequence, self._cells.used - least)

    def _cut(self, sequence: int, count: int) -> None:
        """Take so many cells from a sequence's end."""
        length = self._cells.length(sequence) - count
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1)
        self._cells.cut(sequence, count)
        self._prefixes.cut(sequence, length)
        self.version += 1

    def _release(self, sequence: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._cells.cut(sequence, self._cells.length(sequence))
        self._prefixes.drop(sequence)
        self._open.discard(sequence)
        self._kept.pop(sequence, None)
        self._free.append(sequence)
        self.version += 1
