"""Ask the server whether a goal would meet its SLO if it were sent now; status 1 where it would not, or would cost another one its own."""

from __future__ import annotations

import argparse
import json
import math
import sys

from slice_ros.commands.arguments import add_slo, slo_of, uint32

HELP = "ask whether a goal would meet its SLO now"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("prompt", nargs="?", default="", help="text that would be completed")
    prompt.add_argument("--prompt-tokens", type=uint32, default=0, metavar="N", help="its length instead of it")
    add_slo(parser)
    parser.add_argument("--max-tokens", type=uint32, default=0, metavar="N", help="output tokens to plan for; 0 = the server's default")
    parser.add_argument("--label", default="", help="kind of goal, for its learnt output length")
    parser.add_argument("--server", default="/slice_server", help="name of the server node")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="how long to wait for an answer, s")
    parser.add_argument("--json", action="store_true", help="print the answer as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from slice_ros.commands.session import NoAnswer, Session, message_dict
    from slice_ros.ros.conversions import slo_msg
    from slice_ros.ros.interfaces import CheckSlo
    from slice_ros.slo import SloError

    try:
        request = CheckSlo.Request(slo=slo_msg(slo_of(arguments), arguments.preset), prompt=arguments.prompt, label=arguments.label)
    except SloError as error:
        print(f"slice-ros check: {error}", file=sys.stderr)
        return 2
    request.prompt_tokens, request.max_tokens = arguments.prompt_tokens, arguments.max_tokens
    try:
        with Session(arguments.server, arguments.timeout) as session:
            answer = session.call(CheckSlo, "check_slo", request)
    except NoAnswer as error:
        print(f"slice-ros check: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(message_dict(answer)))
    elif answer.error_code:
        print(f"slice-ros check: {answer.error_msg}", file=sys.stderr)
    else:
        print(_sentence(answer))
    return 0 if not answer.error_code and answer.feasible and answer.safe else 1


def _sentence(answer: object) -> str:
    """The verdict, and the prediction that it rests on."""
    ttft_ms, tpot_ms, e2e_ms, fits_in_ms = (float(getattr(answer, name)) for name in ("ttft_ms", "tpot_ms", "e2e_ms", "fits_in_ms"))
    feasible, safe = bool(getattr(answer, "feasible", False)), bool(getattr(answer, "safe", False))
    verdict = "would meet its SLO" if feasible else "would miss its SLO"
    if feasible and not safe:
        verdict += ", and make a real-time goal in hand miss its own"
    later = "" if feasible and safe else "; at no time" if math.isnan(fits_in_ms) else f"; in {fits_in_ms / 1e3:.2f} s it would fit"
    predicted = [f"TTFT {ttft_ms:.0f} ms"]
    predicted += [f"TPOT {tpot_ms:.1f} ms"] if math.isfinite(tpot_ms) else []
    predicted += [f"end to end {e2e_ms / 1e3:.3f} s"] if math.isfinite(e2e_ms) else []
    return f"{verdict}: {', '.join(predicted)} predicted{later}"
