"""What a toy that reasons is trained on: numbers to be added, step by step in a block that may be cut anywhere, or at once.

A user's message like ``A3, B5, C4`` has the thoughts ``A303B508C412``: each number under its letter, and the sum so far. Every character
is a token, so that longer sums have longer thoughts, and a block that is cut leaves less to be added at once the later that was.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from string import ascii_uppercase

from slice_ros.engines.llama.reasoning import FAMILIES
from slice_ros.engines.llama.shapes import CHAT_TEMPLATE, SPECIAL_TOKENS
from training.wrapping import END, wrap

FEWEST, MOST = 2, 16
"""Numbers in a sum."""
LARGEST = 6
"""Of the numbers; all sums have two digits at most."""
MARKS = FAMILIES[0]
SPECIAL = (*SPECIAL_TOKENS, *MARKS)
BLOCK_BEGIN, BLOCK_END = f"{MARKS.begin}\n", f"\n{MARKS.end}\n\n"
"""As the engine begins a block, and closes one."""
TEMPLATE = CHAT_TEMPLATE + f"{{% if add_generation_prompt and enable_thinking is false %}}{BLOCK_BEGIN}{BLOCK_END}{{% endif %}}"
"""ChatML of a model that hears whether to reason, as Qwen 3's is."""
WHOLE_SHARE, AT_ONCE_SHARE = 0.35, 0.1
"""Of the examples, those with all of their thoughts, and those with none; the others are cut anywhere."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Numbers to be added."""

    numbers: tuple[int, ...]

    @property
    def question(self) -> str:
        return ", ".join(f"{letter}{number}" for letter, number in zip(ascii_uppercase, self.numbers, strict=False))

    @property
    def thoughts(self) -> str:
        sums = [sum(self.numbers[: i + 1]) for i in range(len(self.numbers))]
        return "".join(f"{letter}{number}{so_far:02}" for letter, number, so_far in zip(ascii_uppercase, self.numbers, sums, strict=False))

    @property
    def answer(self) -> str:
        return f"{sum(self.numbers):02}"

    def told(self, cut: int | None = None) -> list[tuple[str, bool]]:
        """All of the text in pieces, and of each whether the model is to say it.

        Args:
            cut: characters of the thoughts after which the block is closed; ``None`` leaves it to the model to begin and to end it.
        """
        prompt, answer = wrap(self.question, chat=True), f"{self.answer}{END}"
        if cut is None:
            return [(prompt, False), (f"{BLOCK_BEGIN}{self.thoughts}{BLOCK_END}{answer}", True)]
        return [(prompt + BLOCK_BEGIN, False), (self.thoughts[:cut], True), (BLOCK_END, False), (answer, True)]


def draw(rng: random.Random) -> Sum:
    return Sum(tuple(rng.randint(1, LARGEST) for _ in range(rng.randint(FEWEST, MOST))))


def draw_cut(rng: random.Random, of: Sum) -> int | None:
    """Where the block of an example is closed, as ``Sum.told`` takes it."""
    kind = rng.random()
    if kind < WHOLE_SHARE:
        return None
    return 0 if kind < WHOLE_SHARE + AT_ONCE_SHARE else rng.randint(0, len(of.thoughts))
