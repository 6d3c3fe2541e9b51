"""Wrong input of every kind, made by hypothesis or by damaging what is right."""

from __future__ import annotations

import json
import random
import struct
from importlib import import_module
from typing import Any

import yaml
from builtin_interfaces.msg import Duration
from hypothesis import strategies as st
from rcl_interfaces.msg import Parameter
from rosidl_parser.definition import AbstractSequence, AbstractString, Array, BasicType, BoundedString, NamespacedType

from slice_ros.ros.interfaces import ChatMessage, Generate, Sampling, Slo, ToolCall
from slice_ros.schemas import BY_NAME

ADAPTERS = ("polite", "terse")
"""Names of those the server under test has."""
NASTY = (
    "",
    "\0",
    "a" * 3000,
    "\U0001f916é",
    '"',
    "{",
    "[",
    "\\",
    "%s%n",
    "../../etc/passwd",
    "\x1b[2J",
    "<|im_start|>",
    "\ud7ff",
    "=",
    "2001-13-01",
)
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))

SIZES = st.sampled_from((0, 1, 2, 3, 7, 30, 1000, 10**9))
"""Numbers in schemas and grammars."""

_atoms = st.sampled_from(('"a"', '"\\n"', "[a-z]", "[^\\x00-\\x7f]", ".", "r0", "r1", "r2", '""', "root"))
_repeats = st.one_of(st.sampled_from(("", "", "*", "+", "?", "{0,}")), st.builds("{{{},{}}}".format, SIZES, SIZES | st.just("")))
_items = st.builds("{}{}".format, _atoms, _repeats)
_sequences = st.lists(_items, min_size=0, max_size=4).map(" ".join)
_bodies = st.recursive(
    _sequences,
    lambda inner: st.one_of(st.builds("{} | {}".format, inner, inner), st.builds("({}){}".format, inner, st.sampled_from(("", "*", "?")))),
    max_leaves=6,
)
GRAMMARS = st.one_of(
    TEXTS,
    st.builds("root ::= {}\nr0 ::= {}\nr1 ::= {}\nr2 ::= {}".format, _bodies, _bodies, _bodies, _bodies),
    st.builds("start: {}\nr0: {}\nr1: {}\nr2: {}".format, _bodies, _bodies, _bodies, _bodies),
    st.text(st.sampled_from('root::=| "a[]()*+?{}1,\n#\\'), max_size=60),
    st.text(st.sampled_from('start:A/%json{}| "a[]()*+?1,\n&~'), max_size=60),
)

