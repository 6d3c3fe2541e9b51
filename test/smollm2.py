"""SmolLM2-135M-Instruct, a trained model that a package of the registry brings, and a way to serve many goals at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from slice_ros.engines.llama import LlamaEngine
from slice_ros.engines.llama.finding import packaged
from slice_ros.goal import GoalRequest
from slice_ros.mask import Cell
from slice_ros.scheduling.engine import Output

SMOLLM2 = packaged().get("smollm2", Path("smollm2 is not installed"))
needs_smollm2 = pytest.mark.skipif(not SMOLLM2.exists(), reason="without the extra smollm2 there is no trained model to talk to")


def serve(engine: LlamaEngine, requests: Sequence[GoalRequest], rng: random.Random | None = None) -> dict[str, list[Output]]:
    """Serve goals in steps of all of them, or of some at random, and give what each got."""
    pending: dict[str, int] = {}
    got: dict[str, list[Output]] = {request.goal_id: [] for request in requests}
    for request in requests:
        tokens = engine.prepare(request) + engine.lead(request.goal_id)
        pending[request.goal_id] = tokens - engine.open(request.goal_id)
    while pending:
        members = rng.sample(sorted(pending), rng.randrange(1, len(pending) + 1)) if rng else list(pending)
        column, room = [], engine.info.max_step_tokens
        for goal_id in members:
            tokens = min(pending[goal_id], room)
            if tokens:
                column.append(Cell(goal_id, tokens if pending[goal_id] > 1 else 0))
                pending[goal_id] -= tokens
                room -= tokens
        for output in engine.step(tuple(column)):
            assert output.error is None
            got[output.goal_id].append(output)
            pending[output.goal_id] = output.pending
            if output.finish is not None:
                del pending[output.goal_id]
                engine.close(output.goal_id)
    return got
