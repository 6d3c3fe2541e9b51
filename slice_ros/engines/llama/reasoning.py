"""The block in which a model reasons before it answers: where it is, and what of an output is in it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from slice_ros.engines.llama.text import TextStream


class Marks(NamedTuple):
    """Begin and end of the block, as the model writes them."""

    begin: str
    end: str


FAMILIES = (Marks("<think>", "</think>"), Marks("[THINK]", "[/THINK]"), Marks("<seed:think>", "</seed:think>"))


def marks_of(template: str) -> Marks | None:
    """Those that a chat template speaks of; ``None`` if its model does not reason."""
    return next((marks for marks in FAMILIES if marks.end in template), None)


class _Stage(Enum):
    AHEAD = 0
    """Whether there is a block, the first characters will tell."""
    INSIDE = 1
    OVER = 2


class Block:
    """Parts one output into reasoning and answer.

    Args:
        marks: where the block begins and ends.
        is_begun: the prompt ends inside the block; else the model may begin one.
        budget: tokens that it may have; ``None`` = as many as the model wants.
    """

    def __init__(self, marks: Marks, *, is_begun: bool, budget: int | None = None) -> None:
        self._begin, self._text = TextStream((marks.begin,)), TextStream((marks.end,))
        self._stage = _Stage.INSIDE if is_begun else _Stage.AHEAD
        self._budget = budget
        self._tokens = 0
        self._blank = ""
        self._is_trimming = False
        self.is_concluded = False
        """Whether it ends with the next token, whatever the model would say."""

    @property
    def is_open(self) -> bool:
        return self._stage is _Stage.INSIDE

    @property
    def must_end(self) -> bool:
        return self.is_open and (self.is_concluded or (self._budget is not None and self._tokens >= self._budget))

    def push(self, piece: bytes) -> tuple[str, bytes]:
        """Add a token's bytes.

        Returns:
            What became certain of the reasoning, and the bytes that belong to the answer.
        """
        if self._stage is _Stage.INSIDE:
            self._tokens += 1
            text, is_over = self._text.push(piece)
            if is_over:
                self._stage, self._is_trimming = _Stage.OVER, True
            return text, b""
        if self._stage is _Stage.AHEAD:
            text, is_begun = self._begin.push(piece)
            self._blank += text
            if self._blank.strip():
                self._stage = _Stage.OVER
                return "", self._blank.encode()
            if is_begun:
                self._stage = _Stage.INSIDE
            return "", b""
        if self._is_trimming:  # the blank lines between the two are neither's
            piece = piece.lstrip()
            self._is_trimming = not piece
        return "", piece

    def flush(self) -> tuple[str, bytes]:
        """What was held back, once no token follows."""
        if self._stage is _Stage.AHEAD:
            return "", (self._blank + self._begin.flush()).encode()
        return (self._text.flush(), b"") if self._stage is _Stage.INSIDE else ("", b"")
