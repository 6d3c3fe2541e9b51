"""How models write the arguments of a call: grammars that keep a tool's schema, readers that make JSON of them, and writers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

from slice_ros.engines.llama.tools.tool import Tool
from slice_ros.goal import ErrorCode, GoalError

Literal = Callable[[str], str]
"""A text as Lark, control tokens and all."""

SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False, "coerce_one_of": False}
"""JSON with the blanks that templates put into it, and so those that models learnt; what cannot be kept is refused."""
DEFINITIONS = ("$defs", "definitions")


class Reader(Protocol):
    """Reads one call's arguments as they come."""

    def push(self, text: str) -> tuple[str, int, bool]:
        """Returns: the JSON that became certain; how many characters of the text are done with; whether the arguments have ended."""


class Arguments(Protocol):
    """One way to write arguments."""

    def rules(self, name: str, tool: Tool, literal: Literal) -> str:
        """Lark whose rule of that name is the tool's arguments.

        Raises:
            GoalError: INVALID_GRAMMAR; they cannot be kept in this form.
        """

    def reader(self, tool: Tool) -> Reader: ...

    def written(self, arguments: dict[str, Any]) -> str:
        """Arguments as the model writes them."""


class JsonArguments:
    """A JSON object, given out as it comes."""

    def rules(self, name: str, tool: Tool, _literal: Literal) -> str:
        return f"{name}: {_json(tool.arguments, {})}\n"

    def reader(self, _tool: Tool) -> Reader:
        return _JsonReader()

    def written(self, arguments: dict[str, Any]) -> str:
        return json.dumps(arguments, ensure_ascii=False)


class _JsonReader:
    def __init__(self) -> None:
        self._depth = 0
        self._is_string = self._is_escaped = False

    def push(self, text: str) -> tuple[str, int, bool]:
        for at, character in enumerate(text):
            if self._is_string:
                self._is_string = self._is_escaped or character != '"'
                self._is_escaped = not self._is_escaped and character == "\\"
            elif character == '"':
                self._is_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    return text[: at + 1], at + 1, True
        return text, len(text), False


class PythonArguments:
    """Keyword arguments of a Python call, whose values are JSON but for ``True``, ``False`` and ``None``."""

    _WORDS: ClassVar = {"True": True, "False": False, "None": None}
    _KEY = re.compile(r"\s*,?\s*(\w[\w.-]*)=")
    _WORD = re.compile("|".join(_WORDS))
    _ALL = re.compile(r'(?:[^()"]|"(?:[^"\\]|\\.)*")*(?=\))', re.DOTALL)

    def rules(self, name: str, tool: Tool, _literal: Literal) -> str:
        properties = _properties(tool, tool.arguments)
        lines = []
        for i, (key, schema) in enumerate(properties.items()):
            value = '("True" | "False")' if schema == {"type": "boolean"} | _told(schema) else _json(schema, tool.arguments)
            lines.append(f"{name}_{i}: {json.dumps(f'{key}=')} {value}\n")
        pairs = [(f"{name}_{i}", key in tool.arguments.get("required", ())) for i, key in enumerate(properties)]
        return f"{name}: {_in_order(pairs, ', ')}\n" + "".join(lines)

    def reader(self, _tool: Tool) -> Reader:
        return _Whole(self._end, self._read)

    def written(self, arguments: dict[str, Any]) -> str:
        words = {value: word for word, value in self._WORDS.items()}
        return ", ".join(
            f"{key}={words[value] if value is None or isinstance(value, bool) else json.dumps(value, ensure_ascii=False)}"
            for key, value in arguments.items()
        )

    def _end(self, text: str) -> int | None:
        found = self._ALL.match(text)
        return None if found is None else found.end()

    def _read(self, text: str) -> dict[str, Any]:
        read, at = {}, 0
        while key := self._KEY.match(text, at):
            word = self._WORD.match(text, key.end())
            value, at = (self._WORDS[word[0]], word.end()) if word else json.JSONDecoder().raw_decode(text, key.end())
            read[key[1]] = value
        return read


