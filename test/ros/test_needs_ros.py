"""Says where the launch tests of this folder are run: `colcon test` runs them; without ROS 2 they are skipped, and that is seen here."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH_TESTS = sorted(Path(__file__).parent.glob("*.launch_test.py"))
NEEDED = ("launch_testing", "launch_ros", "rclpy")


@pytest.mark.parametrize("path", LAUNCH_TESTS, ids=lambda path: path.name)
def test_launch_test_lists_its_description(path):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs ROS 2: {', '.join(missing)} cannot be imported")
    command = [sys.executable, "-m", "launch_testing.launch_test", "--show-args", str(path)]
    shown = subprocess.run(command, check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
