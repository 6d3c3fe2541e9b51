"""Send one goal to the server and print its answer as it comes; status 1 where it failed or missed its SLO."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slice_ros.commands.arguments import add_slo, slo_of, text_file, uint32
from slice_ros.schemas import BY_NAME

if TYPE_CHECKING:
    from rclpy.executors import Executor

    from slice_ros.client import Generation, SliceClient
    from slice_ros.goal import Sampling
    from slice_ros.scheduling.task import SloReport
    from slice_ros.slo import Slo

CANCEL_S = 2.0
"""How long a goal that was interrupted may take to end."""

HELP = "send one goal and print its answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="text to complete; - reads it from standard input")
    parser.add_argument("--chat", action="store_true", help="send it as a user's message, rendered with the model's chat template")
    parser.add_argument("--system", default="", metavar="TEXT", help="system message before it; implies --chat")
    add_slo(parser)
    parser.add_argument("--max-tokens", type=uint32, default=0, metavar="N", help="output tokens at most; 0 = the server's default")
    parser.add_argument("--label", default="", help="kind of goal, for statistics")
    parser.add_argument("--supersede", action="store_true", help="end what this command has asked under that label before")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 = greedy")
    parser.add_argument("--seed", type=uint32, default=0, help="the same seed gives the same text; 0 = a new one each time")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be repeated")
    parser.add_argument("--grammar", type=text_file, metavar="FILE", help="Lark or GBNF grammar the output follows")
    schema = parser.add_argument(
        "--json-schema",
        type=lambda given: given if given in BY_NAME else text_file(given),
        metavar="NAME|FILE",
        help=f"JSON schema the output follows: {', '.join(BY_NAME)}, or one in a file",
    )
    schema.completer = _complete_schema  # type: ignore[attr-defined]
    parser.add_argument("--regex", default="", metavar="REGEX", help="regular expression that the output matches as a whole")
    parser.add_argument("--model", default="", metavar="FILE", help="file name of the model that is to answer, where there are several")
    parser.add_argument(
        "--hedge", action="store_true", help="have a dispatcher send it to two servers: the first one to say something goes on"
    )
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
        prompt = sys.stdin.buffer.read().decode() if arguments.prompt == "-" else arguments.prompt
    except UnicodeDecodeError as error:
        print(f"slice-ros send: standard input is no UTF-8 text at byte {error.start}", file=sys.stderr)
        return 2
    except (SloError, GoalError) as error:
        print(f"slice-ros send: {error}", file=sys.stderr)
        return 2
    return _ask(arguments, prompt, slo, sampling)


def _ask(arguments: argparse.Namespace, prompt: str, slo: Slo, sampling: Sampling) -> int:
    """Send the goal, show what comes, and see it end.

    Returns:
        Exit status.
    """
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
            generation = _send(client, prompt, arguments, slo, sampling)
            text = executor.create_task(_print(generation, quiet=arguments.json))
            while not text.done():
                if number := interrupted():
                    _end(generation, executor)
                    return 128 + number
                try:
                    executor.spin_once(timeout_sec=0.1)
                except BrokenPipeError:  # nobody reads the answer any more
                    _end(generation, executor)
                    raise
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
        print(json.dumps(shown | ({"logprobs": [rated[:2] for rated in answer.logprobs]} if arguments.logprobs else {})))
    else:
        print(verdict(answer.report, is_best_effort=slo.has_bound and not slo.is_real_time), file=sys.stderr)
    return 0 if answer.report.attained else 1


def verdict(report: SloReport, *, is_best_effort: bool) -> str:
    """Whether a goal met its SLO, and what it experienced, in a line."""
    figures = [f"TTFT {report.ttft_s * 1e3:.0f} ms"]
    figures += [] if math.isnan(report.tpot_s) else [f"TPOT {report.tpot_s * 1e3:.1f} ms"]
    figures += [f"end to end {report.e2e_s:.3f} s", f"{report.prompt_tokens} + {report.output_tokens} tokens"]
    steps = f" in {report.steps} steps" if report.steps < report.output_tokens else ""
    of = " of a best-effort goal (--real-time makes it a promise)" if is_best_effort else ""
    return f"SLO{of} {'met' if report.attained else 'missed'}: {', '.join(figures)}{steps}"


def _end(generation: Generation, executor: Executor) -> None:
    """Cancel a goal, and see it end."""
    generation.cancel()
    executor.spin_until_future_complete(generation._end, timeout_sec=CANCEL_S)


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


def _send(client: SliceClient, text: str, arguments: argparse.Namespace, slo: Slo, sampling: Sampling) -> Generation:
    from slice_ros.goal import ChatMessage

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
        model=arguments.model,
        hedge=arguments.hedge,
        logprobs=arguments.logprobs,
        grammar=arguments.grammar or "",
        json_schema=arguments.json_schema or "",
        regex=arguments.regex,
    )


def _complete_schema(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return [*(name for name in BY_NAME if name.startswith(prefix)), *FilesCompleter()(prefix)]


async def _print(generation: Generation, *, quiet: bool) -> object:
    try:
        async for piece in generation:
            if not quiet:
                print(piece, end="", flush=True)
    finally:
        if not quiet:
            print()
    return await generation.result()
