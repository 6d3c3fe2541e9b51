"""Tab completion of ``slice-ros`` in a real bash, set up as the documentation says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

argcomplete = pytest.importorskip("argcomplete")

SCRIPT = Path(__file__).parent.parent / "scripts" / "slice-ros"
PRESS_TAB = """
eval "$SETUP"
read -ra COMP_WORDS <<< "$COMP_LINE"
[[ $COMP_LINE == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_POINT=${#COMP_LINE} COMP_TYPE=9
completer=$(complete -p slice-ros | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$completer slice-ros "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tmp_path):
    command = tmp_path / "slice-ros"
    command.write_text(f"#!{sys.executable}\n{SCRIPT.read_text().partition(chr(10))[2]}")
    command.chmod(0o755)
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}

    def complete(line: str) -> list[str]:
        environment = {**os.environ, **paths, "SETUP": argcomplete.shellcode(["slice-ros"]), "COMP_LINE": line}
        done = subprocess.run(["bash", "-c", PRESS_TAB], env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""
        return [word.strip() for word in done.stdout.splitlines()]

    return complete


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("slice-ros pol", ["policy"]),
        ("slice-ros policy ", ["slack", "slice", "orca", "fastserve", "priority", "qoserve", "slos-serve", "jitserve"]),
        ("slice-ros serve --policy or", ["orca"]),
        ("slice-ros send --pre", ["--preset"]),
    ],
)
def test_a_tab_completes_commands_options_and_their_values(complete, line, words):
    offered = [word for word in complete(line) if not word.startswith("-") or "--" in line]
    assert offered == words
