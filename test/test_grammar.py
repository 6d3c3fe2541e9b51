"""What may come next: schemas, regular expressions and grammars accept what they mean and nothing else, whatever is drawn among that."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal

import llama_cpp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker
from pydantic import BaseModel, Field, create_model
from pydantic import v1 as pydantic_v1

from slice_ros import schemas
from slice_ros.engines.llama.grammar import Grammar, Grammars
from slice_ros.engines.llama.shapes import default_model_path
from slice_ros.engines.llama.vocabulary import Vocabulary
from slice_ros.goal import ErrorCode, GoalError, GoalRequest
from slice_ros.slo import Slo

MOST_TOKENS = 400
QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)


class Language:
    """The shipped model's vocabulary, and what grammars make of it."""

    def __init__(self) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(default_model_path()).encode(), parameters)
        self.vocabulary = Vocabulary(self._model)
        self.grammars = Grammars(self.vocabulary)

    def close(self) -> None:
        llama_cpp.llama_model_free(self._model)

    def make(self, **form: str) -> Grammar:
        grammar = self.grammars.make(GoalRequest("goal", Slo(), 100, prompt="x", **form))  # type: ignore[arg-type]
        assert grammar is not None
        return grammar

    def accepts(self, text: str, **form: str) -> bool:
        """Whether an answer may be this text, from its first token to its end."""
        grammar = self.make(**form)
        for token in self.vocabulary.tokenize(text, add_special=False, parse_special=False):
            if grammar.is_complete or not grammar.allows(token):
                return False
            grammar.accept(token)
        return grammar.is_complete or any(grammar.allows(token) for token in self.vocabulary.ending)

    def draw(self, rng: random.Random, **form: str) -> str | None:
        """A random answer with forced tokens in it; ``None`` if it does not end soon, or became too complex."""
        grammar, data = self.make(**form), b""
        for _ in range(MOST_TOKENS):
            data += b"".join(map(self.vocabulary.piece, grammar.forced()))
            if grammar.is_complete:
                return data.decode()
            allowed = [int(token) for token in grammar.allowed()]
            if grammar.complaint:
                return None
            assert allowed
            if not self.vocabulary.ending.isdisjoint(allowed) and rng.random() < 0.7:
                return data.decode()
            inner = [token for token in allowed if token not in self.vocabulary.ending]
            closing = [token for token in inner if self.vocabulary.piece(token)[:1] in (b'"', b"]", b"}")]
            token = rng.choice(closing if closing and rng.random() < 0.5 else inner)
            assert grammar.allows(token)
            grammar.accept(token)
            data += self.vocabulary.piece(token)
        return None


@pytest.fixture(scope="module")
def language() -> Iterator[Language]:
    language = Language()
    yield language
    language.close()


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# ---- schemas

