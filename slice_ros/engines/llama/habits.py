"""How answers went on before: guesses at the next tokens, for one decode to verify."""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence

from slice_ros.engines.llama.prefixes import TOKEN_BYTES

LATEST = 8
"""Answers of a kind that are remembered, ..."""
LONGEST = 1024
"""... so many tokens of each, ..."""
MOST_KINDS = 256
"""... of so many kinds, those that answered last."""
CONTEXTS = (8, 4, 2)
"""What is looked up: so many of the latest tokens, the longer the better."""


class Habits:
    """Looks the latest tokens of an answer up: in the latest answers of its kind, as robots repeat themselves, in its own prompt and text.

    What came after them there is the guess (prompt lookup decoding; Saxena 2023). Rows of tokens are searched as bytes.
    """

    def __init__(self) -> None:
        self._latest: OrderedDict[str, deque[bytes]] = OrderedDict()

    def learn(self, kind: str, tokens: array[int], prompt_tokens: int) -> None:
        """Remember an answer, and what of its prompt is before it."""
        if kind not in self._latest:
            self._latest[kind] = deque(maxlen=LATEST)
            if len(self._latest) > MOST_KINDS:
                self._latest.popitem(last=False)
        self._latest.move_to_end(kind)
        self._latest[kind].appendleft(tokens[max(0, prompt_tokens - CONTEXTS[0]) : prompt_tokens + LONGEST].tobytes())

    def guess(self, kind: str, tokens: array[int], most: int) -> array[int]:
        """So many tokens at most that may follow; none where the latest ones are new."""
        own = tokens.tobytes()
        rows = (*self._latest.get(kind, ()), own)
        for length in CONTEXTS:
            context = own[-length * TOKEN_BYTES :]
            if len(context) < length * TOKEN_BYTES:
                continue
            for row in rows:
                at = _after_last(row, context)
                if at:
                    return array("i", row[at : at + most * TOKEN_BYTES])
        return array("i")


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two rows have in common at their beginning."""
    return next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def _after_last(row: bytes, context: bytes) -> int:
    """Where the row goes on after it last held the context; 0 if it never did, or ends with it."""
    end = len(row) - TOKEN_BYTES
    while (at := row.rfind(context, 0, end)) >= 0:
        if at % TOKEN_BYTES == 0:
            return at + len(context)
        end = at + len(context) - 1
    return 0
