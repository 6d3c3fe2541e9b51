"""GBNF, llama.cpp's notation for grammars, as Lark, llguidance's: what llguidance's own converter takes otherwise is rewritten for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from slice_ros.goal import ErrorCode, GoalError

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
    |"(?P<literal>(?:\\.|[^"\\])*)"
    |\[(?P<class>\^?(?:\\.|[^\]\\])*)\]
    |(?P<name>[a-zA-Z0-9_-]+)(?P<defines>\s*::=)?
    |(?P<any>\.)
    |(?P<repeated>\))(?=\s*[*+?{])
    |\{[^}]*\}
    |(?P<unended>["\[].*)""",
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(
    r"""\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))|\\(?P<escape>["\\\[\]nrt])|(?P<plain>[^\\])""", re.DOTALL
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_ANY = "[\\x00-\U0010ffff]"


def to_lark(grammar: str) -> str:
    """A GBNF grammar as Lark. One without recursion becomes a single terminal, which llguidance matches as a whole.

    Raises:
        GoalError: INVALID_GRAMMAR, with line and column.
    """
    names = {match["name"] for match in _TOKEN.finditer(grammar) if match["defines"]}
    if "root" not in names:
        raise _refusal("has no rule called root; write root ::= ...")
    # In Lark, a name's case has a meaning, and some names are taken.
    rules = {name: f"rule{i}" for i, name in enumerate(sorted(names))}
    text = f"root ::= {rules['root']}\n"
    starts: list[tuple[int, int]] = [(0, 0)]  # places in the text, and in the grammar
    at = 0
    for match in _TOKEN.finditer(grammar):
        text += grammar[at : match.start()]
        starts.append((len(text), match.start()))
        text += _rewritten(match, rules)
        at = match.end()
        starts.append((len(text), at))
    text += grammar[at:]
    try:
        return gbnf_to_lark(text)
    except GbnfToLarkError as error:
        new, old = next(start for start in reversed(starts) if start[0] <= error.pos.pos)
        what = str(error).partition(" at line ")[0]
        raise _refusal(f"is not valid: {what} {_place(grammar, min(old + error.pos.pos - new, len(grammar)))}") from error
    except RecursionError as error:
        raise _refusal("nests too many parentheses; make it flatter") from error


def _rewritten(match: re.Match[str], rules: dict[str, str]) -> str:
    """A part of a grammar for the converter: rules by other names, characters without escapes that it does not know."""
    if (name := match["name"]) is not None:
        if name not in rules:
            raise _refusal(f"uses a rule {name[:40]!r} that it does not define, {_place(match.string, match.start())}")
        return rules[name] + (match["defines"] or "")
    if (literal := match["literal"]) is not None:
        return f'"{"".join(_spelt(character) for character, _ in _characters(literal, match))}"'
    if (members := match["class"]) is not None:
        inverted = "^" if members.startswith("^") else ""
        return f"[{inverted}{''.join(_members(list(_characters(members.removeprefix('^'), match))))}]"
    if match["unended"]:
        raise _refusal(f"has a {match[0][0]} without its end, {_place(match.string, match.start())}")
    if match["repeated"]:
        return ' "")'  # the parentheses around a single repetition would be dropped
    return "" if match["comment"] else _ANY if match["any"] else match[0]


def _members(characters: Sequence[tuple[str, bool]]) -> Iterator[str]:
    """Single characters and ranges of a class."""
    at = 0
    while at < len(characters):
        first = _spelt(characters[at][0])
        if characters[at + 1 : at + 2] == [("-", False)] and at + 2 < len(characters):
            yield f"{first}-{_spelt(characters[at + 2][0])}"
            at += 3
        else:
            yield first
            at += 1


def _characters(text: str, match: re.Match[str]) -> Iterator[tuple[str, bool]]:
    """The characters of a literal or a class, and whether each was escaped."""
    at = 0
    while at < len(text):
        character = _CHARACTER.match(text, at)
        code = int(next(filter(None, character.group(1, 2, 3)), "0"), 16) if character else 0
        if character is None or 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise _refusal(f"has {text[at : at + 10]!r} for a character, {_place(match.string, match.start())}")
        escape, plain = character["escape"], character["plain"]
        yield plain or (_ESCAPES.get(escape, escape) if escape else chr(code)), not plain
        at = character.end()


def _spelt(character: str) -> str:
    """A character that means only itself in literals and classes of Lark."""
    return character if character.isalnum() or ord(character) > 0x7F else f"\\x{ord(character):02x}"


def _place(grammar: str, at: int) -> str:
    line, column = grammar.count("\n", 0, at) + 1, at - grammar.rfind("\n", 0, at)
    rest = grammar[at:].partition("\n")[0].strip()
    return f"at line {line}, column {column}, " + (f"which is {rest[:40]!r}" if rest else "where it ends")


def _refusal(what: str) -> GoalError:
    return GoalError(ErrorCode.INVALID_GRAMMAR, f"grammar {what}")