MODE = {"enum": ["fast", "slow"]}
POINT: dict[str, Any] = {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}], "minItems": 2, "maxItems": 2}
LINK = {"anyOf": [{"$ref": "#/$defs/string"}, {"type": "null"}]}
NODE = {"type": "object", "properties": {"next": LINK}, "required": ["next"]}
TREE: dict[str, Any] = {"$defs": {"string": NODE}, "$ref": "#/$defs/string"}
NAMED_ALIKE = {
    "type": "object",
    "properties": {"mode": {"type": "integer"}, "drive": {"$ref": "#/$defs/mode"}},
    "required": ["mode", "drive"],
    "$defs": {"mode": MODE},
}
LAST_PARTS_ALIKE = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/x/kind"}, "b": {"$ref": "#/$defs/y/kind"}},
    "required": ["a", "b"],
    "$defs": {"x": {"kind": {"const": 1}}, "y": {"kind": {"const": 2}}},
}
NAMED_AS_TYPES = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/string"}, "b": {"$ref": "#/$defs/value"}, "c": {"type": "string"}},
    "required": ["a", "b", "c"],
    "$defs": {"string": {"type": "integer"}, "value": {"type": "null"}},
}
PLACES = {"properties": {"to": {"$ref": "#/$defs/Place"}}, "required": ["to"], "$defs": {"Place": {"enum": ["dock"]}}}
TOOL = schemas.tool_call(
    [
        {"name": "go", "parameters": PLACES},
        {"name": "set", "parameters": {"type": "object", "additionalProperties": {"type": "number"}}},
    ]
)


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (NAMED_ALIKE, [{"mode": 3, "drive": "slow"}], [{"mode": "fast", "drive": "slow"}, {"mode": 3, "drive": 3}]),
        (LAST_PARTS_ALIKE, [{"a": 1, "b": 2}], [{"a": 2, "b": 2}, {"a": 1, "b": 1}]),
        (NAMED_AS_TYPES, [{"a": 1, "b": None, "c": "x"}], [{"a": "x", "b": None, "c": "x"}, {"a": 1, "b": 1, "c": "x"}]),
        ({"allOf": [{"$ref": "#/definitions/m"}], "description": "x", "definitions": {"m": MODE}}, ["fast"], [{}, "x"]),
        ({"type": "string", "pattern": "^a$|^b$"}, ["a", "b"], ["ab", "c", ""]),
        ({"type": "string", "pattern": "^.$"}, ["x", "\\", "é"], ["", "xy"]),
        ({"type": "string", "pattern": '^[^a]"\\\\\\d\\w$'}, ['b"\\7_'], ['a"\\7_', 'b"\\x_']),
        (POINT, [[1, 2.5]], [[1], [1, 2, 3], ["a", 1]]),
        (TREE, [{"next": None}, {"next": {"next": {"next": None}}}], [{"next": 1}, {}]),
        ({}, [1, "x", [None], {"a": {"b": 1}}], []),
        ({"type": "array"}, [[], [1, "x", {}]], [{}]),
        ({"type": ["string", "null"], "enum": ["a", None]}, ["a", None], ["null", "b"]),
        ({"type": "integer", "minimum": -3, "exclusiveMaximum": 12}, [-3, 0, 11], [-4, 12, 1.5]),
        ({"type": "number", "minimum": 0, "maximum": 1}, [0, 0.25, 1], [-0.1, 1.1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
        ({"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
         [{}, {"x1": 1}], [{"x": "a"}, {"y": 1}]),
        ({"type": "string", "format": "ipv4"}, ["10.0.0.1"], ["10.0.0", "x"]),
        ({"type": "string", "format": "email"}, ["a@b.org"], ["a"]),
        ({"type": "string", "format": "date"}, ["2026-01-31"], ["2026-13-31", "now"]),
        ({"properties": {"a": {"const": 1}}, "required": ["a"], "anyOf": [{"required": ["b"]}, {"required": ["c"]}], "type": "object"},
         [{"a": 1, "b": 2}, {"a": 1, "c": 2}], [{"a": 1}, {"b": 2}]),
        (TOOL,
         [{"name": "go", "arguments": {"to": "dock"}}, {"name": "set", "arguments": {"speed": 0.5}}, {"name": "set", "arguments": {}}],
         [{"name": "go", "arguments": {"to": "moon"}}, {"name": "set", "arguments": {"speed": "fast"}}]),
        *((schema, [], [3, {"x": 1}]) for schema in schemas.BY_NAME.values()),
    ],
)  # fmt: skip
def test_a_schema_accepts_its_answers_and_no_others(language, schema, right, wrong):
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    for answer in right:
        assert validator.is_valid(answer)
        assert language.accepts(compact(answer), json_schema=json.dumps(schema)), answer
    for answer in wrong:
        assert not validator.is_valid(answer)
        assert not language.accepts(compact(answer), json_schema=json.dumps(schema)), answer


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"enum": [-0.1, 0.0, 0.1, 1.0]}, ["0.0", "0", "1.0", "1", "-0.1"], ["0.00", "2.0", "0.2", "-1.0"]),
        ({"const": -3.0}, ["-3.0", "-3"], ["3.0", "-3.1"]),
        ({"const": 1}, ["1"], ["1.0"]),
        ({"enum": ["a", 1.0, True]}, ['"a"', "1.0", "true"], ["false", "2.0"]),
        ({"properties": {"turn": {"enum": [0.0]}}, "required": ["turn"]}, ['{"turn":0.0}', '{"turn":0}'], ['{"turn":0.1}']),
    ],
)
def test_a_number_that_is_listed_with_a_decimal_may_be_written_so(language, schema, right, wrong):
    accepted = {text: language.accepts(text, json_schema=json.dumps(schema)) for text in (*right, *wrong)}
    assert accepted == dict.fromkeys(right, True) | dict.fromkeys(wrong, False)


