"""KV of evicted goals in host memory, so that it need not be computed again."""

from __future__ import annotations

import ctypes
import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from slice_ros.engines.llama.kv_cache import KvCache
from slice_ros.engines.llama.memory import Memory

PIECE = 256
"""Tokens that are copied at once; a copy ends between pieces when its time is over."""

REMEMBERED_S = 10.0
"""For so long a measured rate tells whether copies are worth while."""

FIRST_RATE = 1e9
"""Bytes per second that copies are taken to reach before some are measured; few machines are slower."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Positions ``first`` to ``end`` of a goal's tokens."""

    first: int
    end: int
    data: npt.NDArray[np.uint8]


class HostCache:
    """Copies KV in pieces, from position 0 on, each goal's as far as time and memory allow.

    Args:
        context: llama.cpp's context.
        cache: its sequences.
        scratch: a sequence id that the cache does not use.
        most_bytes: host memory that it may take; with 0 it does nothing.
        memory: what sequences can go on from. Where that is not anywhere, they are copied as a whole: a state is that of the last
            token, and of layers with a window llama.cpp copies no more than what that token sees.
    """

    def __init__(self, context: Any, cache: KvCache, scratch: int, most_bytes: int, memory: Memory) -> None:
        self.used = 0
        """Bytes it holds."""
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._cache = cache
        self._scratch = scratch
        self._most_bytes = most_bytes
        self._is_whole = not memory.goes_on_anywhere
        self._piece = sys.maxsize if self._is_whole else PIECE
        self._pieces: dict[str, list[_Piece]] = {}
        self._copied_bytes, self._copied_s = FIRST_RATE / 100, 0.01
        self._token_bytes = 0.0
        self._measured_s = -math.inf

    @property
    def token_s(self) -> float:
        """Time of a token's copy, s; 0 where none was measured lately, so that what was slow once is tried again now and then."""
        return self._token_bytes / self.rate if time.monotonic() < self._measured_s + REMEMBERED_S else 0.0

    @property
    def rate(self) -> float:
        """Bytes per second that copies have reached."""
        return self._copied_bytes / self._copied_s

    def tokens(self, goal_id: str) -> int:
        """How many of a goal's tokens it holds, from the first on."""
        pieces = self._pieces.get(goal_id)
        return pieces[-1].end if pieces else 0

    def save(self, goal_id: str, sequence: int, computed: int, within_s: float) -> None:
        """Copy a goal's KV, as far as it is not here.

        Args:
            sequence: holds its KV.
            computed: how many tokens that is.
            within_s: how long it may take, s.
        """
        if not self._most_bytes:
            return
        until_s = time.monotonic() + within_s
        pieces = self._pieces.setdefault(goal_id, [])
        if pieces and pieces[-1].end < min(computed, pieces[-1].first + self._piece):
            self.used -= pieces.pop().data.nbytes  # a piece that has grown
        first = pieces[-1].end if pieces else 0
        while first < computed:
            end = min(first + self._piece, computed)
            llama_cpp.llama_memory_seq_cp(self._memory, sequence, self._scratch, first, end)
            size = llama_cpp.llama_state_seq_get_size(self._context, self._scratch)
            self._token_bytes = size / (end - first)
            data = self._read(size) if self._allows(size, until_s) and self.used + size <= self._most_bytes else None
            llama_cpp.llama_memory_seq_rm(self._memory, self._scratch, -1, -1)
            if data is None:
                break
            self.used += size
            pieces.append(_Piece(first, end, data))
            first = end
        if not pieces:
            del self._pieces[goal_id]

    def restore(self, goal_id: str, sequence: int, computed: int, within_s: float) -> int:
        """Copy a goal's KV back.

        Args:
            sequence: holds the KV of its first tokens.
            computed: how many tokens that is.
            within_s: how long it may take, s.

        Returns:
            How many it holds the KV of now.
        """
        until_s = time.monotonic() + within_s
        for piece in self._pieces.get(goal_id, ()):
            if piece.end <= computed:
                continue
            if not self._allows(piece.data.nbytes, until_s):
                break
            if not self._cache.make_room(piece.end - piece.first) or not self._write(piece.data):
                break
            if self._is_whole:
                self._cache.empty(sequence)
                computed = 0
            llama_cpp.llama_memory_seq_cp(self._memory, self._scratch, sequence, computed, piece.end)
            llama_cpp.llama_memory_seq_rm(self._memory, self._scratch, -1, -1)
            self._cache.grow(sequence, piece.end - computed)
            computed = piece.end
        return computed

    def drop(self, goal_id: str) -> None:
        """Forget a goal's KV."""
        self.used -= sum(piece.data.nbytes for piece in self._pieces.pop(goal_id, ()))

    def _allows(self, size: int, until_s: float) -> bool:
        return time.monotonic() + size / self.rate <= until_s

    def _read(self, size: int) -> npt.NDArray[np.uint8] | None:
        began_s = time.monotonic()
        data = np.empty(size, np.uint8)
        copied = llama_cpp.llama_state_seq_get_data(self._context, _bytes(data), size, self._scratch)
        self._measure(size, time.monotonic() - began_s)
        return data if copied == size else None

    def _write(self, data: npt.NDArray[np.uint8]) -> bool:
        began_s = time.monotonic()
        copied = llama_cpp.llama_state_seq_set_data(self._context, _bytes(data), data.nbytes, self._scratch)
        self._measure(data.nbytes, time.monotonic() - began_s)
        return bool(copied)

    def _measure(self, size: int, taken_s: float) -> None:
        """Recent copies count more: what was measured before weighs half as much each time."""
        self._copied_bytes = (self._copied_bytes + size) / 2
        self._copied_s = (self._copied_s + taken_s) / 2
        self._measured_s = time.monotonic()


def _bytes(data: npt.NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
