"""The pages: links lead somewhere, parameter files load, every error code has its row, and the site builds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slice_ros.commands.arguments import params_file
from slice_ros.goal import ErrorCode
from slice_ros.parameters.presets import PREFIX, presets_of
from slice_ros.parameters.table import check_all

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]*)\)")


def text_of(page: Path) -> str:
    """What is prose: code may hold what looks like a link."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue  # elsewhere, which is not looked at here
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_site():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = set(re.findall(r"[\w-]+\.md", str(nav))) - {"index.md", "security.md"}
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "site" / "search" / "search_index.json").exists()
    assert "troubleshooting" in (tmp_path / "site" / "index.html").read_text()


BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE), 1)
    if "ros__parameters" in block
]


def flat(values: dict, prefix: str = "") -> dict:
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@pytest.mark.parametrize("block", BLOCKS)
def test_a_parameter_file_that_is_shown_can_be_used(block, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(block)
    params_file(str(path))
    for node in yaml.safe_load(block).values():
        values = flat(node["ros__parameters"])
        presets_of({name: value for name, value in values.items() if name.startswith(PREFIX)})
        check_all({name: value for name, value in values.items() if not name.startswith(PREFIX)})


def test_every_error_code_says_what_to_do():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    told = dict(re.findall(r"^\| `([A-Z_]+)` (\d+) \| \S", page, re.MULTILINE))
    assert told == {code.name: str(code.value) for code in ErrorCode if code is not ErrorCode.NONE}
