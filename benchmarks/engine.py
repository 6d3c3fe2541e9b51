"""The engine against llama.cpp's own llama-batched-bench: tokens/s by number of sequences, and what Python costs between two steps.

    python benchmarks/engine.py --shape smollm2-135m --threads 2 --json engine.json

Both sides run the same libllama on the same model file with the same context, batch and threads, in turns, so that what disturbs the
machine for a while disturbs both. The engine also draws each token, which llama-batched-bench does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import yardstick
from rich.console import Console
from rich.table import Table

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama import engine as engine_module
from slice_ros.engines.llama.architectures import SHAPES
from slice_ros.engines.llama.loading import physical_cores
from slice_ros.engines.llama.shapes import QUANTIZATIONS, make_model
from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell, Column
from slice_ros.paths import cache_dir
from slice_ros.scheduling.engine import EngineError
from slice_ros.scheduling.policies import make_policy
from slice_ros.scheduling.policies.slack import COLUMNS
from slice_ros.scheduling.scheduler import Scheduler
from slice_ros.slo import BestEffort

GRAMMAR = 'root ::= "{" [a-z ]* "}"'
"""Braces around any letters: it never ends an answer of a model that knows no language."""
BETWEEN_SEQUENCES = 16
"""Sequences with which the time between steps is measured."""
PREFIX_TOKENS = 400
"""Length of the beginning that two prompts have in common."""


class Goals:
    """Goals that decode on an engine, all with prompts of about the same length.

    Args:
        sequences: how many.
        prompt_tokens: of each; rather more.
        tokens: that each may decode.
        fields: of their requests.
    """

    def __init__(self, engine: LlamaEngine, sequences: int, prompt_tokens: int, tokens: int, **fields: Any) -> None:
        self._engine = engine
        self._ids = [f"goal-{i}" for i in range(sequences)]
        for i, goal_id in enumerate(self._ids):
            request = GoalRequest(goal_id, BestEffort(), tokens + 4, prompt=f"{i:02}" + "x" * (prompt_tokens - 2), **fields)
            _compute_prompt(engine, request)
        self._column: Column = tuple(Cell(goal_id, 0) for goal_id in self._ids)

    def decode(self, steps: int) -> float:
        """Seconds of so many steps in which every goal decodes.

        Raises:
            EngineError: the model ended an answer.
        """
        began_s = time.perf_counter()
        for _ in range(steps):
            if any(output.finish for output in self._engine.step(self._column)):
                raise EngineError("the model ended an answer by itself; measure with --shape, whose models do not")
        return time.perf_counter() - began_s

    def close(self) -> None:
        for goal_id in self._ids:
            self._engine.close(goal_id)
        self._engine.forget()  # the next ones shall compute their prompts


def engine_rate(engine: LlamaEngine, arguments: argparse.Namespace, sequences: int) -> float:
    """Tokens/s of so many sequences."""
    goals = Goals(engine, sequences, arguments.prompt_tokens, arguments.tokens)
    rate = sequences * arguments.tokens / goals.decode(arguments.tokens)
    goals.close()
    return rate


def yardstick_rate(arguments: argparse.Namespace, context: int, sequences: int) -> float:
    """The same of llama-batched-bench.

    Raises:
        YardstickError: it cannot be built, or does not run.
    """
    command = [yardstick.program("llama-batched-bench"), "-m", str(arguments.model), "-c", str(context), "-b", "512", "-ub", "512", "-kvu"]
    command += ["-npp", str(arguments.prompt_tokens), "-ntg", str(arguments.tokens), "-npl", str(sequences)]
    threads, gpu_layers = str(arguments.threads), str(arguments.gpu_layers if arguments.gpu_layers >= 0 else 999)
    command += ["-t", threads, "-tb", threads, "-ngl", gpu_layers]
    done = subprocess.run([*command, "--output-format", "jsonl"], capture_output=True, text=True, env=yardstick.environment(), check=False)
    rows = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
    if done.returncode or not rows:
        raise yardstick.YardstickError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr[-500:]}")
    return float(rows[0]["speed_tg"])


DEVICE_CALLS = ("llama_decode", "llama_get_logits", "llama_synchronize")
"""Functions of llama.cpp that compute, or wait for a device that does."""


@contextmanager
def timed_calls() -> Iterator[dict[str, float]]:
    """Times the functions of llama.cpp, and ``most_likely``, meanwhile.

    Yields:
        Seconds: ``passed`` while ``DEVICE_CALLS`` were made; processor time of this thread on ``device`` calls, and on all ``others``.
    """
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        kind = "device" if name in DEVICE_CALLS else "others"

        def call(*arguments: Any) -> Any:
            began_s, began_busy_s = time.perf_counter(), time.thread_time()
            result = function(*arguments)
            spent[kind] += time.thread_time() - began_busy_s
            if kind == "device":
                spent["passed"] += time.perf_counter() - began_s
            return result

        return call

    functions = [(llama_cpp, name) for name, value in vars(llama_cpp).items() if name.startswith("llama_") and hasattr(value, "argtypes")]
    originals = [(module, name, getattr(module, name)) for module, name in (*functions, (engine_module, "most_likely"))]
    for module, name, function in originals:
        setattr(module, name, timed(name, function))
    try:
        yield spent
    finally:
        for module, name, function in originals:
            setattr(module, name, function)


def parts_of(step: Callable[[], Any], steps: int) -> dict[str, list[float]]:
    """What a step consists of, in ms: means over as many steps as a plan has columns, of which only the median says something.

    Returns:
        ``decode_ms`` in llama_decode and waiting for it; of this thread's processor time ``sampling_ms`` in llama.cpp's samplers and the
        search for the most likely tokens, ``python_ms`` the rest: what else runs on the machine does not count. In ascending order.
    """
    parts: dict[str, list[float]] = defaultdict(list)
    with timed_calls() as spent:
        for _ in range(steps // COLUMNS):
            spent.clear()
            began_s = time.thread_time()
            for _ in range(COLUMNS):
                step()
            python_s = time.thread_time() - began_s - spent["device"] - spent["others"]
            for name, seconds in (("decode", spent["passed"]), ("sampling", spent["others"]), ("python", python_s)):
                parts[f"{name}_ms"].append(1e3 * seconds / COLUMNS)
    return {name: sorted(values) for name, values in parts.items()}


def engine_step(engine: LlamaEngine, sequences: int, prompt_tokens: int, tokens: int, **fields: Any) -> dict[str, list[float]]:
    """The parts of an engine's step with so many decodes."""
    goals = Goals(engine, sequences, prompt_tokens, tokens, **fields)
    parts = parts_of(lambda: goals.decode(1), tokens)
    goals.close()
    return parts


