"""Which sequences hold which KV cells; a cell that several sequences share counts once, as in llama.cpp's unified cache."""

from __future__ import annotations

from collections.abc import Collection


class _Run(dict[int, int]):
    """How much of a run each holder has, and how many of its first cells more than one has ever asked for."""

    wanted = 0


class Cells:
    """A sequence is a chain of runs. A run is cells that were computed one after the other; all its holders hold it from its beginning.

    So sequences that share cells share them from position 0 on, and what one holds alone is at its end.
    """

    def __init__(self) -> None:
        self.used = 0
        """Cells that any sequence holds."""
        self._chains: dict[int, list[_Run]] = {}

    def length(self, sequence: int) -> int:
        """Cells that a sequence holds."""
        return sum(run[sequence] for run in self._chains.get(sequence, ()))

    def held(self, sequences: Collection[int]) -> int:
        """Cells that any of these sequences holds."""
        runs = {id(run): run for sequence in sequences for run in self._chains.get(sequence, ())}
        return sum(max(count for holder, count in run.items() if holder in sequences) for run in runs.values())

    def alone(self, sequence: int, *, unwanted: bool = False) -> int:
        """Cells at its end that no other sequence holds, and with ``unwanted`` none has asked for."""
        count = 0
        for run in reversed(self._chains.get(sequence, ())):
            others = max((held for holder, held in run.items() if holder != sequence), default=0)
            others = max(others, run.wanted) if unwanted else others
            count += max(0, run[sequence] - others)
            if others:
                break
        return count

    def want(self, sequence: int, count: int) -> None:
        """Somebody asks for the first cells of a sequence."""
        for run in self._chains.get(sequence, ()):
            run.wanted = max(run.wanted, min(count, run[sequence]))
            count -= run[sequence]
            if count <= 0:
                break

    def grow(self, sequence: int, count: int) -> None:
        """A sequence computes so many cells of its own."""
        chain = self._chains.setdefault(sequence, [])
        run = chain[-1] if chain else None
        if run is None or (len(run) > 1 and run[sequence] < max(run.values())):  # the next cell of that run is another's
            run = _Run({sequence: 0})
            chain.append(run)
        run[sequence] += count
        self.used += count

    def share(self, source: int, target: int, count: int) -> None:
        """A sequence that holds nothing gets the first cells of another."""
        chain = self._chains[target] = []
        for run in self._chains[source]:
            if count <= 0:
                break
            run[target] = min(count, run[source])
            count -= run[target]
            chain.append(run)

    def cut(self, sequence: int, count: int) -> None:
        """Take so many cells from a sequence's end."""
        chain = self._chains.get(sequence, [])
        while count > 0 and chain:
            run = chain[-1]
            before = max(run.values())
            taken = min(count, run[sequence])
            count -= taken
            if taken < run[sequence]:
                run[sequence] -= taken
            else:
                del run[sequence]
                chain.pop()
            self.used -= before - max(run.values(), default=0)
        if not chain:
            self._chains.pop(sequence, None)