def test_json_is_compact_unless_the_schema_says_otherwise(language):
    schema = {"type": "array", "items": {"type": "integer"}}
    assert language.accepts("[1,2]", json_schema=json.dumps(schema))
    assert not language.accepts("[1, 2]", json_schema=json.dumps(schema))
    assert language.accepts("[1, 2]", json_schema=json.dumps(schema | {"x-guidance": {"whitespace_flexible": True}}))


NAMES = st.sampled_from(("mode", "value", "string", "type", "enum", "$ref", "a/b", "a~b", "ü", 'q"', "x y", "properties"))
SCALARS = st.sampled_from((None, True, 0, -3, 2.5, "", "fast", "Küche", 'a"b\\c', "x\ny", "🤖"))
SMALL = st.integers(0, 3)


def bounded(kind: str, least: str, most: str, sizes: st.SearchStrategy[Any], **rest: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas of a type with bounds that do not contradict each other."""

    def build(bounds: list[Any], chosen: set[str], others: dict[str, Any]) -> dict[str, Any]:
        sizes = dict(zip((least, most), sorted(bounds), strict=True))
        return {"type": kind, **others, **{keyword: size for keyword, size in sizes.items() if keyword in chosen}}

    chosen = st.sets(st.sampled_from((least, most)))
    return st.builds(build, st.tuples(sizes, sizes).map(list), chosen, st.fixed_dictionaries({}, optional=rest))


PATTERNS = st.sampled_from(("^a|b$", "^.{2}$", "[^a-y]", "^\\d{1,3}$", "\\w+-\\w", "^(x|yz)*$", "\\\\", '"', "^[\\]\\[-]+$", "é?"))
FORMATS = st.sampled_from(("email", "ipv4", "ipv6", "uuid"))  # of dates, 29 February is one in each year
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(({}, {"type": "null"}, {"type": "boolean"}, {"type": ["integer", "null"]}, {"type": "array"}, {"type": "object"})),
    bounded("integer", "minimum", "maximum", st.integers(-20, 130)),
    bounded("integer", "exclusiveMinimum", "maximum", st.sampled_from((-5, 0, 3, 40)), multipleOf=st.sampled_from((1, 2))),
    bounded("number", "minimum", "exclusiveMaximum", st.sampled_from((-1.5, 0, 0.25, 10, 123.5))),
    bounded("string", "minLength", "maxLength", SMALL),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, PATTERNS),
    st.builds(lambda name: {"type": "string", "format": name}, FORMATS),
    st.builds(lambda values: {"enum": values}, st.lists(SCALARS, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, SCALARS | st.just([1, {"a": "b"}])),
)
REFERENCES = st.builds(lambda name: {"$ref": f"#/$defs/{name}"}, st.sampled_from(("mode", "value", "string", "a~1b")))


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def of_object(properties: dict[str, Any], required: set[str], additional: Any) -> dict[str, Any]:
        given = {"type": "object", "properties": properties, "required": sorted(required & properties.keys())}
        return given if additional is None else given | {"additionalProperties": additional}

    additional = st.sampled_from((None, False, {"type": "integer"}))
    return st.one_of(
        st.builds(of_object, st.dictionaries(NAMES, inner, max_size=3), st.sets(NAMES), additional),
        bounded("array", "minItems", "maxItems", SMALL, items=inner, prefixItems=st.lists(inner, max_size=2)),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part, text: {"allOf": [part], "description": text}, inner, st.text(max_size=5)),
        st.builds(lambda part: {"type": "object", "patternProperties": {"^x": part}, "additionalProperties": False}, inner),
    )


SCHEMAS = st.builds(
    lambda root, **defs: root | {"$defs": {name.replace("_", "/"): part for name, part in defs.items()}},
    st.recursive(LEAVES | REFERENCES, nested, max_leaves=5),
    mode=LEAVES,
    value=LEAVES,
    string=st.just(NODE),
    a_b=LEAVES,
)


@pytest.mark.timeout(600)
def test_whatever_is_drawn_a_schema_keeps_its_answers(language, pytestconfig):
    counts = Counter[str]()

    @settings(QUICK, max_examples=5 * pytestconfig.getoption("--structured-goals"))
    @given(SCHEMAS, st.integers(0, 2**32))
    def check(schema: dict[str, Any], seed: int) -> None:
        try:
            text = language.draw(random.Random(seed), json_schema=json.dumps(schema))
        except GoalError:
            counts["refused"] += 1
            return
        if text is None:
            counts["unended"] += 1
            return
        Draft202012Validator(schema, format_checker=FormatChecker()).validate(json.loads(text))
        counts["right"] += 1

    check()
    assert counts["right"] > 0.6 * counts.total(), counts


class Waypoint(BaseModel):
    name: str = Field(max_length=4)
    at: tuple[float, float] | None = None
    mode: Literal["fast", "slow"] | None = "fast"
    battery: int = Field(50, ge=0, le=100)
    extra: Any = None
    rest: list = []
    then: Waypoint | None = None


class Stop(BaseModel):
    kind: Literal["stop"]


class Go(BaseModel):
    kind: Literal["go"]
    points: list[Waypoint] = Field(min_length=1, max_length=2)


class Mission(BaseModel):
    step: Go | Stop = Field(discriminator="kind")
    speeds: dict[str, float] = {}


class OldMode(str, Enum):
    FAST, SLOW = "fast", "slow"


class OldPoint(pydantic_v1.BaseModel):
    mode: OldMode = pydantic_v1.Field(OldMode.FAST, description="how")
    at: tuple[float, float]
    battery: int = pydantic_v1.Field(50, ge=0, le=100)
    extra: Any = None
    then: OldPoint | None = None


OldPoint.update_forward_refs()

KINDS = st.sampled_from(
    (int, float, bool, str, Any, list, dict[str, int], tuple[int, str], int | None, Literal["a", 2, None], list[int | str])
)


@st.composite
def models(draw: st.DrawFn) -> Any:
    """Models of both of pydantic's versions, with what these can say of a field."""
    make, field = draw(st.sampled_from(((create_model, Field), (pydantic_v1.create_model, pydantic_v1.Field))))
    fields: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from("abcdef"), unique=True, min_size=1, max_size=4)):
        kind = draw(KINDS)
        fields[name] = (int, field(ge=-3, le=40)) if kind is int else (kind, draw(st.sampled_from((..., None))))
    inner = make("Inner", **fields)
    return make("Outer", inner=(inner, ...), many=(list[inner], []), maybe=(inner | None, None))  # type: ignore[valid-type]


