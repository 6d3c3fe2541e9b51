"""Decode steps and time of structured answers, one goal alone, from its submission to its end.

    python benchmarks/structured.py --model models/robot-q8_0.gguf --threads 2 --repeats 7

With forced tokens, and without them: each token drawn in a step of its own, JSON as compact. Medians; prompts are computed anew each time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from slice_ros import schemas
from slice_ros.demo.language import control, navigation
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.grammar import Grammar
from slice_ros.engines.llama.loading import device_name
from slice_ros.engines.llama.shapes import default_model_path
from slice_ros.goal import ChatMessage, FinishReason, GoalRequest
from slice_ros.mask import Cell
from slice_ros.slo import BestEffort

MOST_TOKENS = 200
TOOLS = (
    ("move_to", {"place": {"enum": ["kitchen", "hall", "lab", "dock"]}, "speed": {"enum": ["slow", "normal", "fast"]}}),
    ("pick_up", {"object": {"enum": ["cup", "box", "bottle"]}, "hand": {"enum": ["left", "right"]}}),
    ("say", {"text": {"type": "string", "maxLength": 30}}),
    ("take_picture", {"camera": {"enum": ["front", "back"]}, "flash": {"type": "boolean"}}),
    ("wait", {"seconds": {"enum": [1, 2, 5, 10, 30, 60]}}),
)


def forms() -> dict[str, tuple[str, schemas.Schema]]:
    """A prompt and a schema for each kind of answer."""
    tools = [
        {"name": name, "parameters": {"type": "object", "properties": of, "required": list(of), "additionalProperties": False}}
        for name, of in TOOLS
    ]
    prompts = {
        "velocity": control(random.Random(1)).prompt,
        "pose": "Where is the dock?",
        "navigation": navigation(random.Random(1)).prompt,
        "gripper": "Take the cup.",
    }
    named = {name: (prompts[name], schema) for name, schema in schemas.BY_NAME.items()}
    return named | {
        "call of one of five tools": ("Bring me the cup from the kitchen. Which tool do you call first?", schemas.tool_call(tools))
    }


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    tokens: int
    steps: int
    taken_s: float


def ask(engine: LlamaEngine, prompt: str, schema: schemas.Schema, *, chat: bool) -> Answer | None:
    """One goal, alone; ``None`` if its answer did not end by itself."""
    engine.forget()
    text, tokens, steps = "", 0, 0
    asked: dict[str, Any] = {"messages": (ChatMessage("user", prompt),)} if chat else {"prompt": prompt}
    began_s = time.perf_counter()
    left = engine.prepare(GoalRequest("goal", BestEffort(), MOST_TOKENS, json_schema=json.dumps(schema), **asked)) + engine.lead("goal")
    left -= engine.open("goal")
    finish = None
    while finish is None:
        (output,) = engine.step((Cell("goal", left if left > 1 else 0),))
        text, tokens, steps = text + output.text, tokens + output.tokens, steps + 1
        left, finish = output.pending, output.finish
    taken_s = time.perf_counter() - began_s
    engine.close("goal")
    if finish is not FinishReason.STOP:
        return None
    return Answer(text, tokens, steps, taken_s)


def without_forced(engine: LlamaEngine, prompt: str, schema: schemas.Schema, *, chat: bool) -> Answer | None:
    """The same with each token drawn."""
    forced = Grammar.forced
    Grammar.forced = lambda _: ()  # type: ignore[method-assign, assignment]
    try:
        return ask(engine, prompt, schema, chat=chat)
    finally:
        Grammar.forced = forced  # type: ignore[method-assign]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="GGUF file; the default model without one")
    parser.add_argument("--threads", type=int, default=0, help="threads of llama.cpp; 0 = the physical cores")
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--chat", action="store_true", help="ask in a message, with the model's chat template")
    arguments = parser.parse_args(argv)
    model = arguments.model or default_model_path()
    config = LlamaConfig(model, n_ctx=2048, n_threads=arguments.threads, n_gpu_layers=arguments.gpu_layers)
    engine = LlamaEngine(config)
    table = Table(title=f"{engine.info.model} on {device_name(config)}, medians of {arguments.repeats}")
    for column in ("answer", "tokens", "steps", "ms", "tokens, each drawn", "steps", "ms", "steps / steps", "ms / ms"):
        table.add_column(column, justify="left" if column == "answer" else "right")
    for name, (prompt, schema) in forms().items():
        pairs = []
        for _ in range(arguments.repeats):
            new, old = (way(engine, prompt, schema, chat=arguments.chat) for way in (ask, without_forced))
            if new and old:
                pairs.append((new, old))
        if not pairs:
            table.add_row(name, "did not end")
            continue
        (new, old), (new_s, old_s) = pairs[0], (statistics.median(pair[i].taken_s for pair in pairs) for i in (0, 1))
        table.add_row(
            name, str(new.tokens), str(new.steps), f"{1e3 * new_s:.0f}", str(old.tokens), str(old.steps), f"{1e3 * old_s:.0f}",
            f"{new.steps / old.steps:.2f}", f"{new_s / old_s:.2f}",
        )  # fmt: skip
        print(f"{name}: {new.text}")
    engine.shutdown()
    Console().print(table)


if __name__ == "__main__":
    main()
