"""The house stands as docs/architecture.md draws it: who may import whom, read from the imports themselves.

``python test/test_house.py`` prints the picture for that page.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "slice_ros"

FLOORS = (
    ("cli",),
    ("commands",),
    ("demo",),
    ("monitor", "behaviours", "gateway", "fleet"),
    ("bench", "server", "client", "testing"),
    ("process", "ros"),
    ("engines", "metrics", "dispatch"),
    ("parameters",),
    ("scheduling",),
    ("latency", "goal"),
    ("slo", "mask", "schemas", "paths"),
)
"""Rooms, which are folders or single modules of the package, from the top down: each may import those of the floors below its own."""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in PACKAGE.rglob("*.py")}
INTERFACES = ("action", "msg", "srv")
"""What rosidl generates."""


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


IMPORTS = {module: set(imported(path)) for module, path in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[1]


def arrows() -> set[tuple[str, str]]:
    """(importing room, imported room)."""
    pairs = {
        (room(module), room(other))
        for module, others in IMPORTS.items()
        for other in others
        if "." in module and other.startswith("slice_ros.") and room(other) not in INTERFACES
    }
    return {(above, below) for above, below in pairs if above != below}


def reached(module: str) -> set[str]:
    """All that is loaded with a module sooner or later."""
    found, left = set(), [module]
    while left:
        for other in IMPORTS.get(left.pop(), ()):
            if other not in found:
                found.add(other)
                left.append(other)
    return found


def picture() -> str:
    """The rooms as a Mermaid graph: an arrow that a way over other rooms implies is left out."""
    pairs = arrows()
    below = {above: {other for room_, other in pairs if room_ == above} for above in FLOOR}

    def ways(start: str) -> set[str]:
        return below[start].union(*(ways(other) for other in below[start]))

    direct = {above: below[above] - set().union(*(ways(other) for other in below[above])) for above in FLOOR}
    lines = [
        f"    {above} --> {' & '.join(sorted(direct[above], key=lambda other: (FLOOR[other], other)))}" for above in FLOOR if direct[above]
    ]
    return "\n".join(["```mermaid", "graph TD", *lines, "```"])


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES if "." in module} == set(FLOOR)


def test_imports_go_down_only():
    against = [f"{above} imports {below}" for above, below in sorted(arrows()) if FLOOR[above] >= FLOOR[below]]
    assert not against


def test_no_module_imports_itself_by_way_of_others():
    inside = {module: {other for other in others if other in MODULES} for module, others in IMPORTS.items()}
    TopologicalSorter(inside).prepare()  # raises


@pytest.mark.parametrize("name", [name for name in FLOOR if (PACKAGE / name).is_dir()])
def test_what_must_never_be_imported_in_a_room_is_not_even_by_way_of_others(name):
    sentence = re.search(r"Never imported here: (.*)\.", ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text())))
    assert sentence, "the room's docstring does not say what must never be imported there"
    never = re.findall(r"``(.+?)``", sentence[1])
    assert never
    for module in MODULES:
        if f"{module}.".startswith(f"slice_ros.{name}."):
            loaded = {f"{other}." for other in reached(module)}
            assert not [f"{module}: {other}" for other in loaded for forbidden in never if other.startswith(f"{forbidden}.")]


def test_policies_know_no_scheduler():
    assert not [module for module in MODULES if ".policies" in module and "slice_ros.scheduling.scheduler" in reached(module)]


def test_the_picture_shows_the_house_as_it_is():
    assert picture() in (ROOT / "docs/architecture.md").read_text(), "put in what `python test/test_house.py` prints"


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_something(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


if __name__ == "__main__":
    print(picture())  # noqa: T201
