"""Turns the bytes of one goal's tokens into text that can be published: whole characters, and nothing past a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Text of one goal as it grows.

    A token may end inside a character, and a stop string may begin in one token and end in another. What could still become part of a stop
    string is held back until it is certain.

    Args:
        stop: strings that end the text; none of them is part of it.
    """

    __slots__ = ("_decoder", "_held", "_is_whole", "_stop")

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(stop)
        self._held = ""
        self._is_whole = True  # no character is unfinished

    def push(self, piece: bytes) -> tuple[str, bool]:
        """Add a token's bytes.

        Returns:
            The text that became certain, and whether a stop string ended it.
        """
        if self._is_whole and piece.isascii():
            text = piece.decode("ascii")  # as nearly always
        else:
            text = self._decoder.decode(piece)
            self._is_whole = not self._decoder.getstate()[0]
        if not self._stop:
            return text, False
        text = self._held + text
        found = [at for at in map(text.find, self._stop) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        certain = len(text) - max(overlap(text, stop) for stop in self._stop)
        self._held = text[certain:]
        return text[:certain], False

    def flush(self) -> str:
        """The text still held back, once no token follows; an unfinished character is dropped."""
        text, self._held = self._held, ""
        return text


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of text are the beginning of stop."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