def schema_of(model: Any) -> dict[str, Any]:
    schema: dict[str, Any] = model.model_json_schema() if issubclass(model, BaseModel) else model.schema()
    return schema


@pytest.mark.parametrize("model", [Waypoint, Mission, OldPoint])
def test_answers_to_a_pydantic_model_are_such_models(language, model):
    ended = 0
    for seed in range(30):
        text = language.draw(random.Random(seed), json_schema=json.dumps(schema_of(model)))
        if text is not None:
            model.model_validate_json(text) if issubclass(model, BaseModel) else model.parse_raw(text)
            ended += 1
    assert ended > 10


@settings(QUICK, max_examples=60)
@given(models(), st.integers(0, 2**32))
def test_every_pydantic_model_can_be_answered(language, model, seed):
    schema = schema_of(model)
    validator = (Draft202012Validator if issubclass(model, BaseModel) else Draft7Validator)(schema)
    text = language.draw(random.Random(seed), json_schema=json.dumps(schema))
    if text is not None:
        validator.validate(json.loads(text))


# ---- regular expressions and grammars


@pytest.mark.parametrize(
    ("regex", "right", "wrong"),
    [
        ("stop|go( slowly)?", ["stop", "go", "go slowly"], ["stopgo", "slowly"]),
        (r"-?\d{1,3}\.\d", ["-12.5", "3.0"], ["1234.0", "1."]),
        ("[^a-z]+", ["ÄÖ 12", "\n"], ["Äa", ""]),
        ("(?i)yes", ["YES", "yes"], ["y"]),
    ],
)
def test_an_answer_is_what_the_regular_expression_matches_as_a_whole(language, regex, right, wrong):
    for text in (*right, *wrong):
        assert bool(re.fullmatch(regex, text)) == (text in right) == language.accepts(text, regex=regex), text


