"""The terminal view of a status message."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace

import pytest
from rich.console import Console

from slice_ros.monitor.terminal import draw_status


def status(**changes):
    figures = dict.fromkeys(("ttft_ms_p50", "tpot_ms_p50", "tpot_ms_p99", "e2e_ms_p99"), 40.0)
    counts = {"submitted": 3, "running": 1, "queued": 0, "completed": 2, "failed": 0, "attained": 1, "attainment": 0.5}
    control = SimpleNamespace(label="control", **figures, **counts)
    mask = SimpleNamespace(
        goals=["abcdef12", "beef00"],
        labels=["control", "voice"],
        columns=4,
        cursor=2,
        cells=[7, -1, -1, 0, 0, 0, 0, -1],
    )
    mask.slack_ms = [5.0, math.nan]
    fields = {
        "policy": "slice", "model": "m.gguf", "device": "d", "engine_state": "ready", "step_ms": 14.0, "step_predicted_ms": math.nan,
        "tokens_per_s": 70.0, "tokens_per_step": 1.25, "draft_acceptance": 0.6,
        "kv_used": 10, "kv_cached": 5, "kv_parked_bytes": 0, "kv_total": 100,
        "running": 1, "queued": 0, "classes": [control], "mask": mask, "members": [],
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


def drawn(message, width=160, **options) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(draw_status(message, title="demo", **options))
    return console.export_text()


def test_the_mask_shows_prompts_decodes_pauses_and_what_is_planned():
    lines = drawn(status()).splitlines()
    assert any("control abcdef ▒█│█·" in line for line in lines)
    assert any("voice beef00 ··│·█" in line for line in lines)
    several = status()
    several.mask.cells[1] = -4
    assert "control abcdef ▒▓│█·" in drawn(several)
    assert "drafts right 60 %" in drawn(several)


def test_missed_goals_and_attainment_stand_in_the_row_of_their_class():
    (row,) = [line for line in drawn(status()).splitlines() if "50 %" in line]
    assert "control" in row


def test_who_holds_kv_is_said():
    assert "KV 10/100 (+5 cached), parked 3 MiB " in drawn(status(kv_parked_bytes=3 << 20))
    assert "KV 10/100 " in drawn(status(kv_cached=0))


def test_a_server_that_is_silent_is_said_to_be():
    assert "nothing heard" not in drawn(status())
    lines = drawn(status(), silent_s=4.2).splitlines()
    assert lines[0].rstrip() == "demo   nothing heard for 4 s; this is what was heard last"
    assert len(lines) <= len(drawn(status()).splitlines()) + 1


def test_an_engine_that_is_down_is_said():
    assert "engine restarting" in drawn(status(engine_state="restarting"))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_an_idle_server_is_drawn_at_any_width(width):
    empty = SimpleNamespace(goals=[], labels=[], columns=0, cursor=0, cells=[])
    assert "idle" in drawn(status(mask=empty, classes=[]), width)


def test_a_dispatcher_shows_its_members_where_a_server_has_its_mask():
    fields = {"model": "m.gguf", "device": "d", "in_hand": 3, "sent": 12, "moved": 1, "network_ms": 2.5}
    members = [
        SimpleNamespace(name="/orin/slice_server", state="used", why="its end is predicted after 0.4 s", **fields),
        SimpleNamespace(name="/workstation/slice_server", state="lost", why="", **fields),
    ]
    text = drawn(status(members=members), width=200)
    assert "decode mask" not in text
    assert "its end is predicted after 0.4 s" in text
    assert "lost" in text


def test_a_fleet_can_be_read_in_80_columns_and_24_lines():
    why = "its end is predicted after 10.43 s, 122% of its tightest bound, at the cost of others"
    fields = {"model": "SmolLM2-135M-Instruct.Q4_1.gguf", "device": "d", "in_hand": 30, "sent": 99999, "moved": 10, "network_ms": 100.5}
    members = [SimpleNamespace(name=f"/robot_{i}/upper_arm/slice_server", state="inactive", why=why, **fields) for i in range(3)]
    lines = drawn(status(members=members), 80).splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if "inactive" in line] == [
        f"…_{i}/upper_arm/slice_server  inactive     30  99999     10   100.5  SmolLM2-135M…" for i in range(3)
    ]
    assert " ".join(" ".join(lines).split()).count(f"latest goal: {why}") == 3
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(draw_status(status(members=members * 4), height=24))  # too many for a second line each
    assert "latest goal" not in console.export_text()
