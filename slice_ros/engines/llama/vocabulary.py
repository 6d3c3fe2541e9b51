"""Text to tokens and back."""

from __future__ import annotations

import ctypes
import json
import re
from array import array
from collections.abc import Iterable
from typing import Any

import llama_cpp

_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
_MARK = re.compile("<.*>")


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


class Vocabulary:
    """Text to tokens and back."""

    def __init__(self, model: Any) -> None:
        self.pointer = llama_cpp.llama_model_get_vocab(model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self.pointer)
        self._pieces: list[bytes | None] = [None] * self.size
        self.ending = frozenset(token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(self.pointer, token))
        """Tokens that end generation."""
        self.control: dict[str, int] = {}
        """Control tokens, which have names and no text in an answer."""
        self.marks: dict[str, int] = {}
        """These and tokens like ``<tool_call>``, which have a text, but are no text to grammars."""
        for token in range(self.size):
            attributes = llama_cpp.llama_vocab_get_attr(self.pointer, token)
            if attributes & _CONTROL and (text := self.text(token)):
                self.control[text] = self.marks[text] = token
            elif attributes & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED and _MARK.fullmatch(text := self.text(token)):
                self.marks[text] = token
        self.special = _any_of(self.control)
        """Matches the names of the control tokens."""
        self._any_mark = _any_of(self.marks)

    def text(self, token: int) -> str:
        """A token as the vocabulary writes it; empty for -1."""
        return "" if token < 0 else llama_cpp.llama_vocab_get_text(self.pointer, token).decode("utf-8", "replace")

    @property
    def bos(self) -> str:
        return self.text(llama_cpp.llama_vocab_bos(self.pointer))

    @property
    def eos(self) -> str:
        return self.text(llama_cpp.llama_vocab_eos(self.pointer))

    def piece(self, token: int) -> bytes:
        """A token's bytes in a text; none for control tokens."""
        piece = self._pieces[token]
        if piece is None:
            buffer = ctypes.create_string_buffer(256)
            length = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, False)
            if length < 0:  # the size it needs
                buffer = ctypes.create_string_buffer(-length)
                length = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, False)
            piece = self._pieces[token] = buffer.raw[:length]
        return piece

    def name(self, token: int) -> str:
        """A token's text; a control token's name."""
        return self.piece(token).decode("utf-8", "replace") or self.text(token)

    def spelt(self, tokens: Iterable[int]) -> str:
        """Tokens as text, with the names of control tokens."""
        return "".join(map(self.name, tokens))

    def lark(self, text: str) -> str:
        """A text as Lark, the marks in it as the tokens that they are."""
        parts = [text] if self._any_mark is None else re.split(f"({self._any_mark.pattern})", text)
        return " ".join(f"<[{self.marks[part]}]>" if i % 2 else json.dumps(part) for i, part in enumerate(parts) if part)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> array[int]:
        """Tokens of a text.

        Args:
            add_special: put the tokens around it that the model wants (BOS, EOS).
            parse_special: take the texts of control tokens for these tokens.
        """
        data = text.encode("utf-8", "replace")  # a lone surrogate, which is no character, becomes "?"
        capacity = len(data) + 8
        while True:
            tokens = array("i", [0]) * capacity
            pointer = ctypes.cast(tokens.buffer_info()[0], llama_cpp.llama_token_p)
            count = llama_cpp.llama_tokenize(self.pointer, data, len(data), pointer, capacity, add_special, parse_special)
            if count >= 0:
                return tokens[:count]
            capacity = -count
