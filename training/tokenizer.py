"""A byte-level BPE tokenizer, trained on the corpus; llama.cpp's ``llama-bpe`` pre-tokenizer splits a text in the same way."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from slice_ros.engines.llama.shapes import SPECIAL_TOKENS, byte_letters

PRE_TOKENIZER = "llama-bpe"
_LETTER, _NUMBER = r"[^\W\d_]", r"\d{1,3}"
_WORD = re.compile(rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:[^\r\n\w]|_)?{_LETTER}+|{_NUMBER}| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


class Tokenizer:
    """Token b is byte b, then one token for each merge, the special tokens last.

    Args:
        merges: pairs of tokens, the most important first.
        names: of the special tokens.
    """

    def __init__(self, merges: Sequence[tuple[int, int]], names: Sequence[str] = SPECIAL_TOKENS) -> None:
        self._names = tuple(names)
        self.merges = [(first, second) for first, second in merges]
        self._ranks = {pair: 256 + rank for rank, pair in enumerate(self.merges)}
        self._words: dict[str, list[int]] = {}

    @classmethod
    def train(cls, texts: Iterable[str], size: int, names: Collection[str] = ()) -> Tokenizer:
        """Learn up to ``size`` tokens, special ones included: the pair that is most frequent now becomes a token, again and again.

        Args:
            names: each becomes one token, without a space before it, so that to repeat a name is to repeat a token.
        """
        merges: list[tuple[int, int]] = []
        _learn(merges, dict.fromkeys(names, 1), size)
        counts = Counter(word for text in texts for word in _WORD.findall(text) if word.strip() not in names)
        _learn(merges, counts, size)
        return cls(merges)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        return cls([(first, second) for first, second in json.loads(path.read_text())])

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.merges))

    @property
    def size(self) -> int:
        return 256 + len(self.merges) + len(self._names)

    @cached_property
    def special(self) -> dict[str, int]:
        """Special tokens by their text."""
        return {text: self.size - len(self._names) + i for i, text in enumerate(self._names)}

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each token that is not special."""
        pieces = [bytes([byte]) for byte in range(256)]
        for first, second in self.merges:
            pieces.append(pieces[first] + pieces[second])
        return pieces

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; special tokens are recognised by their texts."""
        tokens: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, self._names))})", text):
            if part in self.special:
                tokens.append(self.special[part])
            else:
                for word in _WORD.findall(part):
                    tokens += self._encode_word(word)
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(self.pieces[token] for token in tokens if token < len(self.pieces)).decode("utf-8", "replace")

    def gguf_tokens(self) -> list[str]:
        """All tokens as GGUF writes them."""
        letters = byte_letters()
        return ["".join(letters[byte] for byte in piece) for piece in self.pieces] + list(self._names)

    def gguf_merges(self) -> list[str]:
        texts = self.gguf_tokens()
        return [f"{texts[first]} {texts[second]}" for first, second in self.merges]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._words:
            tokens = list(word.encode())
            while len(tokens) > 1:
                pair = min(pairwise(tokens), key=lambda pair: self._ranks.get(pair, self.size))
                if pair not in self._ranks:
                    break
                _merge(tokens, pair, self._ranks[pair])
            self._words[word] = tokens
        return self._words[word]


def _learn(merges: list[tuple[int, int]], counts: Mapping[str, int], size: int) -> None:
    """Add merges until each word is one token, or there are ``size`` tokens."""
    known = Tokenizer(merges)
    words = [(known.encode(word), count) for word, count in counts.items()]
    while known.size + len(merges) - len(known.merges) < size:
        pairs: Counter[tuple[int, int]] = Counter()
        for tokens, count in words:
            for pair in pairwise(tokens):
                pairs[pair] += count
        if not pairs:
            return
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        for tokens, _ in words:
            _merge(tokens, best, 256 + len(merges))
        merges.append(best)


def _merge(tokens: list[int], pair: tuple[int, int], merged: int) -> None:
    """Replace a pair wherever it stands."""
    i = 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            tokens[i : i + 2] = [merged]
        i += 1