REGEXES = st.one_of(
    TEXTS,
    st.text(st.sampled_from("ab.*+?|()[]{}^$\\dwpL1,3&~"), max_size=40),
    st.recursive(
        st.sampled_from(("a", ".", "[a-z]", "\\d", "[^\\x00-\\x7f]", "\\p{L}")),
        lambda inner: st.one_of(
            st.builds("{}{}".format, inner, inner),
            st.builds("({}|{})".format, inner, inner),
            st.builds("({}){{{},{}}}".format, inner, SIZES, SIZES | st.just("")),
            st.builds("({}){}".format, inner, st.sampled_from("*+?")),
        ),
        max_leaves=6,
    ),
)

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_schema_keys = st.sampled_from(
    (
        "type",
        "properties",
        "items",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "pattern",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "required",
        "$ref",
        "$defs",
        "additionalProperties",
        "format",
        "prefixItems",
        "patternProperties",
        "minProperties",
        "multipleOf",
        "not",
        "x-guidance",
    )
)
_schema_words = st.sampled_from(("object", "array", "string", "integer", "number", "boolean", "null", "#/$defs/a", "^a{1,3}$", "(", "date"))
_wrong_schemas: st.SearchStrategy[Any] = st.recursive(
    st.one_of(_json, _schema_words),
    lambda inner: st.dictionaries(_schema_keys, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=10,
)


def _sized(kind: str, least: str, most: str, **rest: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas of a type whose size may be bounded."""
    return st.fixed_dictionaries({"type": st.just(kind), **rest}, optional={least: SIZES, most: SIZES})


_right_schemas: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.sampled_from(({"type": "integer"}, {"type": "number"}, {"type": "boolean"}, {"const": "x"}, {"enum": ["a", 1, None]})),
        _sized("string", "minLength", "maxLength"),
        st.fixed_dictionaries({"type": st.just("string"), "pattern": st.builds("^[a-z]{{{},{}}}$".format, SIZES, SIZES)}),
    ),
    lambda inner: st.one_of(
        _sized("array", "minItems", "maxItems", items=inner),
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=6,
)
SCHEMAS: st.SearchStrategy[str] = st.one_of(
    _right_schemas.map(json.dumps),
    _wrong_schemas.map(json.dumps),
    st.one_of(_right_schemas, _wrong_schemas).map(yaml.safe_dump),
    st.sampled_from(tuple(BY_NAME)) | TEXTS,
)

FORMS = ("grammar", "json_schema", "regex", "tools")
"""Fields that say which form an answer has; a goal may have one of them."""

# ---- messages


@st.composite
def messages_of(draw: st.DrawFn, kind: Any) -> Any:
    """Messages of a class with all of their fields, right where ``RIGHT`` says how, but for one, now and then."""
    right = RIGHT.get(kind, {})
    wrong = draw(st.sampled_from(("",) * 7 * len(right) + tuple(right))) if right else ""
    types = zip(kind.get_fields_and_field_types(), kind.SLOT_TYPES, strict=True)
    fields = {name: draw(right[name] if name in right and name != wrong else _anything(type_)) for name, type_ in types}
    return kind(**fields)


@st.composite
def goals(draw: st.DrawFn) -> Any:
    """Goals with any fields, most of which do not contradict each other."""
    goal = draw(messages_of(Generate.Goal))
    if draw(st.integers(0, 9)) != 5:
        form = draw(st.sampled_from(("", *FORMS)))
        for other in FORMS:
            if other != form:
                setattr(goal, other, "")
        if goal.tools and not goal.messages:
            goal.messages = [ChatMessage(role="user", content="where?")]
        if goal.messages:
            goal.prompt = ""
        if not goal.tools:
            goal.tool_choice = ""
    return goal


def _anything(type_: Any) -> st.SearchStrategy[Any]:
    """All values of a field."""
    match type_:
        case NamespacedType():
            return messages_of(class_of("::".join((*type_.namespaces, type_.name))))
        case Array():
            return st.lists(_anything(type_.value_type), min_size=type_.size, max_size=type_.size)
        case AbstractSequence():
            return st.lists(_anything(type_.value_type), max_size=2)
        case BoundedString():
            return TEXTS.filter(lambda text: len(text.encode()) <= type_.maximum_size)
        case AbstractString():
            return TEXTS
        case BasicType(typename="boolean"):
            return st.booleans()
        case BasicType(typename="octet"):
            return st.binary(min_size=1, max_size=1)
        case BasicType(typename="float" | "double" as name):
            return st.floats(width=32 if name == "float" else 64)
    bits, is_signed = int(type_.typename.partition("int")[2]), not type_.typename.startswith("u")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    return st.integers(low, high) | st.integers(0, 3)


def class_of(name: str) -> Any:
    """The class of a type as DDS names it: ``package::srv::dds_::Name_Request_``; with or without what DDS puts around the name itself."""
    package, folder, *_, last = name.split("::")
    last = last.removesuffix("_")
    offered = getattr(import_module(f"{package}.{folder}"), last.partition("_")[0])
    return getattr(import_module(offered.__module__), last)


def _durations(*milliseconds: int) -> st.SearchStrategy[Any]:
    return st.sampled_from(milliseconds).map(lambda ms: Duration(sec=ms // 1000, nanosec=ms % 1000 * 10**6))


def _perhaps(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """None, as often as not."""
    return st.tuples(st.booleans(), texts).map(lambda drawn: drawn[1] if drawn[0] else "")


def _rarely(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """None in four of five."""
    return st.tuples(st.integers(0, 4), texts).map(lambda drawn: "" if drawn[0] else drawn[1])


TOOLS: st.SearchStrategy[str] = st.one_of(
    st.lists(
        st.fixed_dictionaries({"name": st.sampled_from(("look", "go"))}, optional={"parameters": _right_schemas | _wrong_schemas}),
        min_size=1,
        max_size=3,
    ).map(json.dumps),
    TEXTS,
)

RIGHT: dict[Any, dict[str, st.SearchStrategy[Any]]] = {
    Generate.Goal: {
        "prompt": st.just("go to the dock") | st.text(min_size=1, max_size=20),
        "label": st.sampled_from(("", "control", "voice")),
        "model": st.just(""),
        "answer_prefix": _perhaps(TEXTS),
        "messages": st.just([]) | st.lists(st.deferred(lambda: messages_of(ChatMessage)), max_size=2),
        "tools": _perhaps(TOOLS),
        "tool_choice": _rarely(st.sampled_from(("auto", "none", "required", "look"))),
        "reasoning": _rarely(st.sampled_from(("off", "on", "3", "deadline"))),
        "after": st.just([]),
        "chain_deadline": _durations(0, 0, 1, 2000),
        "max_tokens": st.integers(1, 20),
        "stop": st.lists(st.text(min_size=1, max_size=2), max_size=2),
        "grammar": _perhaps(GRAMMARS),
        "json_schema": _perhaps(SCHEMAS),
        "regex": st.one_of(*(st.just("") for _ in range(5)), REGEXES),
        "adapter": st.sampled_from(("", *ADAPTERS)),
        "session_id": st.sampled_from(("", "a", "b")),
        "client": st.sampled_from(("", "x")),
        "presence": st.just(""),
    },
    ChatMessage: {
        "role": st.sampled_from(("user", "assistant", "system")),
        "tool_calls": st.just([]) | st.lists(st.deferred(lambda: messages_of(ToolCall)), max_size=1),
        "tool_call_id": st.just(""),
    },
    ToolCall: {"id": st.just("abcdefghi"), "name": st.just("look"), "arguments": st.just("{}")},
    Slo: {
        "preset": st.just(""),
        "service_class": st.integers(0, 1),
        "ttft": _durations(0, 1, 300),
        "tpot": _durations(0, 1, 50),
        "deadline": _durations(0, 500, 1000, 5000),
        "utility": st.sampled_from((0.0, 0.5, 200.0)),
        "on_miss": st.integers(0, 2),
    },
    Sampling: {
        "temperature": st.sampled_from((0.0, 0.8, 5.0)),
        "top_k": st.integers(0, 100),
        "top_p": st.floats(0.0, 1.0, width=32),
        "min_p": st.floats(0.0, 1.0, width=32),
        "repeat_penalty": st.sampled_from((0.0, 1.0, 1.3)),
    },
    Parameter: {"name": st.sampled_from(("diagnostics.attainment_warn", "model.path", "scheduler.policy"))},
}
"""What fields should be, by type; those that are not here may be anything."""


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A copy with something wrong: cut, longer, bits turned, bytes moved, or a length that promises too much."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed)) if changed else 0
        kind = rng.randrange(6)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            changed[at:at] = rng.randbytes(rng.randint(1, 64))
        elif kind == 2 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            changed[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data), len(data) * 2)))
        elif kind == 4:
            changed[at : at + 8] = rng.randbytes(8)
        else:
            end = at + rng.randint(0, 32)
            changed += changed[at:end]
    return bytes(changed)
