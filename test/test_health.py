"""What /diagnostics says, and the last minute it rests on."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from slice_ros.metrics.health import Level, diagnose_engine, diagnose_slo
from slice_ros.metrics.last_minute import LastMinute


def status(**changes):
    fields = {
        "engine_state": "ready", "engine_restarts": 0, "model": "m.gguf", "device": "d", "policy": "slack", "kv_used": 10,
        "kv_cached": 0, "kv_parked_bytes": 0, "kv_total": 100,
        "steps": 5, "step_ms": 20.0, "step_ratio": 1.0, "tokens_per_s": 50.0, "attainment_rt": 1.0, "attainment_be": math.nan,
        "missed_rt": 0, "missed_be": 0, "queued": 0, "running": 1, "classes": [],
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "failure", "level", "says"),
    [
        ({}, "", Level.OK, "ready"),
        ({"engine_state": "restarting"}, "SIGKILL", Level.ERROR, "engine restarting: SIGKILL"),
        ({"engine_state": "failed"}, "", Level.ERROR, "engine failed"),
        ({"engine_state": "stopped"}, "no such model", Level.ERROR, "no such model"),
        ({"engine_state": "stopped"}, "", Level.OK, "not configured"),
        ({"step_ratio": 2.5}, "", Level.WARN, "2.50 times"),
        ({"step_ratio": math.nan}, "", Level.OK, "ready"),
    ],
)
def test_the_engine_is_judged(changes, failure, level, says):
    diagnosis = diagnose_engine(status(**changes), failure, step_ratio_warn=1.5)
    assert diagnosis.level is level
    assert says in diagnosis.message


@pytest.mark.parametrize(
    ("attainment", "level"), [(1.0, Level.OK), (0.95, Level.OK), (0.94, Level.WARN), (0.0, Level.WARN), (math.nan, Level.OK)]
)
def test_real_time_goals_that_miss_their_slo_are_a_warning(attainment, level):
    assert diagnose_slo(status(attainment_rt=attainment), attainment_warn=0.95).level is level


def test_only_the_last_minute_counts():
    minute = LastMinute()
    minute.ended(0.0, real_time=True, attained=False)
    minute.ended(50.0, real_time=True, attained=True)
    minute.ended(50.0, real_time=False, attained=False)
    minute.stepped(0.0, 10, 0.030, 0.010)
    minute.stepped(50.0, 10, 0.012, 0.010)
    minute.look(59.0)
    assert minute.attainment(real_time=True) == 0.5
    minute.look(61.0)
    assert minute.attainment(real_time=True) == 1.0
    assert minute.missed(real_time=False) == 1
    assert minute.step_ratio == pytest.approx(1.2)
    minute.look(200.0)
    assert math.isnan(minute.attainment(real_time=True))
    assert math.isnan(minute.step_ratio)
