"""Whatever the weights and the draw, an answer with a schema, regular expression or grammar that was not cut is one that it accepts.

python -m pytest test/test_structured_output.py --structured-goals 1000
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice

import pytest
from jsonschema import validate

from slice_ros import schemas
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama import shapes as models
from slice_ros.goal import FinishReason, GoalRequest, Sampling
from slice_ros.mask import Cell
from slice_ros.slo import Slo

AT_ONCE = 32
SCHEMAS = (
    *schemas.BY_NAME.values(),
    schemas.tool_call(
        [{"name": "pick", "parameters": {"properties": {"object": {"type": "string"}, "n": {"type": "integer"}}}}, {"name": "stop"}]
    ),
    {"type": "string"},
    {"type": "object"},
    {"type": "array", "items": {"type": "number"}},
    {
        "properties": {
            "a": {"type": ["integer", "null"]},
            "b": {"type": "array", "items": {"enum": ["Küche", 'q"\\', "x\ny"]}, "minItems": 1, "maxItems": 3},
            "ü": {"type": "string", "maxLength": 5},
            "d": {"type": "string", "format": "date"},
            "e": {"type": "string", "minLength": 2, "maxLength": 120},
            "f": {"type": "array", "items": {"type": "null"}, "maxItems": 2},
            "g": {"type": "string", "pattern": "^[a-c]{2,3}(-x{2})?y{1,}$"},
        },
        "required": ["b"],
    },
)
GRAMMARS = {"[a-z]+ [.!]": "[a-z]+[.!]", '[1-9] [0-9]? ":" [0-5] [0-9]': "[1-9][0-9]?:[0-5][0-9]", "[^a-z]{3,9}": "[^a-z]{3,9}"}
"""And the regular expression for each."""

REGEXES = ("(stop|go( slowly)?)!", "-?[0-9]{1,3}\\.[0-9]")

Accepts = Callable[[str], object]


def forms() -> Iterator[tuple[dict[str, str], Accepts]]:
    """A goal's field, and what fails for an answer that does not follow it."""
    for schema in SCHEMAS:
        yield {"json_schema": json.dumps(schema)}, lambda text, schema=schema: validate(json.loads(text), schema)
    for pattern in REGEXES:
        yield {"regex": pattern}, lambda text, pattern=pattern: _match(pattern, text)
    for grammar, pattern in GRAMMARS.items():
        yield {"grammar": f"root ::= {grammar}"}, lambda text, pattern=pattern: _match(pattern, text)


def _match(pattern: str, text: str) -> None:
    assert re.fullmatch(pattern, text, re.DOTALL), text


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    # Random weights: every byte is about as likely as any other, also those that are no UTF-8.
    path = tmp_path_factory.mktemp("models") / "random.gguf"
    models.make_model(replace(models.START_SHAPE, embedding_length=64, block_count=1, feed_forward_length=64), path, "f32")
    engine = LlamaEngine(LlamaConfig(path, n_ctx=16384, n_threads=1))
    yield engine
    engine.shutdown()


@pytest.mark.timeout(900)
def test_every_answer_follows_its_form_unless_it_was_cut(engine: LlamaEngine, pytestconfig: pytest.Config) -> None:
    count = pytestconfig.getoption("--structured-goals")
    rng = random.Random(1)
    waiting = enumerate(islice(cycle(forms()), count))
    running: dict[str, Accepts] = {}
    pending: dict[str, int] = {}
    texts = dict.fromkeys(map(str, range(count)), "")
    followed = 0
    while True:
        column = [Cell(goal_id, pending[goal_id] if pending[goal_id] > 1 else 0) for goal_id in running]
        for i, (form, accepts) in islice(waiting, AT_ONCE - len(running)):
            sampling = Sampling() if i % 3 == 0 else Sampling(rng.choice((0.7, 1.0, 3.0)), seed=i)
            request = GoalRequest(str(i), Slo(), 300, prompt=f"goal {i}", sampling=sampling, **form)  # type: ignore[arg-type]
            tokens = engine.prepare(request) + engine.lead(request.goal_id) - engine.open(request.goal_id)
            column.append(Cell(request.goal_id, tokens if tokens > 1 else 0))
            running[request.goal_id] = accepts
        if not column:
            break
        for output in engine.step(tuple(column)):
            texts[output.goal_id] += output.text
            pending[output.goal_id] = output.pending
            if output.finish is not None:
                accepts = running.pop(output.goal_id)
                engine.close(output.goal_id)
                if output.finish is FinishReason.STOP:
                    accepts(texts[output.goal_id])
                    followed += 1
    assert followed > 0.8 * count
