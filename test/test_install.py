"""Where scripts/install.sh cannot set an environment up, one sentence says what to do, and nothing is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL = Path(__file__).parent.parent / "scripts" / "install.sh"


@pytest.mark.parametrize(
    ("python", "environment", "sentence"),
    [
        (
            "import platform; platform.machine = lambda: 'aarch64'",
            {},
            "install ROS 2 (docs.ros.org), source its setup.bash",
        ),
        ("import sys; sys.version_info = (3, 14, 0, 'final', 0)", {}, "its wheels are for x86-64 and Python 3.10 to 3.13"),
        ("", {"ROS": "foxy"}, "ROS is 'foxy'; it must be kilted or jazzy"),
        ("", {"ROS_DISTRO": "humble"}, f"ROS 2 humble is sourced, but not for Python {sys.version_info[0]}.{sys.version_info[1]}"),
        ("", {"PYTHON": "python-that-is-not-there"}, "there is no python-that-is-not-there"),
    ],
)
def test_where_it_cannot_install_it_says_what_to_do(tmp_path, python, environment, sentence):
    (tmp_path / "sitecustomize.py").write_text(python + "\n")
    inherited = {name: os.environ[name] for name in ("HOME", "PATH")}
    own = {"PYTHON": sys._base_executable, "PYTHONPATH": str(tmp_path), **environment}
    ended = subprocess.run(
        ["bash", INSTALL, tmp_path / "venv"], env=inherited | own, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert sentence in ended.stderr
    assert not (tmp_path / "venv").exists()