LITERALS = st.text(st.sampled_from('ab."\\[]-^{é\n'), min_size=1, max_size=3)
MEMBERS = st.text(st.sampled_from('ab."\\[]{é\n'), min_size=1, max_size=3)
CLASSES = ("[a-c]", "[a-c]"), ("[^a-c]", "[^a-c]"), (".", "."), ("[\\x61-\\u0063]", "[a-c]"), ("[-a]", "[-a]"), ("[a^-]", "[a^-]")
TERMS: st.SearchStrategy[tuple[str, str]] = st.one_of(  # as GBNF, and as Python's regular expression
    LITERALS.map(lambda text: (f'"{"".join(map(escaped, text))}"', re.escape(text))),
    MEMBERS.map(lambda text: (f"[{''.join(map(escaped, text))}]", f"[{re.escape(text)}]")),
    st.sampled_from(CLASSES),
)
TIMES = st.sampled_from(("*", "+", "?", "{2}", "{1,2}", "{1,}"))


def escaped(letter: str) -> str:
    return {"\n": "\\n", "é": "\\u00e9"}.get(letter, f"\\{letter}" if letter in '"\\[]' else letter)


GBNF = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: (f"{pair[0][0]} {pair[1][0]}", pair[0][1] + pair[1][1])),
        st.tuples(inner, inner).map(lambda pair: (f"({pair[0][0]} | {pair[1][0]})", f"(?:{pair[0][1]}|{pair[1][1]})")),
        st.tuples(inner, TIMES).map(lambda of: (f"({of[0][0]}){of[1]}", f"(?:{of[0][1]}){of[1]}")),
    ),
    max_leaves=6,
)


@settings(QUICK, max_examples=200)
@given(GBNF, st.integers(0, 2**32))
def test_a_gbnf_grammar_means_what_it_says(language, forms, seed):
    grammar, pattern = forms
    text = language.draw(random.Random(seed), grammar=f"root ::= a-Rule # and\na-Rule ::= {grammar}\n")
    assert text is None or re.fullmatch(pattern, text, re.DOTALL)