class GemmaArguments:
    """Keys and values without quotation marks, in the order of the alphabet, texts between two marks of the model's own.

    Args:
        quote: that mark.
    """

    def __init__(self, quote: str) -> None:
        self._quote = quote

    def rules(self, name: str, tool: Tool, literal: Literal) -> str:
        lines: dict[str, str] = {}
        lines[name] = self._pairs(name, tool, tool.arguments, literal, lines)
        return "".join(f"{rule}: {lark}\n" for rule, lark in lines.items())

    def reader(self, _tool: Tool) -> Reader:
        return _Whole(self._end, lambda text: self._object(text + "}", 0)[0])

    def written(self, arguments: dict[str, Any]) -> str:
        return ",".join(f"{key}:{self._value_written(value)}" for key, value in sorted(arguments.items()))

    def _value_written(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self._quote}{value}{self._quote}"
        if isinstance(value, dict):
            return f"{{{self.written(value)}}}"
        if isinstance(value, list):
            return f"[{','.join(map(self._value_written, value))}]"
        return json.dumps(value)

    def _pairs(self, name: str, tool: Tool, schema: dict[str, Any], literal: Literal, lines: dict[str, str]) -> str:
        pairs = []
        for i, (key, value) in enumerate(sorted(_properties(tool, schema).items())):
            rule = f"{name}_{i}"
            lines[rule] = ""  # its place
            lines[rule] = f"{json.dumps(f'{key}:')} {self._value(rule, tool, value, literal, lines)}"
            pairs.append((rule, key in schema.get("required", ())))
        return _in_order(pairs, ",")

    def _value(self, name: str, tool: Tool, schema: Any, literal: Literal, lines: dict[str, str]) -> str:
        """Lark of a value, whose own rules, if it needs some, go to the lines."""
        if not isinstance(schema, dict):
            raise _refusal(tool, f"the schema {json.dumps(schema)[:40]}")
        quote, kind = literal(self._quote), schema.get("type")
        if "enum" in schema or "const" in schema:
            values = schema.get("enum", [schema.get("const")])
            return "(" + " | ".join(_marked(self._value_written(value), self._quote, literal) for value in values) + ")"
        if alternatives := schema.get("anyOf") or schema.get("oneOf"):
            return self._one_of(name, tool, alternatives, literal, lines)
        if isinstance(kind, list):
            return self._one_of(name, tool, [{**schema, "type": one} for one in kind], literal, lines)
        if kind == "string":
            # A control token is no character, and cannot be part of the text.
            return f"{quote} {_text(tool, schema, '.' if quote.startswith('<[') else '[^<]')} {quote}"
        if kind in ("integer", "number", "boolean", "null"):
            return _json(schema, tool.arguments)
        if kind == "array":
            lines[f"{name}_item"] = ""
            lines[f"{name}_item"] = self._value(f"{name}_item", tool, schema.get("items"), literal, lines)
            least, most = schema.get("minItems", 0), schema.get("maxItems")
            more = f'("," {name}_item){{{max(least - 1, 0)},{"" if most is None else max(most - 1, 0)}}}'
            items = f"{name}_item {more}" if most != 0 else '""'
            return f'"[" {items if least else f"({items})?"} "]"'
        if kind == "object":
            lines[f"{name}_object"] = ""
            lines[f"{name}_object"] = self._pairs(f"{name}_object", tool, schema, literal, lines)
            return f'"{{" {name}_object "}}"'
        raise _refusal(tool, f"the schema {json.dumps(schema)[:40]}")

    def _one_of(self, name: str, tool: Tool, schemas: list[Any], literal: Literal, lines: dict[str, str]) -> str:
        return "(" + " | ".join(self._value(f"{name}_{i}o", tool, schema, literal, lines) for i, schema in enumerate(schemas)) + ")"

    def _end(self, text: str) -> int | None:
        depth, at = 0, 0
        while at < len(text):
            if text.startswith(self._quote, at):
                at = text.find(self._quote, at + len(self._quote))
                if at < 0:
                    return None
                at += len(self._quote)
                continue
            if text[at] == "}" and not depth:
                return at
            depth += (text[at] == "{") - (text[at] == "}")
            at += 1
        return None

    def _object(self, text: str, at: int) -> tuple[dict[str, Any], int]:
        """The pairs from there on to the brace behind them, and where this ends."""
        read: dict[str, Any] = {}
        while text[at] != "}":
            key, _, _ = text[at:].partition(":")
            read[key.lstrip(",")], at = self._read(text, at + len(key) + 1)
        return read, at + 1

    def _read(self, text: str, at: int) -> tuple[Any, int]:
        if text.startswith(self._quote, at):
            start = at + len(self._quote)
            end = text.index(self._quote, start)
            return text[start:end], end + len(self._quote)
        if text[at] == "{":
            return self._object(text, at + 1)
        if text[at] == "[":
            items, at = [], at + 1
            while text[at] != "]":
                item, at = self._read(text, at + (text[at] == ","))
                items.append(item)
            return items, at + 1
        return json.JSONDecoder().raw_decode(text, at)


