"""A JSON schema to a GBNF grammar under which every answer is JSON that the schema accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llama_cpp import llama_grammar
from llama_cpp.llama_grammar import PRIMITIVE_RULES, SchemaConverter

from slice_ros.engines.llama.gbnf import MOST_TIMES
from slice_ros.goal import ErrorCode, GoalError
from slice_ros.schemas import BY_NAME

DEEPEST = 100
"""The converter is recursive, and so are the parsers of what it makes."""

MOST_WRITTEN = 16 * 2**20
"""Characters the converter may write, those it writes twice included: references to references double with each level."""

UNKEPT = frozenset((
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "not", "if", "then", "else", "contains", "minContains",
    "maxContains", "uniqueItems", "minProperties", "maxProperties", "propertyNames", "patternProperties", "dependentRequired",
    "dependentSchemas", "unevaluatedItems", "unevaluatedProperties",
))  # fmt: skip
"""Keywords that the grammar does not keep: an answer would break them unnoticed."""

BRANCHES = {
    "$ref": (), "oneOf": (), "anyOf": (), "type": (), "const": ("enum",), "enum": (), "properties": ("additionalProperties", "required"),
    "additionalProperties": ("required",), "allOf": (), "items": ("minItems", "maxItems"), "prefixItems": (), "pattern": (),
    "minLength": ("maxLength",), "maxLength": (),
}  # fmt: skip
"""The converter goes by the first of these keywords that a schema has, and keeps of the others only those named behind it."""

TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))

_RULES = {
    # JSON has no control characters in strings, and UTF-16 surrogates only in pairs.
    PRIMITIVE_RULES["char"].content: (
        r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-Ce-fE-F] [0-9a-fA-F] | [dD] [0-7]) [0-9a-fA-F] [0-9a-fA-F])'
    ),
    # Exponents of three digits are more than a double can hold.
    PRIMITIVE_RULES["number"].content: ('("-"? integral-part) ("." decimal-part)? ([eE] [-+]? [0-9] [0-9]?)? space'),
}
"""What llama-cpp-python's rules become, by their content."""


def _repetition(item: str, least: int, most: int | None, separator_rule: str = "", **_: bool) -> str:
    """An item so many times, in GBNF's own notation."""
    if not separator_rule:
        return f"{item}{{{least},{'' if most is None else most}}}"
    if most == 0:
        return ""
    rest = _repetition(f"({separator_rule} {item})", max(least - 1, 0), None if most is None else most - 1)
    return f"({item} {rest})" + ("" if least else "?")


llama_grammar._build_repetition = _repetition
"""The converter's own writes the item that often: a schema of 40 bytes makes a grammar of any length."""


class _Converter(SchemaConverter):
    def __init__(self) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._written = 0

    def references(self) -> list[tuple[str, Any]]:
        """Each reference and what it stands for; to be asked once they are resolved."""
        return list(self._refs.items())

    def _add_rule(self, name: str, rule: str) -> str:
        self._written += len(name) + len(rule)
        if self._written > MOST_WRITTEN:
            raise _refusal(" makes too many rules; use fewer references and shorter names")
        return str(super()._add_rule(name, _RULES.get(rule, rule)))

    def _format_literal(self, literal: str) -> str:
        """A piece of JSON as a literal of the grammar, characters beyond ASCII as they are."""
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def to_grammar(schema: str) -> str:
    """GBNF of a JSON schema, or of the one of that name.

    Raises:
        GoalError: INVALID_GRAMMAR, with the place where it is wrong: line and column, or a JSON pointer.
    """
    if schema in BY_NAME:
        parsed: Any = BY_NAME[schema]
    else:
        try:
            parsed = json.loads(schema)
        except json.JSONDecodeError as error:
            where = f"{error.msg} at line {error.lineno}, column {error.colno}"
            raise _refusal(f" is {schema[:40]!r}, neither JSON ({where}) nor one of the names {', '.join(BY_NAME)}") from error
        except RecursionError as error:
            raise _refusal(f" nests deeper than {DEEPEST} levels; make it flatter") from error
        if not isinstance(parsed, dict):
            raise _refusal(f" is {schema[:40]!r}; it must be a JSON object, or one of the names {', '.join(BY_NAME)}")
    converter = _Converter()
    checked: set[int] = set()
    try:
        _check(parsed, "#", 0, checked)
        converter.resolve_refs(parsed, "schema")
        for reference, target in converter.references():
            if id(target) not in checked:
                raise _refusal(f" has the $ref {reference.removeprefix('schema')[:40]!r} to what is no schema in it; keep it in $defs")
        converter.visit(parsed, "")
    except GoalError:
        raise
    except Exception as error:  # the converter raises what it meets, and a schema may hold anything
        raise _refusal(f" cannot be turned into a grammar ({f'{type(error).__name__}: {error}'[:200]})") from error
    return str(converter.format_grammar())


