"""What of the robot's language the model is trained on, and what is kept to see whether it understood.

Situations are made of *combinations* (an object in a room, a distance at a speed), which a hash splits: training never sees the held-out
tenth in any phrasing, and evaluation asks for nothing else.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

from slice_ros.demo.language import TASKS, Example

HELD_OUT_SHARE = 10
"""One combination in so many is held out."""


def is_held_out(combination: str) -> bool:
    """Whether a combination is kept from training; the same on every machine."""
    return zlib.crc32(combination.encode()) % HELD_OUT_SHARE == 0


def training_examples(task: str, rng: random.Random) -> Iterator[Example]:
    """Endless examples without any held-out combination."""
    while True:
        example = TASKS[task](rng)
        if not any(map(is_held_out, example.combinations)):
            yield example


def held_out_examples(task: str, seed: int) -> Iterator[Example]:
    """Endless examples whose answer turns on a held-out combination."""
    rng = random.Random(f"held out {task} {seed}")
    while True:
        example = TASKS[task](rng)
        if is_held_out(example.combinations[0]):
            yield example