class XmlArguments:
    """Each argument between tags with its name: texts as they are, anything else as JSON."""

    _PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n(.*?)\n</parameter>", re.DOTALL)

    def rules(self, name: str, tool: Tool, _literal: Literal) -> str:
        properties = _properties(tool, tool.arguments)
        lines = []
        for i, (key, schema) in enumerate(properties.items()):
            start = json.dumps(f"<parameter={key}>\n")
            if not _is_text(schema):
                lines.append(f'{name}_{i}: {start} {_json(schema, tool.arguments)} "\\n</parameter>\\n"\n')
            elif "enum" in schema or "const" in schema:
                values = " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
                lines.append(f'{name}_{i}: {start} ({values}) "\\n</parameter>\\n"\n')
            else:
                lines.append(f'{name}_{i}: {start} {name}_{i}_text "\\n"\n')
                lines.append(f'{name}_{i}_text[lazy]: {_text(tool, schema, ".")} "\\n</parameter>"\n')
        pairs = [(f"{name}_{i}", key in tool.arguments.get("required", ())) for i, key in enumerate(properties)]
        return f"{name}: {_in_order(pairs, '')}\n" + "".join(lines)

    def reader(self, tool: Tool) -> Reader:
        properties = tool.parameters.get("properties", {})

        def read(text: str) -> dict[str, Any]:
            return {key: value if _is_text(properties[key]) else json.loads(value) for key, value in self._PARAMETER.findall(text)}

        def end(text: str) -> int | None:
            at = text.find("</function>")
            return None if at < 0 else at

        return _Whole(end, read)

    def written(self, arguments: dict[str, Any]) -> str:
        texts = ((key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) for key, value in arguments.items())
        return "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in texts)


class _Whole:
    """Reads arguments when all of them are there, as they are not written in the order or the letters of JSON.

    Args:
        find_end: where they end in a text; ``None`` = they have not ended.
        read: makes data of them.
    """

    def __init__(self, find_end: Callable[[str], int | None], read: Callable[[str], dict[str, Any]]) -> None:
        self._find_end = find_end
        self._read = read

    def push(self, text: str) -> tuple[str, int, bool]:
        end = self._find_end(text)
        if end is None:
            return "", 0, False
        return json.dumps(self._read(text[:end]), ensure_ascii=False), end, True


def _json(schema: Any, root: dict[str, Any]) -> str:
    """A JSON value as Lark."""
    if not isinstance(schema, dict):
        return f"%json {json.dumps(schema)}"
    definitions = {keyword: root[keyword] for keyword in DEFINITIONS if keyword in root}
    return f"%json {json.dumps({**definitions, **schema, 'x-guidance': SPACED})}"


def _properties(tool: Tool, schema: dict[str, Any]) -> dict[str, Any]:
    """Those of an object whose schema lists them.

    Raises:
        GoalError: INVALID_GRAMMAR; it says something else of them, too.
    """
    properties = schema.get("properties", {})
    for keyword in ("$ref", "allOf", "anyOf", "oneOf", "patternProperties"):
        if keyword in schema:
            raise _refusal(tool, f"{keyword} beside properties")
    if missing := [key for key in schema.get("required", ()) if key not in properties]:
        raise _refusal(tool, f"the required {missing[0]!r}, which properties does not list")
    return dict(properties)


def _in_order(rules: Iterable[tuple[str, bool]], separator: str) -> str:
    """Lark of rules in their order, each of which may be missing unless it is required, with separators between those that are there."""
    between = f"{json.dumps(separator)} " if separator else ""
    given = list(rules)
    ways = []
    for i, (rule, is_required) in enumerate(given):
        rest = (f"({between}{other})" + ("" if required else "?") for other, required in given[i + 1 :])
        ways.append(" ".join((rule, *rest)))
        if is_required:
            break
    else:
        ways.append('""')
    return " | ".join(ways)


def _text(tool: Tool, schema: dict[str, Any], character: str) -> str:
    for keyword in ("pattern", "format"):
        if keyword in schema:
            raise _refusal(tool, f"a text with a {keyword}")
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    return f"/(?s:{character}{{{least},{most}}})/"


def _is_text(schema: Any) -> bool:
    values = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())] if isinstance(schema, dict) else [None]
    return all(isinstance(value, str) for value in values) if values else schema.get("type") == "string"


def _told(schema: Any) -> dict[str, Any]:
    """What of a schema only explains it."""
    return {keyword: schema[keyword] for keyword in ("description", "title", "default") if isinstance(schema, dict) and keyword in schema}


def _marked(text: str, mark: str, literal: Literal) -> str:
    """A text as Lark, in which the mark counts, whatever else it holds does not."""
    first, *rest = text.split(mark)
    parts = [json.dumps(first)] + [part for text in rest for part in (literal(mark), json.dumps(text))]
    return " ".join(part for part in parts if part != '""')


def _refusal(tool: Tool, what: str) -> GoalError:
    return GoalError(
        ErrorCode.INVALID_GRAMMAR, f"the parameters of tool {tool.name!r} hold {what}, which cannot be kept in this model's form of calls"
    )


JSON: Arguments = JsonArguments()