@pytest.mark.parametrize(
    ("grammar", "right", "wrong"),
    [
        ('root ::= expr\nexpr ::= num | expr [+*-] expr | "(" expr ")"\nnum ::= [0-9]+', ["1+2*(34-5)"], ["1+", "(1"]),
        ('root ::= [a-z]+ "ing"', ["walking", "singing"], ["walk"]),
        ('root ::= value\nvalue ::= "[" (value ("," value)*)? "]" | "x"', ["[x,[x,x],[]]"], ["[x,]", "[x"]),
        ('start: greeting "!"\ngreeting: "hello" | /[A-Z]/ NAME\nNAME: /[a-z]+/', ["hello!", "Bob!"], ["hello", "bob!"]),
        ('start: "at " %json {"type": "integer"}', ["at 12"], ["at x"]),
    ],
)
def test_grammars_may_be_recursive_and_written_in_lark(language, grammar, right, wrong):
    for text in (*right, *wrong):
        assert language.accepts(text, grammar=grammar) == (text in right), text


# ---- forced tokens


def test_descriptions_of_a_schema_do_not_count_in_its_size(language):
    part = {"type": "object", "properties": {"description": {"enum": ["x"]}}, "description": "d" * 50_000, "title": "t" * 50_000}
    grammar = language.make(json_schema=json.dumps({"$defs": {"a": part}, "$ref": "#/$defs/a", "examples": ["e" * 50_000]}))
    assert grammar is not None


def test_what_must_come_is_known_without_the_model(language):
    def forced() -> bytes:
        return b"".join(map(language.vocabulary.piece, grammar.forced()))

    grammar = language.make(json_schema="navigation")
    assert forced() == b'{"action":"'
    assert forced() == b""
    (navigate,) = language.vocabulary.tokenize("navigate", add_special=False)
    grammar.accept(navigate)
    assert forced() == b'","waypoints'  # what follows may be cut into tokens in several ways
    for token in language.vocabulary.tokenize('":["hall"]}', add_special=False):
        assert grammar.allows(token)
        grammar.accept(token)
    assert grammar.is_complete


# ---- refusals and limits