def scheduler_step(engine: LlamaEngine, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, list[float]]:
    """The same of a scheduler's turn under the default policy: its plans, tasks and events are Python's.

    To the policy a step takes the same time with every number of rows, so that all goals decode in all of them.
    """
    step_s = 1e-3 * statistics.median(engine_step(engine, sequences, prompt_tokens, 2 * COLUMNS)["decode_ms"])
    latency = LatencyModel("flat", (step_s,) * sequences)
    scheduler = Scheduler(engine, make_policy("slack"), latency, lambda _events: None, max_batch=sequences)
    for i in range(sequences):
        prompt = f"{i:02}" + "x" * (prompt_tokens - 2)
        scheduler.submit(GoalRequest(f"goal-{i}", BestEffort(), 2 * tokens, prompt=prompt))
    scheduler.turn()
    while not all(task.tokens for task in scheduler.tasks):
        scheduler.turn()
    parts = parts_of(scheduler.turn, tokens)
    scheduler.stop()
    scheduler.run()
    engine.forget()
    return parts


def ttft_ms(engine: LlamaEngine, prefix_tokens: int, repeats: int) -> dict[str, Any]:
    """From a prompt to its first token, alone in its steps, ms: the first goal with a prefix, and the next one with the same."""
    cold: list[float] = []
    cached: list[float] = []
    for number in range(repeats):
        prefix = f"{number:03}" + "x" * (prefix_tokens - 3)
        for times, tail in ((cold, "first"), (cached, "other")):
            began_s = time.perf_counter()
            _compute_prompt(engine, GoalRequest(tail, BestEffort(), 2, prompt=prefix + tail))
            times.append(1e3 * (time.perf_counter() - began_s))
            engine.close(tail)
        engine.forget()
    return {"prefix_tokens": prefix_tokens, "cold_ms": cold, "cached_ms": cached}


