"""What llama.cpp does not check in a GBNF grammar, and where the grammar is wrong when it complains."""

from __future__ import annotations

import re
from itertools import accumulate

from slice_ros.goal import ErrorCode, GoalError

LONGEST = 64 * 1024
DEEPEST = 100
"""llama.cpp parses by recursion without a bound: parentheses nested some thousand deep overflow its stack and end the process."""


def check_grammar(grammar: str, source: str) -> None:
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


def locate(complaint: str, grammar: str) -> str:
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
