"""Decode steps and time of structured answers, one goal alone, from its submission to its end.

    python benchmarks/structured.py --model models/robot-q8_0.gguf --threads 2

Three ways: each token drawn in a step of its own, JSON as compact; what the form forces without a step; and guesses ahead besides, by what
the answers before it were. Each repeat asks something else; prompts are computed anew each time. With ``--beside-llama-server``
its time for the same questions and schemas is told as well, over HTTP, with as many threads.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any
from urllib.request import Request, urlopen

from forms import MOST_TOKENS, forms
from peers import LlamaServer, llama_server
from rich.console import Console
from rich.table import Table

from slice_ros import schemas
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.grammar import Grammar
from slice_ros.engines.llama.loading import device_name, physical_cores
from slice_ros.engines.llama.shapes import default_model_path
from slice_ros.goal import ChatMessage, FinishReason, GoalRequest
from slice_ros.mask import Cell
from slice_ros.slo import BestEffort


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    tokens: int
    steps: int
    taken_s: float


def ask(engine: LlamaEngine, name: str, prompt: str, schema: schemas.Schema, *, chat: bool, most: int = 0) -> Answer | None:
    """One goal, alone, with so many tokens guessed ahead; ``None`` if its answer did not end by itself."""
    engine.forget()
    text, tokens, steps = "", 0, 0
    asked: dict[str, Any] = {"messages": (ChatMessage("user", prompt),)} if chat else {"prompt": prompt}
    began_s = time.perf_counter()
    request = GoalRequest("goal", BestEffort(), MOST_TOKENS, label=name, json_schema=json.dumps(schema), **asked)
    left = engine.prepare(request) + engine.lead("goal") - engine.open("goal")
    finish = None
    while finish is None:
        (output,) = engine.step((Cell("goal", left if left > 1 else 0, drafted=engine.draft("goal", most) if most else 0),))
        text, tokens, steps = text + output.text, tokens + output.tokens, steps + 1
        left, finish = output.pending, output.finish
    taken_s = time.perf_counter() - began_s
    engine.close("goal")
    if finish is not FinishReason.STOP:
        return None
    return Answer(text, tokens, steps, taken_s)


def without_forced(engine: LlamaEngine, name: str, prompt: str, schema: schemas.Schema, *, chat: bool) -> Answer | None:
    """The same with each token drawn."""
    forced = Grammar.forced
    Grammar.forced = lambda _: ()  # type: ignore[method-assign, assignment]
    try:
        return ask(engine, name, prompt, schema, chat=chat)
    finally:
        Grammar.forced = forced  # type: ignore[method-assign]


def ask_llama_server(port: int, prompt: str, schema: schemas.Schema, *, chat: bool) -> Answer | None:
    """The same of a ``llama-server`` on this machine; its steps are not told."""
    body: dict[str, Any] = {"temperature": 0.0, "cache_prompt": False, "max_tokens": MOST_TOKENS}
    if chat:
        body |= {"messages": [{"role": "user", "content": prompt}]}
        body |= {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
    else:
        body |= {"prompt": prompt, "json_schema": schema}
    began_s = time.perf_counter()
    url = f"http://127.0.0.1:{port}/v1/{'chat/' if chat else ''}completions"
    with urlopen(Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}), timeout=60.0) as response:
        answered = json.load(response)
    taken_s = time.perf_counter() - began_s
    (choice,) = answered["choices"]
    if choice["finish_reason"] != "stop":
        return None
    text = choice["message"]["content"] if chat else choice["text"]
    return Answer(text, answered["usage"]["completion_tokens"], 0, taken_s)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="GGUF file; the default model without one")
    parser.add_argument("--threads", type=int, default=0, help="threads of llama.cpp; 0 = the physical cores")
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--most", type=int, default=15, help="tokens to guess ahead")
    parser.add_argument("--chat", action="store_true", help="ask in a message, with the model's chat template")
    parser.add_argument("--beside-llama-server", action="store_true", help="ask one, too; the first time it is built, which takes minutes")
    arguments = parser.parse_args(argv)
    arguments.model = model = arguments.model or default_model_path()
    arguments.threads = arguments.threads or physical_cores()
    config = LlamaConfig(model, n_ctx=2048, n_threads=arguments.threads, n_gpu_layers=arguments.gpu_layers)
    engine = LlamaEngine(config)
    table = Table(title=f"{engine.info.model} on {device_name(config)}: means of the steps, medians of the time, of {arguments.repeats}")
    shares = "of steps", "of ms"
    for column in ("answer", "tokens", "steps, each drawn", "ms", "forced", "ms", *shares, "guessed", "ms", *shares):
        table.add_column(column, justify="left" if column == "answer" else "right")
    peer: AbstractContextManager[LlamaServer | None] = nullcontext()
    if arguments.beside_llama_server:
        table.add_column("llama-server: tokens, ms; forced of that", justify="right")
        peer = llama_server(argparse.Namespace(**vars(arguments), context=2048, parallel=1))
    with peer as other:
        for row in rows(engine, forms(arguments.repeats), other, most=arguments.most, chat=arguments.chat):
            table.add_row(*row)
    engine.shutdown()
    Console(width=190 if arguments.beside_llama_server else 150).print(table)


def rows(
    engine: LlamaEngine, asked: Mapping[str, tuple[list[str], schemas.Schema]], other: LlamaServer | None, *, most: int, chat: bool
) -> Iterator[list[str]]:
    """A row for each kind of answer."""
    for name, (prompts, schema) in asked.items():
        ways: list[list[Answer]] = []
        for way in (without_forced, ask, partial(ask, most=most)):
            answers = [way(engine, f"{name} {len(ways)}", prompt, schema, chat=chat) for prompt in prompts]
            ways.append([answer for answer in answers if answer])
        if not all(ways):
            yield [name, "did not end"]
            continue
        print(f"{name}: {', '.join(answer.text for answer in ways[-1][:3])}, ...")
        figures = [(mean(a.steps for a in answers), median(a.taken_s for a in answers)) for answers in ways]
        (steps, taken_s), *others = figures
        row = [name, f"{mean(a.tokens for a in ways[0]):.1f}", f"{steps:.1f}", f"{1e3 * taken_s:.0f}"]
        for new_steps, new_s in others:
            row += [f"{new_steps:.1f}", f"{1e3 * new_s:.0f}", f"{new_steps / steps:.2f}", f"{new_s / taken_s:.2f}"]
        if other:
            row.append("did not end")
            if theirs := [answer for prompt in prompts if (answer := ask_llama_server(other.port, prompt, schema, chat=chat))]:
                their_s = median(a.taken_s for a in theirs)
                row[-1] = f"{mean(a.tokens for a in theirs):.1f}, {1e3 * their_s:.0f}; {figures[1][1] / their_s:.2f}"
        yield row


if __name__ == "__main__":
    main()
