"""Ask a GGUF for held-out examples through the server's own engine, greedily: ``python -m training.evaluate models/robot-q8_0.gguf``."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from slice_ros import schemas
from slice_ros.demo.language import TASKS, Example
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.goal import ChatMessage, GoalRequest
from slice_ros.mask import Cell
from slice_ros.slo import Slo
from training.corpus import held_out_examples

MAX_TOKENS = {"control": 25, "navigation": 25, "manipulation": 60, "dialogue": 120, "qa": 200}
AT_ONCE = 16
"""Goals in one step."""


def _call(tool: str, *arguments: str) -> dict[str, object]:
    names = ("tool", *arguments)
    properties: dict[str, object] = {"tool": {"const": tool}, **{name: {"type": "string"} for name in arguments}}
    return {"type": "object", "properties": properties, "required": list(names), "additionalProperties": False}


SCHEMAS: dict[str, dict[str, object]] = {
    "control": schemas.velocity(),
    "navigation": schemas.navigation(),
    "manipulation": {
        "type": "array",
        "items": {"anyOf": [_call("pick", "object", "on"), _call("place", "on"), _call("hand_over"), _call("search", "object")]},
        "minItems": 1,
        "maxItems": 3,
    },
}
"""JSON schemas of the tasks that answer in JSON."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model made of an example."""

    example: Example
    text: str

    @property
    def accepted(self) -> bool:
        return self.example.accepts(self.text)

    @property
    def is_json(self) -> bool:
        try:
            json.loads(self.text)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Score:
    """Shares of a task's answers."""

    task: str
    chat: bool
    grammar: bool
    count: int
    accepted: float
    json_valid: float | None
    tokens: tuple[int, float, int]


def ask(engine: LlamaEngine, requests: Sequence[GoalRequest]) -> tuple[list[str], list[int]]:
    """Answer all requests together.

    Returns:
        The answers, and their lengths in tokens.
    """
    texts = {request.goal_id: "" for request in requests}
    lengths = dict.fromkeys(texts, 0)
    waiting = list(requests)
    running: dict[str, int] = {}  # and their tokens to compute
    while waiting or running:
        if waiting and len(running) < AT_ONCE:
            request = waiting.pop()
            tokens = engine.prepare(request) + engine.lead(request.goal_id)
            running[request.goal_id] = tokens - engine.open(request.goal_id)
        for output in engine.step(tuple(Cell(goal_id, left if left > 1 else 0) for goal_id, left in running.items())):
            texts[output.goal_id] += output.text
            lengths[output.goal_id] += output.tokens
            running[output.goal_id] = output.pending
            if output.finish is not None:
                del running[output.goal_id]
                engine.close(output.goal_id)
    return list(texts.values()), list(lengths.values())


def request_for(example: Example, number: int, *, chat: bool, grammar: bool) -> GoalRequest:
    request = GoalRequest(
        str(number),
        Slo(),
        MAX_TOKENS[example.task],
        prompt=example.prompt,
        json_schema=json.dumps(SCHEMAS[example.task]) if grammar else "",
    )
    return replace(request, prompt="", messages=(ChatMessage("user", example.prompt),)) if chat else request


def score(engine: LlamaEngine, task: str, examples: Sequence[Example], *, chat: bool, grammar: bool) -> tuple[Score, list[Answer]]:
    """How the model does on a task's examples."""
    texts, lengths = ask(engine, [request_for(example, i, chat=chat, grammar=grammar) for i, example in enumerate(examples)])
    answers = [Answer(example, text) for example, text in zip(examples, texts, strict=True)]
    json_valid = _share(answer.is_json for answer in answers) if task in SCHEMAS else None
    tokens = min(lengths), sum(lengths) / len(lengths), max(lengths)
    return Score(task, chat, grammar, len(answers), _share(answer.accepted for answer in answers), json_valid, tokens), answers


def _share(verdicts: Iterable[bool]) -> float:
    passed = list(verdicts)
    return sum(passed) / len(passed)


def score_table(scores: Iterable[Score], title: str) -> Table:
    table = Table(title=title)
    for name in ("task", "prompt", "grammar", "examples", "exact", "JSON valid", "tokens (min, mean, max)"):
        table.add_column(name)
    for s in scores:
        valid = "-" if s.json_valid is None else f"{s.json_valid:.1%}"
        lengths = "{}, {:.0f}, {}".format(*s.tokens)
        table.add_row(
            s.task, "chat" if s.chat else "plain", "yes" if s.grammar else "no", str(s.count), f"{s.accepted:.1%}", valid, lengths
        )
    return table


def main(argv: list[str] | None = None) -> int:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("model", type=Path, help="GGUF file")
    parser.add_argument("--examples", type=int, default=400, help="of each task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", action="append", choices=list(TASKS), help="these only; may be given several times")
    parser.add_argument("--misses", type=int, default=0, metavar="N", help="show so many wrong answers of each row")
    parser.add_argument("--threads", type=int, default=0, help="0 takes the physical cores")
    arguments = parser.parse_args(argv)
    console = Console()
    engine = LlamaEngine(LlamaConfig(arguments.model, n_seq_max=AT_ONCE, n_threads=arguments.threads))
    rows = [
        (task, chat, grammar)
        for task in arguments.task or TASKS
        for chat in (False, True)
        for grammar in ((False, True) if task in SCHEMAS else (False,))
    ]
    scores = []
    for task, chat, grammar in track(rows, "asking", console=Console(stderr=True)):
        examples = list(islice(held_out_examples(task, arguments.seed), arguments.examples))
        row, answers = score(engine, task, examples, chat=chat, grammar=grammar)
        scores.append(row)
        for answer in random.Random(0).sample(
            missed := [answer for answer in answers if not answer.accepted], min(arguments.misses, len(missed))
        ):
            console.print(f"{answer.example.prompt}\n  said   {answer.text}\n  wanted {answer.example.answer}", markup=False)
    engine.shutdown()
    console.print(score_table(scores, f"{arguments.model.name}: {arguments.examples} held-out examples of each task, greedy"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
