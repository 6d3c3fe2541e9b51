"""What drafts bring, learnt per kind of goal: how likely a guessed token is right, and how many steps right ones save."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

MAX_DRAFT = 15
"""Tokens guessed ahead for one goal in a step, unless told otherwise, ..."""
LONGEST_DRAFT = 32
"""... and at most."""
MEMORY = 0.95
"""What a goal's drafts count for once the next one of its kind has ended: habits change, and what did not pay is to be tried again."""
PRIOR = 0.5
"""A guess of which nothing is known is right with this probability, ..."""
PRIOR_TRIES = 2.0
"""... and that counts as much as so many that were verified."""
MISS = 0.1
"""Where nothing was found to guess, it counts as so much of a wrong guess: it only makes plans longer than their steps."""
OWN_TRIES = 8.0
"""Verified guesses of a goal itself count beside so many of its kind."""


@dataclass(slots=True)
class Tally:
    """How guesses fared.

    Args:
        tried: tokens that were verified: those up to the first wrong one.
        right: of these, those that were right.
        saved: steps that they saved, as they would have been drawn in steps of their own.
    """

    tried: float = 0.0
    right: float = 0.0
    saved: float = 0.0

    def miss(self) -> None:
        """There was nothing to guess, where a plan had left time for it."""
        self.tried += MISS

    def add(self, drafted: int, right: int, saved: int) -> None:
        """A step verified a draft."""
        if drafted:
            self.tried += min(right + 1, drafted)
            self.right += right
            self.saved += saved


class Prospect(NamedTuple):
    """What to expect of a draft: a token is right with a probability of ``chance`` if the one before is, and saves ``saves`` steps then."""

    chance: float
    saves: float

    def steps(self, tokens: int) -> float:
        """Steps that a draft of so many tokens saves in the mean."""
        chance = min(self.chance, 0.999)
        return self.saves * chance * (1.0 - chance**tokens) / (1.0 - chance)


class Drafts:
    """The tallies of each kind, what is older counting less."""

    def __init__(self) -> None:
        self._kinds: defaultdict[str, Tally] = defaultdict(Tally)

    def ended(self, kind: str, tally: Tally) -> None:
        """A goal ended whose drafts fared like this."""
        known = self._kinds[kind]
        known.tried = MEMORY * known.tried + tally.tried
        known.right = MEMORY * known.right + tally.right
        known.saved = MEMORY * known.saved + tally.saved

    def prospect(self, kind: str, own: Tally) -> Prospect:
        """What a goal's next draft is likely to bring, after what those of its kind and its own brought."""
        known = self._kinds.get(kind) or Tally()
        chance = (known.right + PRIOR * PRIOR_TRIES) / (known.tried + PRIOR_TRIES)
        chance = (OWN_TRIES * chance + own.right) / (OWN_TRIES + own.tried)
        saves = (known.saved + own.saved + 1.0) / (known.right + own.right + 1.0)
        return Prospect(chance, saves)
