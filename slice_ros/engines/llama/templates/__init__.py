"""Chat templates of families, by name, for models that bring none or a broken one."""

from __future__ import annotations

from pathlib import Path

from slice_ros.scheduling.engine import EngineError

FOLDER = Path(__file__).parent
FAMILIES = tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))
GUESSED = "chatml"
"""Of a model that brings none, as llama.cpp does it."""


def family(name: str) -> str:
    """The template of a family."""
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def named(name: str) -> str:
    """The template of a family, or in a file.

    Raises:
        EngineError: there is no such thing.
    """
    if name in FAMILIES:
        return family(name)
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no text"
        families = ", ".join(FAMILIES)
        raise EngineError(f"chat_template is {name!r}, which cannot be read ({what}); name a file, or a family of {families}") from error
