"""Finds the longest beginning that a row of tokens has in common with any of the rows known."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator

import numpy as np

TOKEN_BYTES = array("i").itemsize


class Prefixes:
    """Rows of tokens by sequence id, sorted by their bytes: what has most in common with a row stands next to where it would stand."""

    def __init__(self) -> None:
        self._rows: dict[int, bytes] = {}
        self._sorted: list[tuple[bytes, int]] = []

    def put(self, sequence: int, tokens: array[int]) -> None:
        """Remember, or replace, a sequence's row."""
        self._put(sequence, tokens.tobytes())

    def cut(self, sequence: int, count: int) -> None:
        """Keep so many tokens of a sequence's row, if it has one."""
        if sequence in self._rows:
            self._put(sequence, self._rows[sequence][: count * TOKEN_BYTES])

    def drop(self, sequence: int) -> None:
        row = self._rows.pop(sequence, None)
        if row is not None:
            del self._sorted[bisect_left(self._sorted, (row, sequence))]

    def longest(self, tokens: array[int]) -> tuple[int, int]:
        """A sequence with the longest common beginning, and how many tokens that is; (-1, 0) if there is none."""
        row = tokens.tobytes()
        at = bisect_left(self._sorted, (row, -1))
        sequence, most = -1, 0
        for other, holder in self._sorted[max(0, at - 1) : at + 1]:
            if row.startswith(other[: (most + 1) * TOKEN_BYTES]):  # else it has no more in common
                count = _common(row, other)
                if count > most:
                    sequence, most = holder, count
        return sequence, most

    def common(self, tokens: array[int]) -> Iterator[tuple[int, int]]:
        """Each sequence, and how many tokens its row has in common with this one at the beginning."""
        row = tokens.tobytes()
        for other, holder in self._sorted:
            yield holder, _common(row, other)

    def _put(self, sequence: int, row: bytes) -> None:
        self.drop(sequence)
        self._rows[sequence] = row
        insort(self._sorted, (row, sequence))


def _common(a: bytes, b: bytes) -> int:
    """How many tokens two rows have in common at their beginning."""
    size = min(len(a), len(b))
    if a[:size] == b[:size]:
        return size // TOKEN_BYTES
    count = size // TOKEN_BYTES
    return int((np.frombuffer(a, np.int32, count) != np.frombuffer(b, np.int32, count)).argmax())
