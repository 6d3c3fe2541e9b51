"""A small llama.cpp engine that is exact, and goals that it serves in any order: what tests of what an engine computes share."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field, replace
from pathlib import Path

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.shapes import START_SHAPE, make_model
from slice_ros.goal import FinishReason, GoalRequest, TokenLogprob
from slice_ros.mask import Cell


def exact_engine(folder: Path) -> LlamaEngine:
    path = folder / "small.gguf"
    make_model(replace(START_SHAPE, embedding_length=64, block_count=2, feed_forward_length=64), path, "f32")
    # Flash attention on CPUs rounds to 16 bits, so that what shares a step would change a draw in a thousand.
    return LlamaEngine(LlamaConfig(path, n_ctx=8192, flash_attn=False, type_k="f32", type_v="f32", n_threads=1))


@dataclass
class Got:
    """All that a goal got."""

    text: str = ""
    tokens: int = 0
    steps: int = 0
    right: int = 0
    saved: int = 0
    finish: FinishReason | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    computed: array[int] = field(default_factory=lambda: array("i"))


def serve(
    engine: LlamaEngine, requests: list[GoalRequest], rng: random.Random, *, calm: bool = False, cancels: float = 0.0, drafts: bool = False
) -> dict[str, Got]:
    """Serve goals together in random order, with prompts and forced tokens in pieces, pauses and evictions; or one by one.

    Args:
        calm: one by one.
        cancels: share of the cells whose goal is canceled instead.
        drafts: whether goals guess what comes next.
    """
    got = {request.goal_id: Got() for request in requests}
    for batch in ([request] for request in requests) if calm else (requests,):
        left = {request.goal_id: engine.prepare(request) + engine.lead(request.goal_id) for request in batch}
        opened: set[str] = set()
        while left:
            column = []
            for goal_id in rng.sample(sorted(left), 1 if calm else rng.randrange(1, len(left) + 1)):
                if rng.random() < cancels:
                    engine.close(goal_id)
                    del left[goal_id]
                    continue
                if not calm and goal_id in opened and rng.random() < 0.1:
                    engine.evict(goal_id)
                    opened.discard(goal_id)
                if goal_id not in opened:
                    whole = engine._goals[goal_id].tokens
                    left[goal_id] = len(whole) - engine.open(goal_id)
                    opened.add(goal_id)
                elif rng.random() < 0.2:
                    left[goal_id] -= engine.reuse(goal_id)
                count = left[goal_id] if calm else min(left[goal_id], rng.choice((1, 2, 3, 5, 40)))
                drafted = 0
                if drafts and count == left[goal_id] and (drafted := engine.draft(goal_id, rng.choice((0, 1, 3, 9)))):
                    drafted = rng.randrange(drafted + 1)  # as much of it as there is room for
                column.append(Cell(goal_id, 0 if left[goal_id] == 1 else count, drafted=drafted))
            if not column:
                continue
            for cell in column:
                left[cell.goal_id] -= cell.prompt_tokens or 1
            drafted_of = {cell.goal_id: cell.drafted for cell in column}
            for output in engine.step(tuple(column)):
                mine = got[output.goal_id]
                assert output.error is None
                assert mine.finish is None
                assert 0 <= output.right <= drafted_of[output.goal_id]
                assert 0 <= output.saved <= output.right
                mine.text += output.text
                mine.tokens += output.tokens
                mine.steps += 1
                mine.right += output.right
                mine.saved += output.saved
                mine.finish = output.finish
                mine.logprobs += output.logprobs
                left[output.goal_id] = output.pending
                assert engine.cached(output.goal_id) == len(engine._goals[output.goal_id].tokens) - output.pending
                if output.finish is not None:
                    goal = engine._goals[output.goal_id]
                    mine.computed = goal.tokens[: goal.told]
                    engine.close(output.goal_id)
                    del left[output.goal_id]
            assert engine.kv.used <= sum(len(goal.tokens) for goal in engine._goals.values()), "rejected tokens hold no cells"
    return got
