"""Train a toy that reasons, for benchmarks: ``python -m training.reasoner --output build/reasoner.gguf``; ``sums`` says what it learns."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from training.export import export
from training.network import Network
from training.sums import SPECIAL, TEMPLATE, Sum, draw, draw_cut
from training.tokenizer import Tokenizer
from training.train import NO_TARGET, Recipe, TokensAndTargets, bar, batches, train

DESCRIPTION = "Adds small numbers step by step, or at once; a toy for benchmarks of reasoning, trained by slice_ros"
ROLES = ("user", "assistant")
CUTS: dict[str, Callable[[Sum], int | None]] = {"at once": lambda _: 0, "half": lambda of: len(of.thoughts) // 2, "whole": lambda _: None}
"""How much of its thoughts the toy had, where it is asked how it does."""


def sum_examples(tokenizer: Tokenizer, recipe: Recipe) -> Callable[[int], TokensAndTargets]:
    """Fresh sums, with all of their thoughts or some."""
    rng = random.Random(f"sums {recipe.seed}")

    def example(_step: int) -> TokensAndTargets:
        of = draw(rng)
        return tokenised(tokenizer, of, draw_cut(rng, of))

    return example


def tokenised(tokenizer: Tokenizer, of: Sum, cut: int | None) -> TokensAndTargets:
    pieces = [(token, is_said) for text, is_said in of.told(cut) for token in tokenizer.encode(text)]
    tokens = [token for token, _ in pieces]
    return tokens[:-1], [token if is_said else NO_TARGET for token, is_said in pieces[1:]]


@torch.no_grad()
def right(network: Network, tokenizer: Tokenizer, how: Callable[[Sum], int | None], count: int = 100) -> float:
    """Share of sums of which all that is to be said is what the network finds most likely."""
    rng, good = random.Random("asked"), 0
    for of in (draw(rng) for _ in range(count)):
        tokens, targets = (torch.tensor([row]) for row in tokenised(tokenizer, of, how(of)))
        said = network.logits(network(tokens, torch.zeros_like(tokens), torch.arange(tokens.shape[1])[None])).argmax(-1)
        good += bool((said == targets)[targets != NO_TARGET].all())
    return good / count


def main(argv: list[str] | None = None) -> int:
    """Train and export."""
    standard = Recipe(steps=1200, width=160, blocks=3, heads=5, feed_forward=256, rows=16, row_tokens=192)
    parser = argparse.ArgumentParser(prog="python -m training.reasoner", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/reasoner.gguf"), metavar="GGUF", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=standard.steps, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=standard.seed, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    console, recipe = Console(), replace(standard, seed=arguments.seed, steps=arguments.steps)
    tokenizer = Tokenizer(Tokenizer.train((), 1024, ROLES).merges, SPECIAL)
    network = Network(replace(recipe.shape(tokenizer.size), name="slice_ros reasoner"))
    console.print(f"{sum(weights.numel() for weights in network.parameters())} weights, {tokenizer.size} tokens; {recipe}")
    save = partial(export, network, tokenizer, arguments.output, "f32", description=DESCRIPTION, template=TEMPLATE)
    with bar(console) as progress:
        for step in train(network, batches(sum_examples(tokenizer, recipe), recipe), recipe, progress, arguments.threads):
            if step % 100 == 0 or step == recipe.steps:
                shares = ", ".join(f"{name} {right(network, tokenizer, how):.0%}" for name, how in CUTS.items())
                console.print(f"step {step}: answers right with thoughts {shares}", highlight=False)
                save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
