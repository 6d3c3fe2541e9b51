"""The KV cache of a context: sequences for open goals, and what is kept of others for as long as nobody needs the cells."""

from __future__ import annotations

import ctypes
from array import array
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from operator import itemgetter
from typing import Any

import llama_cpp

from slice_ros.engines.llama.cells import Cells
from slice_ros.engines.llama.memory import Memory
from slice_ros.engines.llama.prefixes import Prefixes

LEAST_SHARED = 16
"""A checkpoint is worth a sequence, and a step that ends there, if it saves so many tokens; who asks for so many wants them kept."""


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

    Where a sequence soon goes on from its end alone, others share what it had when a copy of it was kept: a checkpoint. llama.cpp copies a
    state when the first of its holders goes on, as part of that step.

    Args:
        context: llama.cpp's context; its memory holds nothing.
        sequences: how many may hold cells at once.
        most_kept: cells that no open sequence holds, at most; 0 keeps nothing and shares nothing.
        most_unwanted: of these, cells that nobody has asked for yet, at most.
        memory: what sequences can go on from.
        checkpoint_tokens: where it needs them, a checkpoint of prompts is kept after so many; 0 = none.
    """

    def __init__(self, context: Any, sequences: int, most_kept: int, most_unwanted: int, memory: Memory, checkpoint_tokens: int) -> None:
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._kind = memory
        self._checkpoint_tokens = checkpoint_tokens if most_kept and memory.needs_checkpoints else 0
        self._checkpoints: dict[int, tuple[int, int]] = {}  # of each open sequence, where the latest is and where the next is due
        self.total: int = llama_cpp.llama_n_ctx(context)
        self.version = 0
        """Another one means that other prefixes may be found."""
        self._most_kept, self._most_unwanted = most_kept, most_unwanted
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
            source, _ = self._longest(tokens)
            self._release(min(self._kept.keys() - {source} or self._kept, key=self._rank))
        if not self._free:
            return None
        sequence = self._free.popleft()
        self._open.add(sequence)
        self._checkpoints[sequence] = 0, self._checkpoint_tokens
        return sequence

    def longest(self, tokens: array[int]) -> int:
        """How many tokens at the beginning of a row are held by some sequence; always fewer than all, so that one is left to compute."""
        source, count = self._longest(tokens)
        if count >= LEAST_SHARED:
            self._cells.want(source, count)
        return count

    def adopt(self, sequence: int, tokens: array[int]) -> int:
        """Let an open sequence share the cells of the one that has most of these tokens.

        Args:
            tokens: it holds cells of none or more of them.

        Returns:
            How many it holds cells of now; never fewer than before, and never all.
        """
        source, count = self._longest(tokens)
        if count <= self._cells.length(sequence):
            return self._cells.length(sequence)
        self.empty(sequence)
        llama_cpp.llama_memory_seq_cp(self._memory, source, sequence, 0, count)
        if self._kind.is_small and not self._part(sequence):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            return 0
        self._cells.share(source, sequence, count)
        self._touch(source)
        if count >= LEAST_SHARED:
            self._cells.want(source, count)
        self._checkpoints[sequence] = count, count + self._checkpoint_tokens
        return count

    def empty(self, sequence: int) -> None:
        """Take all cells from an open sequence."""
        self._cut(sequence, self._cells.length(sequence))

    def stride(self, sequence: int, tokens: array[int], count: int) -> int:
        """How many of an open sequence's next so many tokens to compute before a checkpoint; all, if none is due.

        Args:
            tokens: all those of its goal.
        """
        if not self._checkpoint_tokens:
            return count
        computed = self._cells.length(sequence)
        latest, due = self._checkpoints[sequence]
        parting = min(self._prefixes.longest(tokens)[1], len(tokens) - 1)  # where others went on otherwise, more may
        if computed < parting < due and parting - latest >= LEAST_SHARED:
            due = parting
            self._checkpoints[sequence] = latest, due
        return min(count, due - computed) if due > computed else count

    def checkpoint(self, sequence: int, tokens: array[int], *, at_end: bool) -> None:
        """Keep an open sequence as it is, if a checkpoint is due or its goal's prompt ends here.

        Args:
            tokens: whose cells it has.
        """
        length = self._cells.length(sequence)
        latest, due = self._checkpoints[sequence]
        if not self._checkpoint_tokens or not (length >= due or (at_end and length - latest >= LEAST_SHARED)):
            return
        self._checkpoints[sequence] = length, length + self._checkpoint_tokens
        if not self._free:
            weak = [kept for kept in self._kept if self._kept[kept].worth is Worth.PREFIX]
            if not weak:
                return
            self._release(min(weak, key=self._rank))
        copy = self._free.popleft()
        llama_cpp.llama_memory_seq_cp(self._memory, sequence, copy, 0, -1)
        if self._kind.is_small and not self._part(copy):
            self._release(copy)
            return
        self._cells.share(sequence, copy, length)
        self._keep(copy, tokens, "", Worth.PREFIX)

    def make_room(self, count: int) -> bool:
        """Have so many cells free, if need be at the cost of kept sequences; false if even so there are fewer."""
        self._give_way(count - (self.total - self._cells.used))
        return self.total - self._cells.used >= count

    def grow(self, sequence: int, count: int) -> None:
        """A step has computed so many cells of an open sequence."""
        self._cells.grow(sequence, count)

    def retract(self, sequence: int, count: int) -> None:
        """Forget so many cells at the end of an open sequence, which nobody else holds: those of tokens that were guessed wrong."""
        if count:
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, self._cells.length(sequence) - count, -1)
            self._cells.cut(sequence, count)

    def undo(self, sequence: int) -> None:
        """Forget cells that llama.cpp computed of an open sequence in a step that failed."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, self._cells.length(sequence), -1)

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
        holder = self._holder(tokens)
        if holder >= 0 or not self._most_kept:
            self._touch(holder)  # nothing but a copy, or of no use
            self._release(sequence)
        else:
            self._keep(sequence, tokens, owner, worth)
        self._give_way(self.kept - self._most_kept)
        self._forget_unwanted()
        self.version += 1

    def forget_one(self) -> bool:
        """Release the kept sequence that gives way first; false if there is none."""
        if not self._kept:
            return False
        self._release(min(self._kept, key=self._rank))
        return True

    def forget(self, owner: str) -> None:
        """Release what is kept of an owner; ``""`` owns nothing."""
        for sequence in [sequence for sequence, kept in self._kept.items() if owner and kept.owner == owner]:
            self._release(sequence)

    def forget_all(self) -> None:
        """Release everything that is kept."""
        for sequence in list(self._kept):
            self._release(sequence)

    def _longest(self, tokens: array[int]) -> tuple[int, int]:
        """A sequence that most of a row's tokens can be gone on from, and how many: fewer than all; (-1, 0) if there is none."""
        most = len(tokens) - 1
        if self._kind.goes_on_anywhere:
            sequence, count = self._prefixes.longest(tokens)
            return sequence, min(count, most)
        shared = ((sequence, min(count, most)) for sequence, count in self._prefixes.common(tokens))
        return max((pair for pair in shared if self._goes_on(*pair)), key=itemgetter(1), default=(-1, 0))

    def _holder(self, tokens: array[int]) -> int:
        """A sequence from which as much can be gone on from as from one that has just these tokens; -1 if there is none."""
        if self._kind.goes_on_anywhere:
            sequence, count = self._prefixes.longest(tokens)
            return sequence if count == len(tokens) else -1
        shared = (sequence for sequence, count in self._prefixes.common(tokens) if count == len(tokens))
        return next((sequence for sequence in shared if self._goes_on(sequence, len(tokens))), -1)

    def _goes_on(self, sequence: int, count: int) -> bool:
        """Whether one can go on from the first so many tokens of a sequence."""
        if self._kind.is_state and (sequence in self._open or count != self._cells.length(sequence)):
            return False
        oldest = llama_cpp.llama_memory_seq_pos_min(self._memory, sequence) if self._kind.window else 0
        return 0 <= oldest <= max(0, count + 1 - self._kind.window)

    def _part(self, sequence: int) -> bool:
        """Give a sequence that shares all its cells those of its window for its own, and let go of older ones in the layers that have one.

        llama.cpp gives up no cell that two sequences hold, so that cells that are shared would fill those layers.

        Returns:
            Whether there was room.
        """
        partial = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = llama_cpp.llama_state_seq_get_size_ext(self._context, sequence, partial)
        data = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data_ext(self._context, data, size, sequence, partial)
        return bool(llama_cpp.llama_state_seq_set_data_ext(self._context, data, size, sequence, partial))

    def _keep(self, sequence: int, tokens: array[int], owner: str, worth: Worth) -> None:
        self._prefixes.put(sequence, tokens)
        self._kept[sequence] = _Kept(owner, worth, 0)
        self._touch(sequence)
        self.version += 1

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
            if alone <= self._cells.used - least or self._kind.is_state:
                self._release(sequence)
            else:
                self._cut(sequence, self._cells.used - least)

    def _forget_unwanted(self) -> None:
        """Cut those not used for longest, as far as they have too many cells that nobody has asked for."""
        if self._most_unwanted >= self._most_kept:
            return
        prefixes = [sequence for sequence, kept in self._kept.items() if kept.worth is Worth.PREFIX]
        unwanted = {sequence: self._cells.alone(sequence, unwanted=True) for sequence in sorted(prefixes, key=self._rank)}
        excess = sum(unwanted.values()) - self._most_unwanted
        for sequence, count in unwanted.items():
            if excess <= 0:
                break
            cut = min(excess, count)
            excess -= cut
            if cut == self._cells.length(sequence):
                self._release(sequence)
            elif cut:
                self._cut(sequence, cut)

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
        self._checkpoints.pop(sequence, None)
        self._kept.pop(sequence, None)
        self._free.append(sequence)
        self.version += 1
