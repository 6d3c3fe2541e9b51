"""What a prompt costs a member, as far as one can tell who has no tokeniser: tokens from characters, and what of them is cached there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from slice_ros.goal import GoalRequest

CHARACTERS_PER_TOKEN = 4.0
"""Until something was learnt."""
LEARNING = 0.1
"""Weight of the latest prompt in what is learnt."""
BLOCK = 64
"""Beginnings of prompts are told apart in steps of so many characters."""
BLOCKS = 4096
"""So many of them are remembered of each member, those used last."""


def text_of(request: GoalRequest) -> str:
    """All that the model is given."""
    return request.prompt + "".join(f"{message.role}\n{message.content}\n" for message in request.messages)


class PromptLengths:
    """Characters per token, of each kind of goal, learnt from what the members report."""

    def __init__(self) -> None:
        self._ratios: dict[str, float] = {}

    def observe(self, kind: str, characters: int, tokens: int) -> None:
        """A prompt turned out to have so many tokens."""
        if tokens > 0 and characters > 0:
            ratio = characters / tokens
            before = self._ratios.get(kind, ratio)
            self._ratios[kind] = before + LEARNING * (ratio - before)

    def expected(self, kind: str, characters: int) -> int:
        return max(1, round(characters / self._ratios.get(kind, CHARACTERS_PER_TOKEN)))


class Prefixes:
    """The beginnings of prompts that a member has computed lately, with the answers that sessions go on from."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._kept = 1.0

    def note(self, text: str) -> None:
        """The member computes this."""
        for block in _chain(text):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > BLOCKS:
            self._blocks.popitem(last=False)

    def share(self, text: str) -> float:
        """The share of a text that need not be computed, if the member keeps as much as it did of those before."""
        blocks = 0
        for block in _chain(text):
            if block not in self._blocks:
                break
            blocks += 1
        return self._kept * min(1.0, blocks * BLOCK / max(1, len(text)))

    def learn(self, expected: float, found: float) -> None:
        """So large a share was expected to be cached, and found to be."""
        if expected > 0.0:
            kept = min(1.0, self._kept * found / expected)
            self._kept += LEARNING * (kept - self._kept)
            self._kept = max(self._kept, LEARNING)  # else nothing would ever be expected again


def _chain(text: str) -> Iterator[int]:
    """Of each whole block, a number that tells it and all before it."""
    before = 0
    for start in range(0, len(text) - BLOCK + 1, BLOCK):
        before = hash((before, text[start : start + BLOCK]))
        yield before
