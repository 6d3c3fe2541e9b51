"""Train the default model: ``python -m training.train --output build/robot.pt``; ``training.export`` makes a GGUF of it."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from slice_ros.demo.language import NAMES, Example
from slice_ros.engines.llama.architectures import ModelShape
from training.corpus import held_out_examples, training_examples
from training.muon import Muon, has_bfloat16
from training.network import Network
from training.tokenizer import Tokenizer
from training.wrapping import END, wrap

SHARES = {"control": 0.12, "navigation": 0.3, "manipulation": 0.18, "dialogue": 0.25, "qa": 0.15}
"""How often each task is drawn."""
VOCABULARY_EXAMPLES = 15000
"""So many examples show the tokenizer every word."""
MOST_TOKENS = 1024
CONTEXT_LENGTH = 8192
"""What the file says it can take. Training saw examples of at most 192 tokens."""
NO_TARGET = -100

TokensAndTargets = tuple[list[int], list[int]]
"""An example's tokens, and for each the one to be said after it, or ``NO_TARGET``."""
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Tokens, examples, positions and targets, shape (rows, row tokens) each."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights.

    Args:
        row_tokens: length of a row; several examples share one.
        copy_steps: so many steps are for copying alone; in as many after them, the robot's examples take over.
        copy_share: share of examples that are for copying until the end.
        muon_lr: peak learning rate of the blocks' matrices.
        adam_lr: peak learning rate of embedding and norms.
    """

    seed: int = 1
    steps: int = 3000
    copy_steps: int = 200
    copy_share: float = 0.05
    warm_up_steps: int = 60
    rows: int = 16
    row_tokens: int = 192
    width: int = 224
    blocks: int = 5
    heads: int = 7
    feed_forward: int = 448
    muon_lr: float = 8e-3
    adam_lr: float = 2e-3
    longest_gradient: float = 1.0

    def shape(self, vocab_size: int) -> ModelShape:
        wide, ff, heads = self.width, self.feed_forward, self.heads
        return ModelShape("slice_ros robot", "llama", vocab_size, wide, self.blocks, heads, heads, ff, CONTEXT_LENGTH, 1e5, tied=True)

    def copies(self, step: int) -> float:
        """Share of the examples that are for copying."""
        return max(self.copy_share, min(1.0, 2.0 - step / self.copy_steps))

    def rate(self, step: int) -> float:
        """The learning rate's share of its peak: up in a line, and down in one."""
        if step < self.warm_up_steps:
            return (step + 1) / self.warm_up_steps
        return (self.steps - step) / max(1, self.steps - self.warm_up_steps)


def draw(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Endless prompts, half of them as chat messages, and answers."""
    sources = {task: training_examples(task, rng) for task in SHARES}
    while True:
        (task,) = rng.choices(list(SHARES), list(SHARES.values()))
        example: Example = next(sources[task])
        yield wrap(example.prompt, chat=rng.random() < 0.5), example.answer


def learn_vocabulary(seed: int) -> Tokenizer:
    examples = islice(draw(random.Random(f"vocabulary {seed}")), VOCABULARY_EXAMPLES)
    return Tokenizer.train((text for example in examples for text in example), MOST_TOKENS, NAMES)


def copying(rng: random.Random, size: int) -> TokensAndTargets:
    """Tokens and targets of an example for copying: random tokens, then stretches of what came before, to be continued.

    The fewer tokens there are to choose from, the more of them must agree to tell which stretch it is.

    Args:
        size: of the vocabulary.
    """
    known = rng.sample(range(size), rng.randint(8, 60))
    tokens = rng.choices(known, k=rng.randint(10, 50))
    targets = [NO_TARGET] * len(tokens)
    for _ in range(rng.randint(2, 5)):
        length = rng.randint(3, 9)
        start = rng.randrange(len(tokens) - length)
        stretch = tokens[start : start + length]
        tokens += stretch
        targets += [NO_TARGET, *stretch[2:], NO_TARGET]
    return tokens, targets


def robot_examples(tokenizer: Tokenizer, recipe: Recipe) -> Callable[[int], TokensAndTargets]:
    """Fresh examples of the robot's language, and such for copying. Only answers, and the token that ends them, are targets."""
    rng = random.Random(f"examples {recipe.seed}")
    examples = draw(rng)

    def example(step: int) -> TokensAndTargets:
        question, text = next(examples)
        if rng.random() < recipe.copies(step):
            return copying(rng, tokenizer.size)
        prompt, answer = tokenizer.encode(question), [*tokenizer.encode(text), tokenizer.special[END]]
        return [*prompt, *answer[:-1]], [NO_TARGET] * (len(prompt) - 1) + answer

    return example


def batches(example: Callable[[int], TokensAndTargets], recipe: Recipe) -> Iterator[Batch]:
    """Endless batches.

    Args:
        example: draws one for a batch of this number.
    """
    done = number = 0
    padding = (0, 0, 0, NO_TARGET)
    rows: list[list[tuple[int, int, int, int]]] = [[] for _ in range(recipe.rows)]
    while True:
        number += 1
        tokens, targets = example(done)
        row = next((row for row in rows if len(row) + len(tokens) <= recipe.row_tokens), None)
        if row is None:
            batch = torch.tensor([[*row, *[padding] * (recipe.row_tokens - len(row))] for row in rows])
            yield batch[..., 0], batch[..., 1], batch[..., 2], batch[..., 3]
            rows = [[] for _ in range(recipe.rows)]
            row = rows[0]
            done += 1
        row += [(token, number, i, target) for i, (token, target) in enumerate(zip(tokens, targets, strict=True))]


def bar(console: Console) -> Progress:
    """Shows how far training is."""
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)


