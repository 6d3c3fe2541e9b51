"""Python that README and docs show, each piece run as a program of its own beside a server."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import Peer, serving

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
SNIPPETS = [
    pytest.param(snippet, id=f"{page.name}-{number}")
    for page in PAGES
    for number, snippet in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE), 1)
]
LONG_S = 60.0


@pytest.fixture(scope="module")
def peer(ros):
    with serving("slice_server"):
        peer = Peer("slice_server")
        peer.client.wait_for_server(LONG_S)
        yield peer
        peer.close()


def completed(peer) -> int:
    return sum(kind.completed for kind in peer.status().classes)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_it_asks_and_is_answered(peer, tmp_path, snippet):
    before, program = completed(peer), tmp_path / "snippet.py"
    program.write_text(snippet)
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    deadline_s = time.monotonic() + LONG_S
    try:
        while completed(peer) < before + 2 and process.poll() is None:  # the second goal of one that goes on
            assert time.monotonic() < deadline_s, "nothing was asked"
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=LONG_S)
    finally:
        process.kill()
        process.wait()
    assert completed(peer) > before
    assert "falling back" not in said
    assert "Error" not in said
