"""A JSON schema as llguidance takes it; and where in it is what cannot be kept, which llguidance does not say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from slice_ros.goal import ErrorCode, GoalError
from slice_ros.schemas import BY_NAME

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions  # a type that is there for type checkers only

LONGEST = 64 * 1024
"""Characters of a schema without what explains it. What is certain of an answer is no longer, and it is cut into tokens at once."""
DEEPEST = 100
"""Levels of a schema; llguidance reads no more than 128."""
LARGEST_SPELLED = 1e6
"""A listed number beyond this has one spelling."""
SEARCH_S = 0.2
"""How long the parts of a refused schema are tried alone, to find the one that is at fault."""

COMPACT: JsonCompileOptions = {"whitespace_flexible": False}
"""Unless the schema's ``x-guidance`` says otherwise: white space is tokens, and each costs time."""
STRICT: JsonCompileOptions = {"lenient": False, "coerce_one_of": False}
"""Whatever it says: what cannot be kept is refused."""

_NOTES = frozenset(("title", "description", "markdownDescription", "enumDescriptions", "examples", "default", "$comment"))
"""What explains a schema; often most of it."""
_NAMED = ("$defs", "definitions", "properties", "patternProperties")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "additionalItems")

Complaint = Callable[[str], str]
"""What is wrong with a grammar; empty if nothing is."""


def to_grammar(schema: str) -> str:
    """llguidance's grammar of a JSON schema, or of the one of that name. Whether it can be kept is not looked at yet.

    Raises:
        GoalError: INVALID_GRAMMAR; it is no JSON object, with line and column.
    """
    return _grammar(parse(schema))


def parse(schema: str) -> dict[str, Any]:
    """A JSON schema, or the one of that name.

    Raises:
        GoalError: INVALID_GRAMMAR.
    """
    if schema in BY_NAME:
        return BY_NAME[schema]
    try:
        parsed = json.loads(schema)
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise _refusal(f"is {schema[:40]!r}, neither JSON ({where}) nor one of the names {', '.join(BY_NAME)}") from error
    except RecursionError as error:
        raise _refusal(f"nests deeper than {DEEPEST} levels; make it flatter") from error
    if not isinstance(parsed, dict):
        raise _refusal(f"is {schema[:40]!r}; it must be a JSON object, or one of the names {', '.join(BY_NAME)}")
    if _depth(parsed) > DEEPEST:
        raise _refusal(f"nests deeper than {DEEPEST} levels; make it flatter")
    if len(schema) > LONGEST and (size := len(json.dumps(_essence(parsed), separators=(",", ":")))) > LONGEST:
        raise _refusal(f"has {size} characters without its descriptions; at most {LONGEST} are allowed")
    return parsed


def refusal(schema: str, what: str, complaint_of: Complaint) -> GoalError:
    """Why a schema is not taken: llguidance's complaint, and the JSON pointer of the smallest part that gives it alone."""
    root = parse(schema)
    shared: dict[str, Any] = {keyword: root[keyword] for keyword in ("$defs", "definitions") if keyword in root}
    at, parts, until_s = "#", _parts(root), time.monotonic() + SEARCH_S
    while (found := next(parts, None)) and time.monotonic() < until_s:
        part, where = found
        if isinstance(part, dict) and complaint_of(_grammar(shared | part)) == what:
            at, parts = f"{at}/{where}", _parts(part)
    if what.startswith("oneOf"):  # its advice is an option
        what = "the parts of oneOf could accept the same answer, or nobody can tell that they do not; use anyOf"
    return _refusal(f"cannot be kept at {at[:200]}: {what}")


def _grammar(schema: dict[str, Any]) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(json.dumps(_spelled(schema)), defaults=COMPACT, overrides=STRICT)
    except ValueError as error:  # half a surrogate, NaN, or a number that is too large
        raise _refusal(f"holds what is no JSON: {error}") from error


def _parts(schema: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """The schemas in a schema, with their places."""
    for keyword in _NAMED:
        if isinstance(named := schema.get(keyword), dict):
            yield from ((part, f"{keyword}/{name.replace('~', '~0').replace('/', '~1')}") for name, part in named.items())
    for keyword in _LISTED:
        if isinstance(listed := schema.get(keyword), list):
            yield from ((part, f"{keyword}/{i}") for i, part in enumerate(listed))
    yield from ((schema[keyword], keyword) for keyword in _SINGLE if isinstance(schema.get(keyword), dict))


def _spelled(schema: Any) -> Any:
    """A schema in whose answers a number that it lists as 1.0 may be written so, too.

    llguidance would have 1 alone, which a model does not write that was taught tenths: it goes on to a wrong one instead.
    """
    if isinstance(schema, list):
        return [_spelled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts: dict[str, Any] = {}
    for keyword, part in schema.items():
        if keyword in _NAMED and isinstance(part, dict):
            parts[keyword] = {name: _spelled(named) for name, named in part.items()}
        else:
            parts[keyword] = _spelled(part) if keyword in (*_LISTED, *_SINGLE) else part
    listed = parts["enum"] if isinstance(parts.get("enum"), list) else [parts["const"]] if "const" in parts else []
    whole = [value for value in listed if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_SPELLED]
    if not whole:
        return parts
    rest = [value for value in listed if not isinstance(value, float) or value not in whole]
    either: list[dict[str, Any]] = [{"enum": rest}] if rest else []
    # Bounds that are the number itself would be llguidance's 1 again.
    either += [{"type": "number", "exclusiveMinimum": n - 0.1, "exclusiveMaximum": n + 0.1, "multipleOf": 0.1} for n in whole]
    others = {keyword: part for keyword, part in parts.items() if keyword not in ("enum", "const")}
    return others | {"allOf": [*parts.get("allOf", ()), {"anyOf": either}]}


def _essence(schema: Any) -> Any:
    """A schema without what explains it."""
    if isinstance(schema, list):
        return [_essence(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {}
    for keyword, part in schema.items():
        if keyword in _NAMED and isinstance(part, dict):
            parts[keyword] = {name: _essence(named) for name, named in part.items()}
        elif keyword not in _NOTES:
            parts[keyword] = part if keyword in ("const", "enum") else _essence(part)
    return parts


def _depth(value: Any) -> int:
    """How deep a value nests; what nests deeper than ``DEEPEST`` counts as that and one."""
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        level = [inner for part in level if isinstance(part, (dict, list)) for inner in (part.values() if isinstance(part, dict) else part)]
        depth += 1
    return depth


def _refusal(what: str) -> GoalError:
    return GoalError(ErrorCode.INVALID_GRAMMAR, f"json_schema {what}")
