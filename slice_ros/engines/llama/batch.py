"""What a step computes, for ``llama_decode``."""

from __future__ import annotations

import ctypes
from array import array

import llama_cpp


class Batch:
    """A ``llama_batch`` over preallocated arrays."""

    def __init__(self, capacity: int, positions: int) -> None:
        self._capacity = capacity
        self._positions = array("i", range(positions))
        tokens, positions_of, sequences, ones = (array("i", [value]) * capacity for value in (0, 0, 0, 1))
        logits = array("b", bytes(capacity))
        # llama.cpp wants a list of sequence ids for each token; each list has one id here.
        first, _ = sequences.buffer_info()
        lists = array("Q", range(first, first + capacity * sequences.itemsize, sequences.itemsize))
        self._token, self._position, self._sequence = memoryview(tokens), memoryview(positions_of), memoryview(sequences)
        self._wants_logits = memoryview(logits)
        self._arrays = {"token": tokens, "pos": positions_of, "n_seq_id": ones, "seq_id": lists, "logits": logits}
        self._struct = llama_cpp.llama_batch()
        self._kinds = {name: kind for name, kind in llama_cpp.llama_batch._fields_ if name in self._arrays}
        self._first = -1
        self.size = 0

    def clear(self) -> None:
        self.size = 0

    def filled(self, first: int = 0, end: int | None = None) -> llama_cpp.llama_batch:
        """The tokens that were added, or these of them, for one ``llama_decode``; valid until it is asked for others."""
        if first != self._first:  # mostly it is 0 again
            self._first = first
            for name, kind in self._kinds.items():
                values = self._arrays[name]
                setattr(self._struct, name, ctypes.cast(values.buffer_info()[0] + first * values.itemsize, kind))
        self._struct.n_tokens = (self.size if end is None else end) - first
        return self._struct

    def add(self, tokens: array[int], first: int, count: int, sequence: int, wanted: int) -> None:
        """Add ``tokens[first:first + count]`` at those positions of a sequence, with logits for so many of the last ones."""
        start, end = self.size, self.size + count
        if end > self._capacity:
            raise ValueError(f"a step has {end} tokens or more; at most {self._capacity} fit")
        if count == 1:  # a decode; slices would cost four times as much
            self._token[start], self._position[start], self._sequence[start] = tokens[first], first, sequence
        else:
            self._token[start:end] = tokens[first : first + count]
            self._position[start:end] = self._positions[first : first + count]
            self._sequence[start:end] = array("i", [sequence]) * count
            self._wants_logits[start:end] = array("b", bytes(count))
        if wanted < 2:  # as nearly always
            self._wants_logits[end - 1] = wanted
        else:
            self._wants_logits[end - wanted : end] = array("b", [1]) * wanted
        self.size = end