def _check(schema: Any, at: str, depth: int, checked: set[int]) -> None:
    """Refuse what the grammar would not keep.

    Args:
        at: the JSON pointer of this part.
        checked: takes in the ids of the parts that have been checked.

    Raises:
        GoalError: INVALID_GRAMMAR.
    """
    if not isinstance(schema, dict):
        raise _refusal(f" has {json.dumps(schema)[:40]} at {at}; there must be a JSON object")
    if depth > DEEPEST:
        raise _refusal(f" nests deeper than {DEEPEST} levels; make it flatter")
    checked.add(id(schema))
    for keyword, times in _repetitions(schema):
        if times > MOST_TIMES:
            raise _refusal(f" repeats something {times:.0f} times at {at}/{keyword}; at most {MOST_TIMES} are allowed")
    types = schema.get("type", [])
    for name in types if isinstance(types, list) else [types]:
        if name not in TYPES:
            raise _refusal(f" has the type {json.dumps(name)[:40]} at {at}/type; it must be one of {', '.join(sorted(TYPES))}")
    if unkept := sorted(UNKEPT & schema.keys()):
        raise _refusal(f" has {at}/{unkept[0]}, which a grammar cannot keep; list what is allowed with enum, or leave it out and check")
    if lost := _lost(schema):
        raise _refusal(
            f" has {at}/{lost[1]} beside {lost[0]}, of which a grammar keeps only {lost[0]}; put them into one, or leave one out"
        )
    if schema.get("items") == {} or ({"minItems", "maxItems"} & schema.keys() and "items" not in schema):
        raise _refusal(f" has an array at {at} whose items have no type; give them one")
    for part, where in _parts(schema):
        _check(part, f"{at}/{where}", depth + 1, checked)
    if unknown := set(schema.get("required", [])) - set(schema.get("properties", {})):
        raise _refusal(f" has {at}/required with {min(unknown)!r}, which is not among the properties; describe it there")


def _lost(schema: dict[str, Any]) -> tuple[str, str] | None:
    """The keyword that the converter goes by, and one that it overlooks for that; ``None`` if it overlooks none."""
    # One type is what the other keywords are about; several are a choice.
    asserted = [keyword for keyword in BRANCHES if keyword in schema and (keyword != "type" or isinstance(schema["type"], list))]
    others = [keyword for keyword in asserted[1:] if keyword not in BRANCHES[asserted[0]]]
    return (asserted[0], others[0]) if others else None


def _repetitions(schema: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """How often a schema has something repeated, with the keywords that say so."""
    for keyword in ("minLength", "maxLength", "minItems", "maxItems"):
        if isinstance(times := schema.get(keyword), int | float):
            yield keyword, times
    if isinstance(pattern := schema.get("pattern"), str):
        for quantifier in re.findall(r"\{([\d\s,]*)\}", pattern):
            # Of so many digits the number does not matter, only that it is too large.
            yield from (("pattern", float(times)) for times in re.findall(r"\d+", quantifier))


def _parts(schema: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """The schemas in a schema with their places; also what should be schemas and is none."""
    for keyword in ("properties", "$defs", "definitions"):
        named = schema.get(keyword, {})
        yield from ((part, f"{keyword}/{name}") for name, part in named.items()) if isinstance(named, dict) else [(named, keyword)]
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems", "items"):
        parts = schema.get(keyword, [])
        yield from ((part, f"{keyword}/{i}") for i, part in enumerate(parts)) if isinstance(parts, list) else [(parts, keyword)]
    if not isinstance(additional := schema.get("additionalProperties", False), bool):
        yield additional, "additionalProperties"


def _refusal(what: str) -> GoalError:
    return GoalError(ErrorCode.INVALID_GRAMMAR, f"json_schema{what}")
