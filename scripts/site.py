"""mkdocs' hook: README and SECURITY are pages, too, and links to files that are not become their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "SECURITY.md": "security.md"}
"""What lies beside docs/, and its name in the site."""
LINK = re.compile(r"(!?)\[([^][]*)\]\(([^)#\s:]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    folder = ROOT if page.file.src_uri in PAGES.values() else ROOT / "docs"
    return LINK.sub(lambda link: _in_site(link, folder), markdown)


def _in_site(link: re.Match[str], folder: Path) -> str:
    """A link as the site has it; its text alone where what it leads to is no page."""
    mark, text, path, anchor = link[1], link[2], link[3], link[4] or ""
    if not path:
        return link[0]
    target = (folder / path).resolve()
    if target.is_relative_to(ROOT / "docs") and target.is_file():
        return f"{mark}[{text}]({target.relative_to(ROOT / 'docs')}{anchor})"
    if page := PAGES.get(str(target.relative_to(ROOT))):
        return f"{mark}[{text}]({page}{anchor})"
    return text
