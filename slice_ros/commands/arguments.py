"""What commands take from their command line: texts, numbers, names, SLOs; a wrong one is a sentence that says what would be right."""

from __future__ import annotations

import argparse
import codecs
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from slice_ros.slo import Slo

ENCODINGS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
"""What a text file may begin with, and what it then is; any other is UTF-8."""


def uint32(text: str) -> int:
    """A number that fits such a field of a message."""
    if not text.isascii() or not text.isdigit() or int(text[:11]) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is out of range; give a whole number in 0 to {2**32 - 1}")
    return int(text)


def text_file(path: str) -> str:
    """What a text file says."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read ({error.strerror}); give the path of a text file") from error
    encoding = next((encoding for mark, encoding in ENCODINGS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"{path} is no {encoding.upper()} text at byte {error.start}; save it as UTF-8") from error


def node_name(text: str) -> str:
    """A node's name, as ROS takes it."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a node; give letters, digits and _, not beginning with a digit")
    return text


def namespace(text: str) -> str:
    """A node's namespace, with or without the / it begins with."""
    whole = text if text.startswith("/") else f"/{text}"
    if not re.fullmatch(r"/|(/[A-Za-z_][A-Za-z0-9_]*)+", whole):
        raise argparse.ArgumentTypeError(f"{text!r} is no namespace; give names of letters, digits and _ with / between them")
    return whole


def assignment(text: str) -> str:
    """A parameter's name and value."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.:/]*:=.+", text, re.DOTALL):
        raise argparse.ArgumentTypeError(f"{text!r} sets no parameter; write NAME:=VALUE, as in scheduler.max_batch:=8")
    return text


def params_file(path: str) -> str:
    """The path of a file with ROS parameters."""
    text = text_file(path)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = "a tab, where YAML takes spaces" if "'\\t'" in str(error) else getattr(error, "problem", None) or str(error)
        raise argparse.ArgumentTypeError(f"{path} is no YAML{where}: {problem}") from error
    except ValueError as error:  # a date that there is not
        raise argparse.ArgumentTypeError(f"{path} is no YAML: {error}") from error
    if not _has_parameters(content):
        raise argparse.ArgumentTypeError(f"{path} sets no parameter: below a node's name or /**, ros__parameters holds them")
    return path


def _has_parameters(content: object) -> bool:
    return isinstance(content, Mapping) and ("ros__parameters" in content or any(map(_has_parameters, content.values())))


def yaml_string(text: str) -> str:
    """A text as YAML's quoted scalar, whatever it holds; Python's own quotes escape other things in another way."""
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


def add_slo(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that say what an answer must meet."""
    parser.add_argument("--preset", default="", metavar="NAME", help="SLO preset of the server; bounds given beside it replace its own")
    parser.add_argument("--real-time", action="store_true", help="real-time class; needs a bound")
    parser.add_argument("--ttft", type=float, metavar="MS", help="time to first token, ms")
    parser.add_argument("--tpot", type=float, metavar="MS", help="time per output token, ms")
    parser.add_argument("--deadline", type=float, metavar="S", help="submission to last token, s")
    parser.add_argument(
        "--on-miss", choices=("continue", "abort"), help="once the SLO cannot be met any more; by default real-time goals end"
    )


def slo_of(arguments: argparse.Namespace) -> Slo:
    """The SLO that the options describe.

    Raises:
        SloError: they contradict each other.
    """
    from slice_ros.slo import BestEffort, OnMiss, RealTime

    make = RealTime if arguments.real_time else BestEffort
    on_miss = OnMiss[(arguments.on_miss or "default").upper()]
    return make(ttft_ms=arguments.ttft, tpot_ms=arguments.tpot, deadline_s=arguments.deadline, on_miss=on_miss)
