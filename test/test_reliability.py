"""Short versions of ``make chaos``, ``make soak`` and ``make fuzz``, with patience for a busy machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="pip install 'slice_ros[test]'")
ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.ros


def run(name: str, *arguments: str, report: Path) -> dict:
    """What a run reports; every promise must hold."""
    command = [sys.executable, "-m", f"reliability.{name}", *arguments, "--json", str(report)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    found = json.loads(report.read_text())
    assert all(check["held"] for check in found["checks"])
    return found


@pytest.mark.timeout(600)
def test_a_dozen_faults_break_no_promise(tmp_path):
    arguments = ("--faults", "12", "--clients", "2", "--rate", "0.7", "--gap", "0.3", "--pause", "2", "--slowness", "10")
    found = run("chaos", *arguments, report=tmp_path / "chaos.json")
    assert len({fault["kind"] for fault in found["faults"]}) == 12
    assert found["figures"]["goals"] > 0


@pytest.mark.timeout(600)
def test_no_goal_is_lost_under_overload_in_a_burst_and_a_crowd(tmp_path):
    arguments = ("--goals", "60", "--minutes", "0.2", "--burst", "80", "--crowd", "20", "--slowness", "60")
    found = run("soak", *arguments, report=tmp_path / "soak.json")
    assert "NONE" in found["figures"]["ends"]


@pytest.mark.timeout(600)
def test_wrong_input_disturbs_nobody(tmp_path):
    found = run("fuzz", "--cases", "600", report=tmp_path / "fuzz.json")
    assert "NONE" in found["figures"]["goals ended with"]
    for part in ("cancel_goalRequest", "set_parametersRequest", "change_stateRequest", "get_resultReply", "feedback", "ros_discovery_info"):
        assert part in found["figures"]["topics attacked"]


@pytest.mark.timeout(600)
def test_the_gateway_bears_wrong_input_load_and_faults(tmp_path):
    pytest.importorskip("uvicorn", reason="slice_ros[gateway] is not installed")
    pytest.importorskip("openai")
    arguments = ("--cases", "45", "--faults", "7", "--streams", "30", "--seconds", "5", "--slowness", "10")
    found = run("door", *arguments, report=tmp_path / "door.json")
    assert found["figures"]["requests beside faults"]["answered"] > 0


@pytest.mark.timeout(600)
def test_a_fleet_loses_its_members_and_no_goal(tmp_path):
    arguments = ("--faults", "4", "--rate", "1", "--gap", "0.5", "--pause", "2", "--slowness", "20")
    found = run("fleet", *arguments, report=tmp_path / "fleet.json")
    assert len({fault["kind"] for fault in found["faults"]}) == 4
    assert found["figures"]["goals"] > 0
