"""Send one goal to the server and print its answer as it comes."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slice_ros.schemas import BY_NAME

if TYPE_CHECKING:
    from slice_ros.client import Generation, SliceClient
    from slice_ros.goal import Sampling
    from slice_ros.slo import Slo

CANCEL_S = 2.0
"""How long a goal that was interrupted may take to end."""

HELP = "send one goal and print its answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="text to complete; - reads it from standard input")
    parser.add_argument("--chat", action="store_true", help="send it as a user's message, rendered with the model's chat template")
    parser.add_argument("--system", default="", metavar="TEXT", help="system message before it; implies --chat")
    parser.add_argument("--preset", default="", metavar="NAME", help="SLO preset of the server; bounds given beside it replace its own")
    parser.add_argument("--real-time", action="store_true", help="real-time class; needs a bound")
    parser.add_argument("--ttft", type=float, metavar="MS", help="time to first token, ms")
    parser.add_argument("--tpot", type=float, metavar="MS", help="time per output token, ms")
    parser.add_argument("--deadline", type=float, metavar="S", help="submission to last token, s")
    parser.add_argument(
        "--on-miss", choices=("continue", "abort"), help="once the SLO cannot be met any more; by default real-time goals end"
    )
    parser.add_argument("--max-tokens", type=_uint32, default=0, metavar="N", help="output tokens at most; 0 = the server's default")
    parser.add_argument("--label", default="", help="kind of goal, for statistics")
    parser.add_argument("--supersede", action="store_true", help="end what this command has asked under that label before")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 = greedy")
    parser.add_argument("--seed", type=_uint32, default=0, help="the same seed gives the same text; 0 = a new one each time")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be repeated")
    parser.add_argument("--grammar", type=_text_of, metavar="FILE", help="Lark or GBNF grammar the output follows")
    schema = parser.add_argument(
        "--json-schema",
        type=lambda given: given if given in BY_NAME else _text_of(given),
        metavar="NAME|FILE",
        help=f"JSON schema the output follows: {', '.join(BY_NAME)}, or one in a file",
    )
    schema.completer = _complete_schema  # type: ignore[attr-defined]
    parser.add_argument("--regex", default="", metavar="REGEX", help="regular expression that the output matches as a whole")
    parser.add_argument("--adapter", default="", metavar="NAME", help="LoRA adapter of the server to answer with")
    parser.add_argument("--logprobs", action="store_true", help="with --json: also each token and the logarithm of its probability")
    parser.add_argument("--server", default="/slice_server", help="name of the server node")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="how long to look for the server")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of text as it comes")


def run(arguments: argparse.Namespace) -> int:
    from slice_ros.goal import GoalError, Sampling
    from slice_ros.slo import SloError

    try:
        slo = slo_of(arguments)
        sampling = Sampling(temperature=arguments.temperature, seed=arguments.seed)
    except (SloError, GoalError) as error:
        print(f"slice-ros send: {error}", file=sys.stderr)
        return 2

    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from slice_ros.client import GoalFailed, ServerNotFound, SliceClient
    from slice_ros.ros.distributions import mind_the_dead

    mind_the_dead()
    # rclpy's own handlers would take the context away before the goal is canceled.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("slice_cli")
    try:
        client = SliceClient(node, arguments.server)
        client.wait_for_server(arguments.timeout)
        executor = rclpy.get_global_executor()
        executor.add_node(node)
        with _interruptions() as interrupted:
            generation = _send(client, arguments, slo, sampling)
            text = executor.create_task(_print(generation, quiet=arguments.json))
            while not text.done():
                if number := interrupted():
                    generation.cancel()
                    with suppress(GoalFailed):
                        executor.spin_until_future_complete(generation._end, timeout_sec=CANCEL_S)
                    return 128 + number
                executor.spin_once(timeout_sec=0.1)
        answer = text.result()
    except ServerNotFound as error:
        print(f"slice-ros send: {error}", file=sys.stderr)
        return 1
    except GoalFailed as error:
        if arguments.json:
            print(
                json.dumps({"goal_id": generation.goal_id, "error_code": error.code.name, "error_msg": error.message, "text": error.text})
            )
        else:
            print(f"slice-ros send: {error}", file=sys.stderr)
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    if arguments.json:
        report = {name: None if math.isnan(value) else value for name, value in answer.report._asdict().items()}  # NaN is no JSON
        shown = {"goal_id": generation.goal_id, "text": answer.text, "finish_reason": answer.finish_reason, "report": report}
        print(json.dumps(shown | ({"logprobs": answer.logprobs} if arguments.logprobs else {})))
    else:
        figures = answer.report
        verdict = "met" if figures.attained else "missed"
        print(
            f"SLO {verdict}: TTFT {figures.ttft_s * 1e3:.0f} ms, TPOT {figures.tpot_s * 1e3:.1f} ms, "
            f"end to end {figures.e2e_s:.3f} s, {figures.prompt_tokens} + {figures.output_tokens} tokens"
            + (f" in {figures.steps} steps" if figures.steps < figures.output_tokens else ""),
            file=sys.stderr,
        )
    return 0


def slo_of(arguments: argparse.Namespace) -> Slo:
    """The SLO that the options describe.

    Raises:
        SloError: they contradict each other.
    """
    from slice_ros.slo import BestEffort, OnMiss, RealTime

    make = RealTime if arguments.real_time else BestEffort
    on_miss = OnMiss[(arguments.on_miss or "default").upper()]
    return make(ttft_ms=arguments.ttft, tpot_ms=arguments.tpot, deadline_s=arguments.deadline, on_miss=on_miss)


@contextmanager
def _interruptions() -> Iterator[Callable[[], int]]:
    """The signal that asked this command to end, or 0. An exception in the middle of a callback would leave the goal running."""
    caught = 0

    def catch(number: int, _frame: object) -> None:
        nonlocal caught
        caught = number

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, catch) for number in numbers}
    try:
        yield lambda: caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(client: SliceClient, arguments: argparse.Namespace, slo: Slo, sampling: Sampling) -> Generation:
    from slice_ros.goal import ChatMessage

    text = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    messages = [ChatMessage("system", arguments.system)] if arguments.system else []
    return client.send(
        [*messages, ChatMessage("user", text)] if messages or arguments.chat else text,
        slo=slo,
        preset=arguments.preset,
        max_tokens=arguments.max_tokens,
        label=arguments.label,
        supersede=arguments.supersede,
        sampling=sampling,
        stop=arguments.stop,
        adapter=arguments.adapter,
        logprobs=arguments.logprobs,
        grammar=arguments.grammar or "",
        json_schema=arguments.json_schema or "",
        regex=arguments.regex,
    )


def _uint32(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text[:11]) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is out of range; give a whole number in 0 to {2**32 - 1}")
    return int(text)


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{file} cannot be read ({error.strerror}); give the path of a text file") from error


def _complete_schema(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return [*(name for name in BY_NAME if name.startswith(prefix)), *FilesCompleter()(prefix)]


async def _print(generation: Generation, *, quiet: bool) -> object:
    async for piece in generation:
        if not quiet:
            print(piece, end="", flush=True)
    if not quiet:
        print()
    return await generation.result()
