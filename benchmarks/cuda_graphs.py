"""Whether llama.cpp survives its CUDA graphs on this machine: decodes of changing width and prompts, by its low-level API alone.

    python benchmarks/cuda_graphs.py --model chatglm2-6b-q4_0.gguf

Each run is a process of its own, as a CUDA error ends it: with graphs as llama.cpp makes them, then without one thing after the other,
which tells where a fault comes from. All runs decode the same. Without a GPU it shows that the program runs.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from array import array
from dataclasses import replace
from pathlib import Path

import llama_cpp
from rich.console import Console
from rich.table import Table

from slice_ros.engines.llama import LlamaConfig
from slice_ros.engines.llama.batch import Batch
from slice_ros.engines.llama.loading import NO_CUDA_GRAPHS, load
from slice_ros.engines.llama.shapes import START_SHAPE, make_start_model

VARIANTS: dict[str, dict[str, str]] = {
    "with graphs": {},
    "without programmatic dependent launch": {"GGML_CUDA_PDL": "0"},
    "without fused kernels": {"GGML_CUDA_DISABLE_FUSION": "1"},
    "without graphs": {NO_CUDA_GRAPHS: "1"},
}
"""What is different in each run: environment variables of llama.cpp."""
SEQUENCES = 16
CELLS = 8192
LONGEST_PROMPT = 40
PAUSE_S = 11.0
"""Once, half way: llama.cpp gives up graphs that were not run for 10 s."""
TOKENS = 200
"""The tokens of prompts and answers are the first of any vocabulary: which ones says nothing here."""


def decode(model: Path, rounds: int, gpu_layers: int) -> None:
    """So many rounds: perhaps a prompt, then a few steps of some of the sequences; tells each on standard output."""
    config = LlamaConfig(model, n_ctx=CELLS, n_seq_max=SEQUENCES, n_threads=2, n_gpu_layers=gpu_layers, cuda_graphs=True)
    _, _, context = load(config)
    memory = llama_cpp.llama_get_memory(context)
    batch, rng, lengths = Batch(512, CELLS), random.Random(0), [0] * SEQUENCES

    def add(sequence: int, count: int) -> None:
        if lengths[sequence] + count > CELLS // SEQUENCES:
            llama_cpp.llama_memory_seq_rm(memory, sequence, -1, -1)
            lengths[sequence] = 0
        end = lengths[sequence] + count
        batch.add(array("i", [rng.randrange(TOKENS) for _ in range(end)]), lengths[sequence], count, sequence, wanted=1)
        lengths[sequence] = end

    def step() -> None:
        if llama_cpp.llama_decode(context, batch.filled()) != 0:
            sys.exit("llama_decode failed")
        llama_cpp.llama_synchronize(context)
        batch.clear()

    for number in range(1, rounds + 1):
        if number == rounds // 2 and llama_cpp.llama_supports_gpu_offload():
            time.sleep(PAUSE_S)
        if rng.random() < 0.5:
            add(rng.randrange(SEQUENCES), rng.randint(2, LONGEST_PROMPT))
            step()
        sequences = rng.sample(range(SEQUENCES), rng.randint(1, SEQUENCES))
        for _ in range(rng.randint(1, 5)):  # a graph is recorded when two steps are alike, and run from the next one on
            for sequence in sequences:
                add(sequence, 1)
            step()
        print(number, flush=True)


def outcome(model: Path, arguments: argparse.Namespace, environment: dict[str, str]) -> str:
    """How a run ended, in words."""
    command = [sys.executable, __file__, "--run", "--model", str(model), "--rounds", str(arguments.rounds)]
    command += ["--gpu-layers", str(arguments.gpu_layers)]
    inherited = {name: value for name, value in os.environ.items() if name != NO_CUDA_GRAPHS}
    done = subprocess.run(command, capture_output=True, text=True, env=inherited | environment, check=False)
    rounds = done.stdout.split()[-1:] or ["0"]
    if done.returncode == 0:
        return f"{rounds[0]} rounds, no fault"
    said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    return f"ended after {rounds[0]} rounds with status {done.returncode}: {(said or done.stderr.splitlines() or ['nothing was said'])[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="PATH", help="GGUF file (default: a tiny one in F32, as the tests have)")
    parser.add_argument("--gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU, if there is one (default: all)")
    parser.add_argument("--rounds", type=int, default=150, metavar="N", help="of decodes, some four steps each (default: %(default)s)")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        decode(arguments.model, arguments.rounds, arguments.gpu_layers)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if model is None:
            model = Path(folder) / "tiny.gguf"
            make_start_model(model, shape=replace(START_SHAPE, block_count=2))
        table = Table(title=f"{model.name}, {SEQUENCES} sequences")
        for column in ("run", "outcome"):
            table.add_column(column)
        for name, environment in VARIANTS.items():
            table.add_row(name, outcome(model, arguments, environment))
    Console().print(table)


if __name__ == "__main__":
    main()
