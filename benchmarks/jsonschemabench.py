"""How many schemas of JSONSchemaBench are taken, and kept exactly, by category; beside llguidance alone.

    git clone https://github.com/guidance-ai/jsonschemabench
    python benchmarks/jsonschemabench.py jsonschemabench --most 100

A schema is right if it is taken, every valid instance can be an answer, and no invalid one can. Instances are tried as compact JSON, token
by token with the default model's vocabulary, as an answer would be drawn. Schemas without instances count as taken only.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import llama_cpp
from llguidance import LLMatcher
from rich.console import Console
from rich.progress import track
from rich.table import Table

from slice_ros.engines.llama.grammar import Grammars
from slice_ros.engines.llama.shapes import default_model_path
from slice_ros.engines.llama.vocabulary import Vocabulary
from slice_ros.goal import GoalError, GoalRequest
from slice_ros.slo import BestEffort

Accepts = Callable[[Sequence[int]], bool]
"""Whether tokens are a whole answer."""


@dataclass(slots=True)
class Count:
    """Schemas of one category."""

    schemas: int = 0
    with_instances: int = 0
    taken: int = 0
    right: int = 0
    alone_taken: int = 0
    alone_right: int = 0


class Judge:
    """Takes schemas as the engine does, and as llguidance does by itself."""

    def __init__(self, model: Path) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(model).encode(), parameters)
        self._vocabulary = Vocabulary(self._model)
        self._grammars = Grammars(self._vocabulary)

    def tokens(self, instance: Any) -> Sequence[int]:
        text = json.dumps(instance, separators=(",", ":"), ensure_ascii=False)
        return self._vocabulary.tokenize(text, add_special=False, parse_special=False)

    def ours(self, schema: dict[str, Any]) -> Accepts | None:
        """``None`` if the schema is refused."""
        request = GoalRequest("goal", BestEffort(), 1, prompt="x", json_schema=json.dumps(schema))

        def accepts(tokens: Sequence[int]) -> bool:
            grammar = self._grammars.make(request)
            assert grammar is not None
            for token in tokens:
                if grammar.is_complete or not grammar.allows(token):
                    return False
                grammar.accept(token)
            return grammar.is_complete or any(grammar.allows(token) for token in self._vocabulary.ending)

        try:
            self._grammars.make(request)
        except GoalError:
            return None
        return accepts

    def alone(self, schema: dict[str, Any]) -> Accepts | None:
        """``None`` if the schema is refused."""
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
        except ValueError:
            return None

        def matcher() -> LLMatcher:
            return LLMatcher(self._grammars.tokenizer, grammar, log_level=0)

        def accepts(tokens: Sequence[int]) -> bool:
            one = matcher()
            return all(not one.is_stopped() and one.consume_token(token) for token in tokens) and one.is_accepting()

        return None if matcher().is_error() else accepts


def is_right(accepts: Accepts | None, tests: Sequence[tuple[Sequence[int], bool]]) -> bool:
    return accepts is not None and all(accepts(tokens) == valid for tokens, valid in tests)


def category(path: Path) -> str:
    return path.stem.partition("---")[0] if "---" in path.stem else re.sub(r"_?\d+$", "", path.stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of guidance-ai/jsonschemabench")
    parser.add_argument("--most", type=int, default=100, metavar="N", help="schemas of each category, drawn at random")
    parser.add_argument("--model", type=Path, default=None, help="whose vocabulary; the default model's without one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    parser.add_argument("--differ", action="store_true", help="name the schemas that only one of the two gets right")
    arguments = parser.parse_args()
    categories: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((arguments.checkout / "maskbench" / "data").glob("*.json")):
        categories[category(path)].append(path)
    if not categories:
        parser.error(f"{arguments.checkout} has no schemas in maskbench/data; is it a checkout of guidance-ai/jsonschemabench?")
    rng = random.Random(arguments.seed)
    paths = [
        path for named in categories.values() for path in (rng.sample(named, arguments.most) if len(named) > arguments.most else named)
    ]
    judge, counts, console = Judge(arguments.model or default_model_path()), defaultdict[str, Count](Count), Console()
    for path in track(paths, "trying", console=Console(stderr=True)):
        content = json.loads(path.read_text())
        tests = [(judge.tokens(test["data"]), bool(test["valid"])) for test in content.get("tests", ())]
        ours, alone = judge.ours(content["schema"]), judge.alone(content["schema"])
        right, alone_right = is_right(ours, tests), is_right(alone, tests)
        count = counts[category(path)]
        count.schemas += 1
        count.with_instances += bool(tests)
        count.taken += ours is not None
        count.right += right and bool(tests)
        count.alone_taken += alone is not None
        count.alone_right += alone_right and bool(tests)
        if arguments.differ and right != alone_right:
            console.print(f"{path.name}: {'only here' if right else 'only llguidance alone'}")
    table = Table(title="JSONSchemaBench, shares of the schemas: taken; of those with instances: kept exactly")
    for column in ("category", "schemas", "taken", "llguidance", "with instances", "right", "llguidance"):
        table.add_column(column, justify="left" if column == "category" else "right")
    for name, count in sorted(counts.items()):
        some = max(1, count.with_instances)
        table.add_row(
            name, str(count.schemas), f"{count.taken / count.schemas:.2f}", f"{count.alone_taken / count.schemas:.2f}",
            str(count.with_instances), f"{count.right / some:.2f}", f"{count.alone_right / some:.2f}",
        )  # fmt: skip
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({name: asdict(count) for name, count in counts.items()}, indent=1))


if __name__ == "__main__":
    main()
