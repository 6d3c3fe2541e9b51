"""GBNF grammars to llama.cpp's grammar samplers, with what llama.cpp does not check and where a wrong one is wrong."""

from __future__ import annotations

import os
import re
import threading
from itertools import accumulate
from typing import Any

import llama_cpp

from slice_ros.engines.llama.gbnf import UNCOUNTED, elements, ways
from slice_ros.engines.llama.log import call_capturing_stderr, log, reason
from slice_ros.engines.llama.schema import to_grammar
from slice_ros.goal import ErrorCode, GoalError, GoalRequest

LONGEST = 64 * 1024
DEEPEST = 100
"""llama.cpp parses by recursion without a bound: parentheses nested some thousand deep overflow its stack and end the process."""
MOST_WAYS = 5000
"""llama.cpp keeps a list of every way in which the text may go on. Half a kilobyte of grammar can make it longer than any memory."""
MOST_ELEMENTS = 1_000_000
"""llama.cpp writes repetitions out, 8 bytes for an element: a literal as long as a grammar may be, 2000 times, fills gigabytes."""

_parsing = threading.Lock()


def make_grammar(vocabulary: Any, request: GoalRequest) -> Any:
    """The grammar sampler of a request; ``None`` if it has no grammar.

    Raises:
        GoalError: INVALID_GRAMMAR, with the place where it is wrong.
    """
    if request.json_schema:
        return _init(vocabulary, to_grammar(request.json_schema), "json_schema")
    return _init(vocabulary, request.grammar, "grammar") if request.grammar else None


def _init(vocabulary: Any, grammar: str, source: str) -> Any:
    """llama.cpp's sampler for a GBNF grammar.

    Args:
        source: the goal's field it comes from.

    Raises:
        GoalError: INVALID_GRAMMAR, with the place where it is wrong.
    """
    _check(grammar, source)
    data = grammar.encode("utf-8", "replace")
    with _parsing, log.collect_errors() as errors:
        # llama.cpp prints what its parser says, and logs only what it finds later.
        sampler, printed = call_capturing_stderr(lambda: llama_cpp.llama_sampler_init_grammar(vocabulary, data, b"root"))
    before, _, rest = printed.partition("parse: error parsing grammar: ")
    complaint, _, after = rest.partition(f"\n\n{grammar}\n")
    if before or after:  # another thread's
        os.write(2, f"{before}{after}".encode())
    if sampler:
        return sampler
    raise GoalError(ErrorCode.INVALID_GRAMMAR, f"{source} is not valid: {_locate(complaint, grammar) if complaint else reason(errors)}")


def _check(grammar: str, source: str) -> None:
    """Refuse what llama.cpp cannot survive.

    Args:
        source: the goal's field it comes from.

    Raises:
        GoalError: INVALID_GRAMMAR.
    """
    if "\0" in grammar:
        raise GoalError(ErrorCode.INVALID_GRAMMAR, f"{source} holds a NUL character; leave it out")
    if len(grammar) > LONGEST:
        raise GoalError(ErrorCode.INVALID_GRAMMAR, f"{source} makes a grammar of {len(grammar)} characters; at most {LONGEST} are allowed")
    depth = _depth(grammar)
    if depth > DEEPEST:
        raise GoalError(ErrorCode.INVALID_GRAMMAR, f"{source} nests {depth} parentheses; at most {DEEPEST} are allowed")
    if elements(grammar) > MOST_ELEMENTS:
        raise GoalError(
            ErrorCode.INVALID_GRAMMAR,
            f"{source} has repetitions that are more than {MOST_ELEMENTS} elements when they are written out, or have no end: repeat less "
            "and shorter parts, and put the smaller number of {m,n} first",
        )
    if (count := ways(grammar)) > MOST_WAYS:
        raise GoalError(
            ErrorCode.INVALID_GRAMMAR,
            f"{source} can go on in {f'{count} ways' if count < UNCOUNTED else 'too many ways to count'} at one place; at most {MOST_WAYS} "
            "are allowed: let fewer of its rules begin with each other",
        )


def _locate(complaint: str, grammar: str) -> str:
    """The parser's complaint, with line and column where it quotes the rest of the grammar."""
    what, at, rest = complaint.partition(" at ")
    if not at or not grammar.endswith(rest):
        return complaint
    before = grammar.removesuffix(rest)
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return f"{what} at line {line}, column {column}, " + (f"which is {rest.splitlines()[0][:40]!r}" if rest.strip() else "where it ends")


def _depth(grammar: str) -> int:
    """How deep parentheses nest, outside of literals, character classes and comments."""
    bare = re.sub(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', "", grammar)
    return max(accumulate((letter == "(") - (letter == ")") for letter in bare), default=0)
