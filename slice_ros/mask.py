"""The decode-mask matrix: which goals take part in which of the coming steps, and with how many prompt tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DECODE = -1
"""Matrix value of a cell that decodes one token, -n with n - 1 that it forced or that are drafted; 0 leaves the row out, n > 0 computes n
tokens of a prompt and a draft behind it."""


class Cell(NamedTuple):
    """One goal's part in one step: ``prompt_tokens`` of its prompt, or one decode where that is 0.

    A decode that brings tokens which the one before forced is computed as a prompt is; ``is_decode`` tells it from one. What is ``drafted``
    are guesses at the tokens after these, which the step verifies: in a plan so many at most.
    """

    goal_id: str
    prompt_tokens: int = 0
    is_decode: bool = False
    drafted: int = 0


Column = tuple[Cell, ...]
"""One step: one ``llama_decode`` call, or several on a CPU."""


@dataclass(frozen=True, slots=True)
class MaskMatrix:
    """Columns in the order of their steps (SLICE paper, decode-mask matrix; here with prompt chunks in it).

    A policy that decides one step at a time answers with one column. A row without a cell is a goal the policy left out.
    """

    columns: tuple[Column, ...] = ()

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    @property
    def rows(self) -> tuple[str, ...]:
        """Goal ids, in the order in which they first appear."""
        return tuple(dict.fromkeys(cell.goal_id for column in self.columns for cell in column))

    def split(self, adapters: Mapping[str, str]) -> MaskMatrix:
        """The matrix with every column that mixes adapters as several, one an adapter, in order; without empty ones.

        Args:
            adapters: of the goals, by id.
        """
        if len(set(adapters.values())) < 2 and all(self.columns):
            return self
        columns: list[Column] = []
        for column in self.columns:
            parts: dict[str | None, list[Cell]] = {}
            for cell in column:
                parts.setdefault(adapters.get(cell.goal_id), []).append(cell)
            columns.extend(map(tuple, parts.values()))
        return MaskMatrix(tuple(columns))

    def to_array(self, rows: Iterable[str] | None = None) -> npt.NDArray[np.int32]:
        """The matrix as numbers, shape (rows, columns): 0 = left out, -n = a decode with n tokens, n > 0 = n of a prompt; with drafts."""
        index = {goal_id: i for i, goal_id in enumerate(self.rows if rows is None else rows)}
        cells = np.zeros((len(index), len(self.columns)), dtype=np.int32)
        for j, column in enumerate(self.columns):
            for cell in column:
                if cell.goal_id in index:
                    tokens = (cell.prompt_tokens or 1) + cell.drafted
                    cells[index[cell.goal_id], j] = tokens if cell.prompt_tokens and not cell.is_decode else DECODE * tokens
        return cells
