"""Send one goal to the server and print its answer as it comes; status 1 where it failed or missed its SLO.

To a model with a chat template the text is a user's message.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from slice_ros.commands.answering import add_goal_arguments, asking, hear, interruptions, status_of, verdict
from slice_ros.commands.arguments import slo_of, text_file
from slice_ros.schemas import BY_NAME

if TYPE_CHECKING:
    from rclpy.executors import Executor

    from slice_ros.client import Generation, SliceClient
    from slice_ros.goal import Sampling
    from slice_ros.slo import Slo

HELP = "send one goal and print its answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="what to say to the model, or text to complete; - reads it from standard input")
    parser.add_argument("--raw", action="store_true", help="send it as it stands, though the model has a chat template")
    add_goal_arguments(parser)
    parser.add_argument("--supersede", action="store_true", help="end what this command has asked under that label before")
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
    parser.add_argument(
        "--reasoning", default="", metavar="HOW", help="off, on, tokens that it may take, or deadline: in time for an answer"
    )
    parser.add_argument("--model", default="", metavar="FILE", help="file name of the model that is to answer, where there are several")
    parser.add_argument(
        "--hedge", action="store_true", help="have a dispatcher send it to two servers: the first one to say something goes on"
    )
    parser.add_argument("--tools", type=text_file, metavar="FILE", help="JSON list of tools that the answer may call")
    parser.add_argument("--tool-choice", default="", metavar="CHOICE", help="auto, none, required, or the tool to call")
    parser.add_argument("--logprobs", action="store_true", help="with --json: also each token and the logarithm of its probability")
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
    from slice_ros.client import GoalFailed, ServerNotFound

    try:
        with asking(arguments.server, arguments.timeout) as (client, executor), interruptions() as interrupted:
            is_said = bool(arguments.system or arguments.tools) or (not arguments.raw and _has_template(client, executor))
            generation = _send(client, prompt, arguments, slo, sampling, is_said=is_said)
            answer = hear(generation, executor, quiet=arguments.json, interrupted=interrupted)
            if answer is None:
                return 128 + interrupted()
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
    if arguments.json:
        report = {name: None if math.isnan(value) else value for name, value in answer.report._asdict().items()}  # NaN is no JSON
        shown: dict[str, Any] = {"goal_id": generation.goal_id, "text": answer.text, "finish_reason": answer.finish_reason}
        shown |= {"tool_calls": [call._asdict() for call in answer.tool_calls]} if answer.tool_calls else {}
        shown |= {"report": report}
        print(json.dumps(shown | ({"logprobs": [rated[:2] for rated in answer.logprobs]} if arguments.logprobs else {})))
    else:
        for call in answer.tool_calls:
            print(f"{call.name} {call.arguments}")
        print(verdict(answer, is_best_effort=slo.has_bound and not slo.is_real_time), file=sys.stderr)
    return 0 if answer.report.attained else 1


def _has_template(client: SliceClient, executor: Executor) -> bool:
    """Whether the server's model has a chat template of its own, or was given one: to a bare prompt it would hardly answer."""
    status = status_of(client, executor)
    return status is not None and bool(status.chat_template)


def _send(client: SliceClient, text: str, arguments: argparse.Namespace, slo: Slo, sampling: Sampling, *, is_said: bool) -> Generation:
    from slice_ros.goal import ChatMessage

    messages = [ChatMessage("system", arguments.system)] if arguments.system else []
    return client.send(
        [*messages, ChatMessage("user", text)] if is_said else text,
        slo=slo,
        preset=arguments.preset,
        max_tokens=arguments.max_tokens,
        label=arguments.label,
        supersede=arguments.supersede,
        sampling=sampling,
        stop=arguments.stop,
        reasoning=arguments.reasoning,
        adapter=arguments.adapter,
        model=arguments.model,
        hedge=arguments.hedge,
        logprobs=arguments.logprobs,
        grammar=arguments.grammar or "",
        json_schema=arguments.json_schema or "",
        regex=arguments.regex,
        tools=arguments.tools or "",
        tool_choice=arguments.tool_choice,
    )


def _complete_schema(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return [*(name for name in BY_NAME if name.startswith(prefix)), *FilesCompleter()(prefix)]
