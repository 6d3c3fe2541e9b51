"""Grammars whose ways to go on multiply are told from those that are merely long, before llama.cpp lists them."""

from __future__ import annotations

import json
import time

import pytest

from slice_ros.engines.llama.gbnf import UNCOUNTED, elements, ways
from slice_ros.engines.llama.grammar import MOST_ELEMENTS, MOST_WAYS, _check
from slice_ros.engines.llama.schema import to_grammar
from slice_ros.goal import GoalError


def doubling(depth: int, root: str = "r0") -> str:
    rules = [f"r{i} ::= r{i + 1} | r{i + 1} r{i + 1}" for i in range(depth)]
    return "\n".join([f"root ::= {root}", *rules, f'r{depth} ::= "b"'])


@pytest.mark.parametrize(
    ("grammar", "count"),
    [
        ('root ::= "yes" | "no"', 1),  # each alternative has one way at each place
        ('root ::= answer\nanswer ::= "yes" | "no" | [0-9]+', 3),
        ('root ::= "a"? "b"? "c"?', 4),
        ('root ::= ("a" | "b") ("c" | "d" | "e")', 3),
        ('root ::= "a" ws\nws ::= [ \\t\\n]* # blanks', 2),
        (doubling(10), 2**10),
        (doubling(10, '"x" r0'), 2**10),
        (doubling(4000), UNCOUNTED),
        ('root ::= ("a"?){0,1000}', 1001),  # the first, or the second without it, ...
        ('root ::= [a-z]{0,1000} "."', 2),
        ('a ::= "x"{0,2000}\nroot ::= a{3}', 3 + 1),
        ('root ::= root "a" | "b"', 0),  # left recursion: llama.cpp says so
        ('root ::= "a" (', 0),
    ],
)
def test_ways_are_counted(grammar, count):
    assert ways(grammar) == count


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"field{i}": {"type": "integer"} for i in range(100)}},
        {"type": "array", "items": {"enum": [f"word {i}" for i in range(500)]}, "maxItems": 20},
        {"type": "string", "pattern": "^[a-z]{1,30}(-[0-9]{2})?$"},
    ],
)
def test_the_schemas_of_robots_are_far_from_the_limit(schema):
    grammar = to_grammar(json.dumps(schema))
    assert ways(grammar) < MOST_WAYS / 5
    assert elements(grammar) < MOST_ELEMENTS / 5


@pytest.mark.parametrize(
    ("grammar", "least", "most"),
    [
        ('root ::= "ab"{1000}', 2000, 5000),
        ('root ::= "ab"{1000} (', 2000, 5000),  # llama.cpp writes out what comes before the mistake
        ('root ::= ("ab" "cd"){0,1000}', 1000, 2000),  # a group is a rule of its own
        ('root ::= "a"+ [b-d]* "e"?', 3, 30),
        ('root ::= "yes" | "no"', 0, 0),
        ('root ::= "a"{5,3}', UNCOUNTED, UNCOUNTED),
        ('root ::= "a"{99999999999999999999}', 10**9 - 1, UNCOUNTED),
    ],
)
def test_elements_are_counted(grammar, least, most):
    assert least <= elements(grammar) <= most


@pytest.mark.parametrize(
    ("grammar", "sentence"),
    [
        ('root ::= "a"{5,3}', "put the smaller number of {m,n} first"),
        (f'root ::= "{"a" * 60_000}"{{2000}} (', "more than 1000000 elements"),
        ('a ::= "x"{0,2000}\nb ::= a{2000}\nroot ::= b{0,2000}', "can go on in 4000001 ways"),
    ],
)
def test_repetitions_that_would_fill_the_memory_are_refused(grammar, sentence):
    with pytest.raises(GoalError, match=sentence):
        _check(grammar, "grammar")


def test_a_small_grammar_that_would_fill_the_memory_is_refused_at_once():
    began = time.monotonic()
    with pytest.raises(GoalError, match="grammar can go on in 33554432 ways at one place; at most 5000 are allowed"):
        _check(doubling(25), "grammar")
    with pytest.raises(GoalError, match="too many ways to count"):
        _check(doubling(1000), "grammar")
    assert time.monotonic() - began < 5.0


def test_the_longest_grammar_is_counted_fast():
    began = time.monotonic()
    assert ways("root ::= " + " ".join(['"a"?'] * 12_000)) == 12_001
    assert time.monotonic() - began < 5.0
