"""Wrong input of every kind, made by hypothesis or by damaging what is right."""

from __future__ import annotations

import random
import struct
from typing import Any

from hypothesis import strategies as st

NASTY = ("", "\0", "a" * 3000, "\U0001f916é", '"', "{", "[", "\\", "%s%n", "../../etc/passwd", "\x1b[2J", "<|im_start|>", "\ud7ff")
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))

_atoms = st.sampled_from(('"a"', '"\\n"', "[a-z]", "[^\\x00-\\x7f]", ".", "r0", "r1", "r2", '""', "root"))
_items = st.builds("{}{}".format, _atoms, st.sampled_from(("", "", "*", "+", "?", "{1,3}", "{0,}", "{2}")))
_sequences = st.lists(_items, min_size=0, max_size=4).map(" ".join)
_bodies = st.recursive(
    _sequences,
    lambda inner: st.one_of(st.builds("{} | {}".format, inner, inner), st.builds("({}){}".format, inner, st.sampled_from(("", "*", "?")))),
    max_leaves=6,
)
GRAMMARS = st.one_of(
    TEXTS,
    st.builds("root ::= {}\nr0 ::= {}\nr1 ::= {}\nr2 ::= {}".format, _bodies, _bodies, _bodies, _bodies),
    st.text(st.sampled_from('root::=| "a[]()*+?{}1,\n#\\'), max_size=60),
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
    )
)
_schema_words = st.sampled_from(("object", "array", "string", "integer", "number", "boolean", "null", "#/$defs/a", "^a{1,3}$", "(", "date"))
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(_json, _schema_words),
    lambda inner: st.dictionaries(_schema_keys, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=10,
)


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