def of_depth(depth: int) -> str:
    rules = [f"r{i} ::= r{i + 1} | r{i + 1} r{i + 1}" for i in range(depth)]
    return "\n".join(["root ::= r0", *rules, f'r{depth} ::= "b"'])


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"grammar": 'root ::= "a" ( "b"\nx ::= "c"'}, "grammar is not valid: Expected ')' at line 2, column 7, which is '\"c\"'"),
        ({"grammar": "root ::= foo"}, "uses a rule 'foo' that it does not define, at line 1, column 10"),
        ({"grammar": 'x ::= "b"'}, "no rule called root"),
        ({"grammar": "root ::= " + "(" * 50000}, "nests too many parentheses"),
        ({"grammar": 'root ::= "a" [b'}, "has a [ without its end, at line 1, column 14"),
        ({"grammar": 'root ::= "\\q"'}, "has '\\\\q' for a character, at line 1, column 10"),
        ({"grammar": 'root ::= "a"{5,3}'}, "range end must be >= start"),
        ({"grammar": "#" * 100000}, "100000 characters"),
        ({"grammar": of_depth(1000)}, "too big"),
        ({"grammar": 'start: "a" ('}, "at line 1, column 13: Expected token ')'"),
        ({"grammar": "start: foo"}, "at line 1, column 8: unknown name"),
        ({"regex": "a(b"}, "regex is not valid: unclosed group, at column 2"),
        ({"regex": "a(?=b)"}, "look-ahead"),
        ({"regex": "x" * 70_000}, "70000 characters"),
        ({"json_schema": json.dumps({"const": "x" * 70_000})}, "has 70012 characters without its descriptions"),
        ({"json_schema": '{"type": 3'}, "line 1, column 11"),
        ({"json_schema": "velocty"}, "nor one of the names velocity, pose"),
        ({"json_schema": "[]"}, "must be a JSON object"),
        ({"json_schema": '{"enum": [NaN]}'}, "no JSON"),
        ({"json_schema": '{"properties": {"x": {"type": "colour"}}}'}, "cannot be kept at #/properties/x: Invalid type: colour"),
        ({"json_schema": '{"anyOf": [{"type": "null"}, {"type": "array", "uniqueItems": true}]}'}, "at #/anyOf/1: Unimplemented keys"),
        ({"json_schema": '{"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"b/c": {"not": {}}}}}}'}, "at #/$defs/a/properties/b~1c:"),
        ({"json_schema": '{"oneOf": [{"type": "number"}, {"type": "integer"}]}'}, "use anyOf"),
        ({"json_schema": '{"properties": {}, "required": 3}'}, "Expected array for 'required'"),
        ({"json_schema": '{"$ref": "https://example.com/schema.json"}'}, "not present"),
        ({"json_schema": '{"$ref": "#/$defs/a"}'}, "Pointer '/$defs/a' does not exist"),
        ({"json_schema": '{"type": "string", "minLength": 5, "maxLength": 3}'}, "minLength (5) is greater than maxLength (3)"),
        ({"json_schema": '{"type": "string", "format": "colour"}'}, "Unknown format: colour"),
        ({"json_schema": '{"format": "colour", "x-guidance": {"lenient": true}}'}, "Unknown format: colour"),
        ({"json_schema": '{"items":' * 3000 + "{}" + "}" * 3000}, "deeper than 100 levels"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_with_the_place(language, form, sentence):
    with pytest.raises(GoalError) as raised:
        language.make(**form)
    assert raised.value.code is ErrorCode.INVALID_GRAMMAR
    assert sentence in raised.value.message
    assert len(raised.value.message) < 600


HOSTILE: dict[str, dict[str, str]] = {
    "ways that double with each rule": {"grammar": of_depth(25)},
    "all ways at once": {"grammar": 'root ::= s\ns ::= s s s | s s | "a" | [a-z] | [a-z] [a-z]'},
    "nothing, in many ways": {"grammar": 'root ::= s\ns ::= s s | "" | [a-z] s'},
    "much that is optional": {"grammar": f'root ::= {"x? " * 200}\nx ::= [a-z]+ y?\ny ::= "," x'},
    "repetitions of repetitions": {"grammar": 'a ::= "x"{0,2000}\nb ::= a{2000}\nroot ::= b{0,2000}'},
    "a window of two hundred": {"regex": "(.*a.{200}b)+"},
    "repetitions in a regex": {"regex": "((([a-z]{1,100}){1,100}){1,100}){1,100}"},
    "a long text that is certain after the first draw": {"regex": "[xy](a){1000000000,}"},
    "and one of many parts": {"regex": "[xy]((a){1000,1000}){1000,}"},
    "and one in a schema": {"json_schema": '{"type": "string", "pattern": "^[xy]a{100000,}$"}'},
    "many words": {"json_schema": json.dumps({"enum": [f"word {i}" for i in range(3000)]})},
    "many properties": {"json_schema": json.dumps({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(900)}})},
    "endless arrays": {"json_schema": '{"type": "array", "items": {"type": "null"}, "minItems": 1000000000}'},
    "long strings": {"json_schema": '{"type": "string", "minLength": 200000, "maxLength": 20000000}'},
}
LONGEST_S = 0.3
"""Time of the processor for one token; on a machine with nothing else to do it is under 0.1 s for all of these."""


@pytest.mark.parametrize("form", HOSTILE.values(), ids=HOSTILE)
def test_no_grammar_holds_up_a_step(language, form):
    """Whatever is drawn: its own goal ends, or each token takes its bounded time."""
    rng, longest_s = random.Random(1), 0.0
    try:
        grammar = language.make(**form)
    except GoalError:
        return
    for _ in range(100):
        began_s = time.thread_time()
        grammar.forced()
        allowed = [token for token in grammar.allowed() if int(token) not in language.vocabulary.ending]
        if allowed and not grammar.complaint:
            grammar.accept(int(rng.choice(allowed)))
        longest_s = max(longest_s, time.thread_time() - began_s)
        if grammar.complaint or grammar.is_complete or not allowed:
            break
    assert longest_s < LONGEST_S
    if grammar.complaint:
        assert "make it simpler" in grammar.complaint
