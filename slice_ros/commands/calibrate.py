"""Measure how long steps take on this machine, and write a device profile that --device and engine.device_profile accept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "measure step times and write a device profile"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.HelpFormatter  # the texts name the defaults themselves
    parser.add_argument("--model", type=Path, metavar="PATH", help="GGUF file (default: the package's own)")
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

    from slice_ros.calibration import measure_latency
    from slice_ros.engines.base import EngineError
    from slice_ros.engines.llama import LlamaConfig, LlamaEngine
    from slice_ros.models import default_model_path

    if arguments.max_batch < 1:
        print(f"slice-ros calibrate: --max-batch is {arguments.max_batch}; it must be 1 or more", file=sys.stderr)
        return 2
    try:
        model = arguments.model or default_model_path()
        engine = LlamaEngine(
            LlamaConfig(
                model,
                n_ctx=arguments.context,
                n_seq_max=max(2, arguments.max_batch),
                n_threads=arguments.threads,
                n_gpu_layers=arguments.gpu_layers,
            )
        )
        try:
            with Progress(console=Console(stderr=True)) as progress:
                bar = progress.add_task("measuring step times", total=1.0)
                latency = measure_latency(
                    engine, max_batch=arguments.max_batch, on_progress=lambda share: progress.update(bar, completed=share)
                )
        finally:
            engine.shutdown()
        text = latency.to_yaml()
        if arguments.output:
            arguments.output.write_text(text, encoding="utf-8")
        else:
            print(text, end="")
    except (EngineError, OSError) as error:
        print(f"slice-ros calibrate: {error}", file=sys.stderr)
        return 1
    return 0
