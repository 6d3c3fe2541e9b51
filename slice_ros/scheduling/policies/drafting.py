"""How many tokens to guess ahead for the rows of a step: where that gains time under the latency model and makes no promised goal late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.drafts import LONGEST_DRAFT, Prospect


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a step whose next output token comes with it.

    Args:
        worth: of a step of its own, relative to those of the other rows.
        prospect: of a draft.
        most: tokens to guess at most.
        most_s: the step may not become longer than this for its draft.
    """

    worth: float
    prospect: Prospect
    most: int
    most_s: float


def draft_lengths(
    rows: Sequence[Row | None], worth: float, step_s: float, prompt_tokens: int, chunks: int, latency: LatencyModel
) -> list[int]:
    """How many tokens to guess for each row, the first ones first.

    A step of l(rows) seconds brings ``worth`` in all, so that the steps which a draft saves its row are worth their share of as many such
    steps. A draft is taken that saves more time than it takes, the one that gains most.

    Args:
        rows: of the step; ``None`` for those whose prompt it does not end.
        worth: of all of them.
        step_s: what the step takes without drafts.
        prompt_tokens, chunks: in it.
    """
    drafted = [0] * len(rows)
    width = len(rows)
    for i, row in enumerate(rows):
        if row is None:
            continue
        for tokens, longer_s in _options(latency, width, prompt_tokens, chunks, row.prospect, round(row.worth / worth, 2)):
            if tokens <= row.most and step_s + longer_s <= max(row.most_s, step_s):
                drafted[i] = tokens
                width += tokens
                step_s += longer_s
                worth += row.worth * row.prospect.steps(tokens)
                break
    return drafted


@lru_cache(maxsize=4096)  # plans ask the same again and again
def _options(
    latency: LatencyModel, width: int, prompt_tokens: int, chunks: int, prospect: Prospect, share: float
) -> tuple[tuple[int, float], ...]:
    """The drafts that gain time in a step with so many rows, the best first: tokens, and how much longer the step becomes.

    None goes beyond the rows whose time was measured.
    """
    before_s, row_s = latency.step_s(width, prompt_tokens, chunks), latency.step_s(width)
    options = []
    for tokens in range(1, min(LONGEST_DRAFT, len(latency.decode_s) - width) + 1):
        longer_s = latency.step_s(width + tokens, prompt_tokens, chunks) - before_s
        gained_s = share * prospect.steps(tokens) * row_s - longer_s
        if gained_s > 0.0:
            options.append((gained_s, tokens, longer_s))
    return tuple((tokens, longer_s) for _, tokens, longer_s in sorted(options, key=lambda option: (-option[0], option[1])))