def train(network: Network, batches: Iterator[Batch], recipe: Recipe, progress: Progress, threads: int) -> Iterator[int]:
    """Train step by step; yields the number of each step done."""
    parameters = dict(network.named_parameters())
    matrices = [name for name, weights in parameters.items() if name.startswith("blk.") and weights.ndim == 2]
    others = [weights for name, weights in parameters.items() if name not in matrices]
    optimizers: list[torch.optim.Optimizer] = [
        Muon((parameters[name] for name in matrices), lr=recipe.muon_lr, weight_decay=0.01),
        torch.optim.AdamW(others, recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate) for optimizer in optimizers]
    bar = progress.add_task("training", total=recipe.steps)
    began, mean = time.monotonic(), 0.0
    # One thread for each part of a batch: they meet once in a step, where PyTorch's own threads would meet in every operation.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for step, batch in zip(range(1, recipe.steps + 1), batches, strict=False):
            parts = list(
                pool.map(
                    partial(_gradients, network, int((batch[3] != NO_TARGET).sum())),
                    zip(*(part.chunk(threads) for part in batch), strict=True),
                )
            )
            for weights, *gradients in zip(parameters.values(), *(part for _, part in parts), strict=True):
                weights.grad = torch.stack(gradients).sum(0)
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.longest_gradient)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            mean += (sum(loss for loss, _ in parts) - mean) / min(step, 50)
            progress.update(bar, advance=1, description=f"loss {mean:.4f}")
            if step % 50 == 0 or step == recipe.steps:
                elapsed = time.monotonic() - began
                speed = step * batch[0].numel() / elapsed
                times = f"{elapsed:.0f} s, {time.process_time():.0f} s of CPU"
                progress.console.print(f"step {step}: loss {mean:.4f}, {speed:.0f} tokens/s, {times}", highlight=False)
            yield step


def _gradients(network: Network, count: int, part: Sequence[Tensor]) -> tuple[float, tuple[Tensor, ...]]:
    """Loss and gradients of a part of a batch, divided by the targets of the whole."""
    tokens, examples, positions, targets = part
    wanted = targets != NO_TARGET
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        logits = network.logits(network(tokens, examples, positions)[wanted])
    loss = F.cross_entropy(logits.float(), targets[wanted], reduction="sum") / count
    return loss.item(), torch.autograd.grad(loss, list(network.parameters()))


@torch.no_grad()
def exact(network: Network, tokenizer: Tokenizer, count: int = 100) -> dict[str, float]:
    """Share of held-out examples whose whole answer is right when each token is the most likely one, by task."""
    shares = {}
    for task in SHARES:
        right = 0
        for number, example in enumerate(islice(held_out_examples(task, 2), count)):
            prompt, answer = (
                tokenizer.encode(wrap(example.prompt, chat=number % 2 == 1)),
                [*tokenizer.encode(example.answer), tokenizer.special[END]],
            )
            row = torch.tensor([[*prompt, *answer[:-1]]])
            hidden = network(row, torch.zeros_like(row), torch.arange(row.shape[1])[None])[0, len(prompt) - 1 :]
            right += network.logits(hidden).argmax(-1).tolist() == answer
        shares[task] = right / count
    return shares


def save(network: Network, tokenizer: Tokenizer, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"shape": asdict(network.shape), "merges": tokenizer.merges, "weights": network.state_dict()}, path)


def load(path: Path) -> tuple[Network, Tokenizer]:
    """A saved network and its tokenizer.

    Raises:
        OSError: the file cannot be read.
    """
    saved = torch.load(path, weights_only=True)
    network = Network(ModelShape(**saved["shape"]))
    network.load_state_dict(saved["weights"])
    return network, Tokenizer(saved["merges"])


def main(argv: list[str] | None = None) -> int:
    """Train and save."""
    standard = Recipe()
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/robot.pt"), help="checkpoint (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=standard.steps, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=standard.seed, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--save-every", type=int, default=250, metavar="STEPS", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    console, recipe = Console(), Recipe(seed=arguments.seed, steps=arguments.steps)
    tokenizer = learn_vocabulary(recipe.seed)
    network = Network(recipe.shape(tokenizer.size))
    console.print(f"{sum(weights.numel() for weights in network.parameters())} weights, {tokenizer.size} tokens; {recipe}")
    with bar(console) as progress:
        for step in train(network, batches(robot_examples(tokenizer, recipe), recipe), recipe, progress, arguments.threads):
            if step % arguments.save_every == 0:
                shares = ", ".join(f"{task} {share:.0%}" for task, share in exact(network, tokenizer).items())
                console.print(f"step {step}: {shares}", highlight=False)
                save(network, tokenizer, arguments.output)
    save(network, tokenizer, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
