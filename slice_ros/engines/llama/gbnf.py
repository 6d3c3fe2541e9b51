"""What llama.cpp makes of a GBNF grammar: it writes repetitions out, and lists the ways of going on. A few lines can have more of either
than any memory holds."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

UNCOUNTED = 10**9
"""Ways are not counted beyond this."""

MOST_TIMES = 2000
"""llama.cpp takes no larger number as a repetition."""

_TOKEN = re.compile(
    r"""\s+|\#[^\n]*
    |(?P<define>[\w-]+)\s*::=
    |(?P<terminal>"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\.|!?<[^>]*>)
    |(?P<name>[\w-]+)
    |(?P<repeat>[*+?]|\{\s*(?P<least>\d*)\s*(?P<range>,\s*(?P<most>\d*)\s*)?\})
    |(?P<mark>[()|])""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True)
class _Item:
    """One place in an alternative: a terminal (no symbol) or a rule's symbol, with what its repetition means for it."""

    symbol: str = ""
    can_be_empty: bool = False
    repeats: bool = False
    begins_empty: bool = False
    times: int = 1


@dataclass(slots=True)
class _Rules:
    """Alternatives by symbol; a group in parentheses is a rule without a name."""

    alternatives: dict[str, list[list[_Item]]] = field(default_factory=lambda: defaultdict(list))

    def nullable(self) -> set[str]:
        """Symbols that can be nothing."""
        wanted: dict[str, list[int]] = defaultdict(list)  # alternatives (by number) that are empty only if this symbol is
        missing: list[int] = []
        owner: list[str] = []
        for symbol, alternatives in self.alternatives.items():
            for items in alternatives:
                needs = [item for item in items if not item.can_be_empty]
                for item in needs:
                    if item.symbol:
                        wanted[item.symbol].append(len(missing))
                missing.append(len(needs))
                owner.append(symbol)
        found = {owner[i] for i, count in enumerate(missing) if not count}
        todo = list(found)
        while todo:
            for i in wanted[todo.pop()]:
                missing[i] -= 1
                if not missing[i] and owner[i] not in found:
                    found.add(owner[i])
                    todo.append(owner[i])
        return found


def ways(grammar: str) -> int:
    """The most ways to go on that there are at any place of a grammar, at least; 0 for one that llama.cpp refuses anyhow."""
    rules = _parse(grammar)
    if rules is None:
        return 0
    nullable = rules.nullable()
    for alternatives in rules.alternatives.values():
        for items in alternatives:
            for item in items:
                if item.symbol in nullable:
                    item.can_be_empty = True
                elif not item.begins_empty:
                    item.times = 1  # one must be there before the next begins
    begins: dict[str, set[str]] = {
        symbol: {item.symbol for items in alternatives for item in _beginning(items) if item.symbol}
        for symbol, alternatives in rules.alternatives.items()
    }
    try:
        order = list(TopologicalSorter(begins).static_order())
    except CycleError:
        return 0  # left recursion
    counts: dict[str, int] = {}
    most = 0
    for symbol in order:
        total = 0
        for items in rules.alternatives.get(symbol, ()):
            total += sum(_own(item, counts) for item in _beginning(items)) or 1
        counts[symbol] = min(total, UNCOUNTED)
    for alternatives in rules.alternatives.values():
        for items in alternatives:
            after = 1
            for item in reversed(items):
                own = _own(item, counts)
                most = max(most, own + after if item.can_be_empty or item.repeats else own)
                after = min(own + after if item.can_be_empty else own, UNCOUNTED)
    return min(most, UNCOUNTED)


def _own(item: _Item, counts: dict[str, int]) -> int:
    """The ways to begin with an item: if it can be nothing, those of its first, of its second, ..."""
    return min((counts[item.symbol] if item.symbol else 1) * item.times, UNCOUNTED)


def elements(grammar: str) -> int:
    """How many elements, at most, llama.cpp makes of a grammar's repetitions; also of one that it refuses farther on.

    ``{5,3}`` counts as endless, which it is.
    """
    total = last = at = 0
    while (token := _TOKEN.match(grammar, at)) is not None and token.end() > at:
        at = token.end()
        if token.lastgroup == "repeat":
            least, most = _times(token)
            total = min(total + last * most, UNCOUNTED) if least <= most else UNCOUNTED
            last = last * max(least, 1) + 1
        elif token.lastgroup == "terminal":
            last = len(token.group())
        elif token.lastgroup == "name" or token.group() == ")":
            last = 1
        elif token.lastgroup is not None:
            last = 0
    return total


def _times(repeat: re.Match[str]) -> tuple[int, int]:
    """How often an item is written out for a repetition, at least, and at most; where it has no end, one more is."""
    text = repeat["repeat"]
    if not text.startswith("{"):
        return int(text == "+"), 1 + (text == "+")
    least, most = (int(digits[:9] or 0) for digits in ((repeat[name] or "").lstrip("0") for name in ("least", "most")))
    return least, least if repeat["range"] is None else most if repeat["most"] else least + 1


def _beginning(items: list[_Item]) -> list[_Item]:
    """The items that an alternative can begin with."""
    for i, item in enumerate(items):
        if not item.can_be_empty:
            return items[: i + 1]
    return items


def _parse(grammar: str) -> _Rules | None:
    """The rules of a grammar; ``None`` if they cannot be read."""
    rules = _Rules()
    items: list[_Item] = []
    outer: list[tuple[str, list[_Item]]] = []  # the groups around this place: symbol and items so far
    symbol = ""
    at = 0
    while at < len(grammar):
        token = _TOKEN.match(grammar, at)
        if token is None or token.end() == at:
            return None
        at = token.end()
        kind, text = token.lastgroup, token.group().strip()
        if kind == "define":
            if outer:
                return None
            symbol, items = str(token["define"]), []
            rules.alternatives[symbol].append(items)
        elif kind is not None and not symbol:
            return None
        elif kind == "terminal":
            items.append(_Item(can_be_empty=text == '""'))
        elif kind == "name":
            items.append(_Item(text))
        elif kind == "repeat":
            if not items:
                return None
            least, most = _times(token)
            items[-1].begins_empty = items[-1].can_be_empty
            items[-1].can_be_empty = items[-1].can_be_empty or not least
            items[-1].repeats = text != "?"
            items[-1].times = min(items[-1].times * most, UNCOUNTED)
        elif text == "(":
            outer.append((symbol, items))
            symbol, items = f"({at}", []
            rules.alternatives[symbol].append(items)
        elif text == ")":
            if not outer:
                return None
            group = symbol
            symbol, items = outer.pop()
            items.append(_Item(group))
        elif text == "|":
            items = []
            rules.alternatives[symbol].append(items)
    return None if outer else rules