def _compute_prompt(engine: LlamaEngine, request: GoalRequest) -> None:
    left = engine.prepare(request) + engine.lead(request.goal_id)
    left -= engine.open(request.goal_id)
    while left:
        chunk = min(left, engine.info.max_step_tokens)
        engine.step((Cell(request.goal_id, chunk),))
        left -= chunk


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Everything, as it goes into the JSON file.

    Raises:
        EngineError: the model cannot be loaded or ends answers.
        YardstickError: llama.cpp's program cannot be built, or does not run.
    """
    sequences = [int(number) for number in arguments.sequences.split(",")]
    of_each = arguments.prompt_tokens + arguments.tokens + 8
    # The scheduler's goals may have twice the tokens, so that none ends while it is measured.
    cells = max(max(sequences) * of_each, BETWEEN_SEQUENCES * (of_each + arguments.tokens), 1024)
    context = -(-cells // 256) * 256
    config = LlamaConfig(
        arguments.model,
        n_ctx=context,
        n_seq_max=max(*sequences, BETWEEN_SEQUENCES),
        n_threads=arguments.threads,
        n_gpu_layers=arguments.gpu_layers,
        cuda_graphs=arguments.cuda_graphs,
    )
    engine = LlamaEngine(config)
    try:
        pairs: dict[int, list[tuple[float, float]]] = {count: [] for count in sequences}
        for pair in range(arguments.pairs):
            console.print(f"pair {pair + 1} of {arguments.pairs}", highlight=False)
            for count in sequences:  # right after each other, in turns
                theirs = yardstick_rate(arguments, context, count) if pair % 2 else None
                ours = engine_rate(engine, arguments, count)
                pairs[count].append((ours, theirs or yardstick_rate(arguments, context, count)))
        step = (engine, BETWEEN_SEQUENCES, arguments.prompt_tokens, arguments.tokens)
        parts = {
            "engine, greedy": engine_step(*step),
            "engine, with a grammar": engine_step(*step, grammar=GRAMMAR),
            "scheduler, greedy": scheduler_step(*step),
        }
        prefix = ttft_ms(engine, PREFIX_TOKENS, arguments.pairs)
    finally:
        engine.shutdown()
    return {
        "model": Path(arguments.model).name,
        "device": engine.info.device,
        "llama_cpp_python": llama_cpp.__version__,
        "prompt_tokens": arguments.prompt_tokens,
        "tokens": arguments.tokens,
        "throughput": [
            {
                "sequences": count,
                "engine_tokens_per_s": [ours for ours, _ in measured],
                "yardstick_tokens_per_s": [theirs for _, theirs in measured],
                "ratio": [ours / theirs for ours, theirs in measured],
            }
            for count, measured in pairs.items()
        ],
        "step": {"sequences": BETWEEN_SEQUENCES, "parts": parts},
        "ttft": prefix,
    }


def median_and_range(values: Sequence[float], digits: int) -> str:
    """As in ``0.983 (0.951 to 1.004)``: the median, and the least and the greatest of all."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def show(result: dict[str, Any], console: Console) -> None:
    repeats = len(result["throughput"][0]["ratio"])
    table = Table(title=f"{result['model']} on {result['device']}: decoded tokens/s, median and range of {repeats} pairs")
    for name in ("sequences", "engine", "llama-batched-bench", "ratio"):
        table.add_column(name, justify="right")
    for row in result["throughput"]:
        of = (("engine_tokens_per_s", 1), ("yardstick_tokens_per_s", 1), ("ratio", 3))
        table.add_row(str(row["sequences"]), *(median_and_range(row[name], digits) for name, digits in of))
    console.print(table)
    table = Table(title=f"a step with {result['step']['sequences']} decodes, ms: median and range over plans")
    for name in ("", "llama_decode", "sampling", "Python"):
        table.add_column(name, justify="right")
    for name, parts in result["step"]["parts"].items():
        table.add_row(name, *(median_and_range(parts[part], 3) for part in ("decode_ms", "sampling_ms", "python_ms")))
    console.print(table)
    ttft = result["ttft"]
    cold, cached = (median_and_range(ttft[name], 1) for name in ("cold_ms", "cached_ms"))
    console.print(f"TTFT of a prompt whose first {ttft['prefix_tokens']} tokens are new: {cold} ms", highlight=False)
    console.print(f"... and of the next one with the same: {cached} ms", highlight=False)


def shaped_model(shape: str, quantization: str) -> Path:
    """A model of that shape in the cache, made if it is not there."""
    path = cache_dir() / "models" / f"{shape}-{quantization}.gguf"
    if not path.exists():
        make_model(SHAPES[shape], path, quantization)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", type=Path, metavar="PATH", help="GGUF file; one that ends answers early will not do")
    model.add_argument("--shape", choices=sorted(SHAPES), help="a model of that public shape with random weights")
    parser.add_argument("--type", default="q4_0", choices=sorted(QUANTIZATIONS), help="type of its matrices (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of llama.cpp on both sides; 0 = the physical cores (default)")
    parser.add_argument("--gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU, if there is one; -1 = all (default)")
    parser.add_argument("--cuda-graphs", action="store_true", help="let the engine use CUDA graphs; llama-batched-bench does")
    parser.add_argument("--sequences", default="1,4,8,16,32", metavar="N,...", help="how many decode together (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=32, metavar="N", help="length of each prompt (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens that each sequence decodes (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="runs of each side, in turns (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    arguments = parser.parse_args()
    try:
        arguments.threads = arguments.threads or physical_cores()
        arguments.model = arguments.model or shaped_model(arguments.shape, arguments.type)
        result = measure(arguments, Console(stderr=True))
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except (EngineError, yardstick.YardstickError, OSError) as error:
        print(f"engine: {error}", file=sys.stderr)
        return 1
    show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
