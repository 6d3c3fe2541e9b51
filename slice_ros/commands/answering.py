"""What ``send`` and ``chat`` share: options of a goal, a client that spins while an answer comes, and how it went."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slice_ros.commands.arguments import add_slo, uint32

if TYPE_CHECKING:
    from rclpy.executors import Executor

    from slice_ros.client import Answer, Generation, SliceClient

FIND_S = 10.0
"""How long a server is looked for; ..."""
START_S = 120.0
"""... one that is starting reads its model and measures step times, and is waited for longer."""
STARTING = "configuring"
"""State of such a server's life cycle."""
LOOK_S = 0.05
CANCEL_S = 2.0
"""How long a goal that was interrupted may take to end."""
STATUS_S = 2.0
"""A server that is active has told its status within this time."""


def add_goal_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", default="", metavar="TEXT", help="system message before it")
    add_slo(parser)
    parser.add_argument("--max-tokens", type=uint32, default=0, metavar="N", help="output tokens at most; 0 = the server's default")
    parser.add_argument("--label", default="", help="kind of goal, for statistics")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 = greedy")
    parser.add_argument("--seed", type=uint32, default=0, help="the same seed gives the same text; 0 = a new one each time")
    parser.add_argument("--adapter", default="", metavar="NAME", help="LoRA adapter of the server to answer with")
    parser.add_argument("--server", default="/slice_server", help="name of the server node")
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help=f"how long to look for the server, {FIND_S:g} s by default; {START_S:g} s where it is starting",
    )


@contextmanager
def asking(server: str, timeout_s: float | None) -> Iterator[tuple[SliceClient, Executor]]:
    """A client of a server that was found, and the executor that spins it.

    Raises:
        ServerNotFound: it did not come in time.
    """
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from slice_ros.client import SliceClient
    from slice_ros.ros.distributions import mind_the_dead

    mind_the_dead()
    # rclpy's own handlers would take the context away before a goal is canceled.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("slice_cli")
    try:
        client = SliceClient(node, server)
        executor = rclpy.get_global_executor()
        executor.add_node(node)
        _find(client, executor, server, timeout_s)
        yield client, executor
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _find(client: SliceClient, executor: Executor, server: str, timeout_s: float | None) -> None:
    """Wait for a server, and for one that is starting for longer.

    Raises:
        ServerNotFound: it did not come in time.
    """
    from lifecycle_msgs.srv import GetState

    from slice_ros.client import ServerNotFound

    (node,) = executor.get_nodes()
    lifecycle = node.create_client(GetState, f"{server}/get_state")
    began_s, asked, state = time.monotonic(), None, ""
    while not client.server_is_ready():
        if asked is None and lifecycle.service_is_ready():
            asked = lifecycle.call_async(GetState.Request())
        elif asked is not None and asked.done():
            before, state, asked = state, asked.result().current_state.label, None
            if state == STARTING != before:
                print(f"{server} is starting; waiting for it", file=sys.stderr)
        is_there = bool(state) and lifecycle.service_is_ready()
        patience_s = timeout_s or (START_S if is_there and state == STARTING else FIND_S)
        if time.monotonic() - began_s > patience_s:
            if is_there:
                raise ServerNotFound(f"{server} is there, but still {state} after {patience_s:g} s; see what it says where it runs")
            raise ServerNotFound(client.not_found(patience_s))
        executor.spin_once(timeout_sec=0.0)
        time.sleep(LOOK_S)
    node.destroy_client(lifecycle)


def status_of(client: SliceClient, executor: Executor) -> Any:
    """What the server tells of itself; ``None`` if it tells nothing."""
    until_s = time.monotonic() + STATUS_S
    while client.status is None and time.monotonic() < until_s:
        executor.spin_once(timeout_sec=0.05)
    return client.status


def hear(generation: Generation, executor: Executor, *, quiet: bool, interrupted: Callable[[], int]) -> Answer | None:
    """Print an answer as it comes, and return it; ``None`` when it was interrupted, and canceled.

    Raises:
        GoalFailed: the goal ended without success.
    """
    text = executor.create_task(_print(generation, quiet=quiet))
    while not text.done():
        if interrupted():
            _end(generation, executor)
            return None
        try:
            executor.spin_once(timeout_sec=0.1)
        except BrokenPipeError:  # nobody reads the answer any more
            _end(generation, executor)
            raise
    answer: Answer = text.result()
    return answer


@contextmanager
def interruptions() -> Iterator[Callable[[], int]]:
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


def verdict(answer: Answer, *, is_best_effort: bool) -> str:
    """Whether a goal met its SLO, what it experienced, and whether its answer is whole, in a line."""
    report = answer.report
    figures = [f"TTFT {report.ttft_s * 1e3:.0f} ms"]
    figures += [] if math.isnan(report.tpot_s) else [f"TPOT {report.tpot_s * 1e3:.1f} ms"]
    figures += [f"end to end {report.e2e_s:.3f} s", f"{report.prompt_tokens} + {report.output_tokens} tokens"]
    steps = f" in {report.steps} steps" if report.steps < report.output_tokens else ""
    of = " of a best-effort goal (--real-time makes it a promise)" if is_best_effort else ""
    cut = ", cut at max_tokens" if answer.finish_reason == "length" else ""
    return f"SLO{of} {'met' if report.attained else 'missed'}: {', '.join(figures)}{steps}{cut}"


def _end(generation: Generation, executor: Executor) -> None:
    """Cancel a goal, and see it end."""
    generation.cancel()
    executor.spin_until_future_complete(generation._end, timeout_sec=CANCEL_S)


async def _print(generation: Generation, *, quiet: bool) -> object:
    has_begun = False
    try:
        async for piece in generation:
            if not quiet:
                has_begun = True
                print(piece, end="", flush=True)
    finally:
        if has_begun:
            print()
    return await generation.result()
