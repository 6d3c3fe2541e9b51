"""Greedy tokens drawn on the device, in llama.cpp's compute graph, against the search in logits that are copied from it.

    python benchmarks/device_sampling.py --model chatglm2-6b-q4_0.gguf
    python benchmarks/device_sampling.py --threads 1 --busy

A step's time as each way takes it: with the same sequences in all steps, and with others in every second one, for which llama.cpp must
build its graph again where samplers are part of it. ``--busy`` takes the processor time of this thread instead, which other work on the
machine does not change; with one thread and a small model of many layers it shows what the graph costs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from rich.console import Console
from rich.table import Table

from slice_ros.engines.llama import LlamaConfig
from slice_ros.engines.llama.batch import Batch
from slice_ros.engines.llama.loading import load
from slice_ros.engines.llama.shapes import START_SHAPE, make_start_model

SEQUENCES = 64
"""Sequences that a context has, as by default; in the second part all have a sampler."""
PROMPT_TOKENS = 32
WARM_STEPS = 8
NARROW = replace(START_SHAPE, block_count=28, embedding_length=64, head_count=2, head_count_kv=1, feed_forward_length=64)


class Decoder:
    """Greedy decodes on one context.

    Args:
        clock: tells the time that counts, s.
    """

    def __init__(self, config: LlamaConfig, clock: Callable[[], float]) -> None:
        model, _, self._context = load(config)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = Batch(config.n_batch, config.n_ctx)
        self._clock = clock
        self._samplers: list[Any] = []  # the context only borrows them

    def sample_on_device(self) -> float:
        """Give every sequence a sampler that takes the most likely token; returns how long a step with that takes, s."""
        for sequence in range(SEQUENCES):
            chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
            llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
            self._samplers.append(chain)
            if not llama_cpp.llama_set_sampler(self._context, sequence, chain):
                raise SystemExit("device_sampling: this llama.cpp cannot sample on this device")
        llama_cpp.llama_memory_clear(self._memory, True)
        began_s = self._clock()
        self._step([0], [0], [0])
        return self._clock() - began_s

    def run(self, width: int, steps: int, *, changing: bool) -> tuple[float, list[list[int]]]:
        """Decode ``width`` sequences; with ``changing`` there are twice as many, of which half takes part in turns.

        Returns:
            Median of a step's time, s, and the tokens of each sequence.
        """
        llama_cpp.llama_memory_clear(self._memory, True)
        count = 2 * width if changing else width
        texts = [self._prompt(sequence) for sequence in range(count)]
        times_s = []
        for number in range(steps + WARM_STEPS):
            sequences = range(number % 2, count, 2) if changing else range(count)
            began_s = self._clock()
            drawn = self._step(sequences, [texts[s][-1] for s in sequences], [PROMPT_TOKENS + len(texts[s]) - 1 for s in sequences])
            times_s.append(self._clock() - began_s)
            for sequence, token in zip(sequences, drawn, strict=True):
                texts[sequence].append(token)
        return statistics.median(times_s[WARM_STEPS:]), texts

    def _prompt(self, sequence: int) -> list[int]:
        self._batch.clear()
        tokens = array("i", [(7 * sequence + 3 * position) % 200 for position in range(PROMPT_TOKENS)])
        self._batch.add(tokens, 0, PROMPT_TOKENS, sequence, wanted=1)
        return self._decoded(1)

    def _step(self, sequences: Any, tokens: list[int], positions: list[int]) -> list[int]:
        self._batch.clear()
        for sequence, token, position in zip(sequences, tokens, positions, strict=True):
            self._batch.add(array("i", [0] * position + [token]), position, 1, sequence, wanted=1)
        return self._decoded(len(tokens))

    def _decoded(self, rows: int) -> list[int]:
        if llama_cpp.llama_decode(self._context, self._batch.filled()) != 0:
            raise SystemExit("device_sampling: llama_decode failed")
        if self._samplers:
            return [llama_cpp.llama_get_sampled_token_ith(self._context, row - rows) for row in range(rows)]
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), (rows, self._vocabulary))
        best: list[int] = logits.argmax(axis=1).tolist()
        return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="PATH", help="GGUF file (default: one of 28 narrow layers)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads of llama.cpp; 0 = the physical cores")
    parser.add_argument("--gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU, if there is one (default: all)")
    parser.add_argument("--widths", default="1,8,16,32", metavar="N,...", help="sequences in a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=64, metavar="N", help="of which the median is taken (default: %(default)s)")
    parser.add_argument("--busy", action="store_true", help="processor time of this thread instead of the time that passes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model is None:
            arguments.model = Path(folder) / "narrow.gguf"
            make_start_model(arguments.model, shape=NARROW)
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    config = LlamaConfig(
        arguments.model, n_seq_max=SEQUENCES, n_threads=arguments.threads, n_gpu_layers=arguments.gpu_layers, cuda_graphs=True
    )
    decoder = Decoder(config, time.thread_time if arguments.busy else time.perf_counter)
    runs = [(width, changing) for width in map(int, arguments.widths.split(",")) for changing in (False, True) if width <= SEQUENCES // 2]
    copied = [decoder.run(width, arguments.steps, changing=changing) for width, changing in runs]
    first_s = decoder.sample_on_device()
    drawn = [decoder.run(width, arguments.steps, changing=changing) for width, changing in runs]
    table = Table(title=f"{arguments.model.name}: a step, ms ({'processor time' if arguments.busy else 'time passed'})")
    for column in ("sequences", "than in the step before", "logits copied", "drawn on the device", "same tokens"):
        table.add_column(column, justify="right")
    for (width, changing), (copied_s, texts), (drawn_s, others) in zip(runs, copied, drawn, strict=True):
        which = "others" if changing else "the same"
        table.add_row(str(width), which, f"{1e3 * copied_s:.3f}", f"{1e3 * drawn_s:.3f}", "yes" if texts == others else "no")
    Console().print(table)
    Console().print(f"a step of one sequence after samplers were set: {1e3 * first_s:.1f} ms", highlight=False)


if __name__ == "__main__":
    main()
