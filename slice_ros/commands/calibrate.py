"""Measure how long steps take on this machine, and how far predictions are off.

Servers of this model with the same device and context take the result from the cache. The device profile that is written is for --device
and engine.device_profile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slice_ros.latency.model import LatencyModel

HELP = "measure step times for servers to come, and write a device profile"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.HelpFormatter  # the texts name the defaults themselves
    parser.add_argument("--model", default="", metavar="MODEL", help="GGUF file, folder or name (default: the package's own)")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of llama.cpp; 0 = the physical cores (default: %(default)s)"
    )
    parser.add_argument(
        "--gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU, if there is one; -1 = all (default: %(default)s)"
    )
    parser.add_argument("--context", type=int, default=8192, metavar="TOKENS", help="KV cells of llama.cpp (default: %(default)s)")
    parser.add_argument("--max-batch", type=int, default=16, metavar="N", help="measure steps of 1 to N goals (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.yaml", help="profile to write (default: standard output)")


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from slice_ros.bench.rows import percentile
    from slice_ros.engines.calibration import measure_latency, relative_errors
    from slice_ros.engines.llama import LlamaConfig, LlamaEngine
    from slice_ros.engines.llama.finding import find
    from slice_ros.process.saved_latency import save, saved_path
    from slice_ros.scheduling.engine import EngineError

    if arguments.max_batch < 1:
        print(f"slice-ros calibrate: --max-batch is {arguments.max_batch}; it must be 1 or more", file=sys.stderr)
        return 2
    console = Console(stderr=True)
    try:
        config = LlamaConfig(
            find(arguments.model),
            n_ctx=arguments.context,
            n_seq_max=max(2, arguments.max_batch),
            prefix_cache=0,
            n_threads=arguments.threads,
            n_gpu_layers=arguments.gpu_layers,
        )
        engine = LlamaEngine(config)
        try:
            with Progress(console=console) as progress:
                bar = progress.add_task("measuring step times", total=1.0)
                latency = measure_latency(
                    engine, max_batch=arguments.max_batch, on_progress=lambda share: progress.update(bar, completed=share)
                )
            with console.status("comparing predictions with fresh steps"):
                errors = relative_errors(engine, latency, max_batch=arguments.max_batch)
            path = saved_path(engine.info, config, arguments.max_batch)
        finally:
            engine.shutdown()
        (median, most), (noise, most_noise) = (
            [f"{100 * percentile(values, percent):.1f} %" for percent in (50, 90)] for values in (errors.relative, errors.noise)
        )
        accuracy = (
            f"predictions of {len(errors.relative)} random steps are off by {median} in the median, {most} at the 90th percentile; "
            f"equal steps differ by {noise} and {most_noise} on this machine"
        )
        description = f"{latency.device}; {accuracy}"
        print(accuracy, file=sys.stderr)
        print(meaning(latency), file=sys.stderr)
        try:
            save(path, latency, description)
            print(f"saved for servers: {path}", file=sys.stderr)
        except OSError as error:
            print(f"servers will have to measure again, as {path} cannot be written: {error}", file=sys.stderr)
        text = latency.to_yaml(description)
        if arguments.output:
            arguments.output.write_text(text, encoding="utf-8")
        else:
            print(text, end="")
    except (EngineError, OSError) as error:
        print(f"slice-ros calibrate: {error}", file=sys.stderr)
        return 1
    return 0


def meaning(latency: LatencyModel, prompt_tokens: int = 64, output_tokens: int = 25) -> str:
    """What these step times mean for a deadline, in a sentence."""
    first_s = latency.step_s(1) + latency.prompt_s(prompt_tokens)
    alone_s, beside_s = (first_s + (output_tokens - 1) * latency.step_s(rows) for rows in (1, 8))
    return (
        f"a goal with {prompt_tokens} prompt tokens and {output_tokens} of answer takes {alone_s:.2f} s alone, "
        f"{beside_s:.2f} s where eight decode together: a deadline is to leave room above that"
    )
