"""Judges a ``SloStatus`` for ``/diagnostics``: is the engine up, do real-time goals meet their SLO, are steps as fast as they were."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """As in ``diagnostic_msgs/DiagnosticStatus``."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line of a diagnostics view."""

    name: str
    level: Level
    message: str
    values: dict[str, str] = field(default_factory=dict)


def diagnose_engine(status: Any, failure: str, *, step_ratio_warn: float) -> Diagnosis:
    """ERROR while the engine is not there to serve, WARN while its steps take longer than calibrated.

    Args:
        status: a ``SloStatus``.
        failure: why the engine is down; empty where nothing is known.
        step_ratio_warn: measured / calibrated step time from which it counts as slow.
    """
    values = {
        "state": status.engine_state,
        "restarts": str(status.engine_restarts),
        "model": status.model,
        "device": status.device,
        "policy": status.policy,
        "KV cells used": str(status.kv_used),
        "KV cells cached": str(status.kv_cached),
        "KV parked, MiB": f"{status.kv_parked_bytes / 2**20:.0f}",
        "KV cells": str(status.kv_total),
        "steps": str(status.steps),
        "step ms": _number(status.step_ms),
        "measured / calibrated step time": _number(status.step_ratio),
        "tokens/s": _number(status.tokens_per_s),
    }
    if status.engine_state == "stopped" and not failure:
        return Diagnosis("engine", Level.OK, "not configured", values)
    if status.engine_state != "ready":
        return Diagnosis("engine", Level.ERROR, f"engine {status.engine_state}" + (f": {failure}" if failure else ""), values)
    if status.step_ratio > step_ratio_warn:
        return Diagnosis("engine", Level.WARN, f"steps take {status.step_ratio:.2f} times as long as calibrated", values)
    return Diagnosis("engine", Level.OK, "ready", values)


def diagnose_slo(status: Any, *, attainment_warn: float) -> Diagnosis:
    """WARN when too few real-time goals of the last minute met their SLO."""
    values = {
        "real-time attainment, last minute": _number(status.attainment_rt),
        "best-effort attainment, last minute": _number(status.attainment_be),
        "real-time goals missed, last minute": str(status.missed_rt),
        "best-effort goals missed, last minute": str(status.missed_be),
        "queued": str(status.queued),
        "running": str(status.running),
    }
    for c in status.classes:
        ended = c.completed + c.failed
        values[f"{c.label}: attained / ended"] = f"{c.attained} / {ended}"
    if status.attainment_rt < attainment_warn:
        share = f"{status.attainment_rt:.0%} of the real-time goals of the last minute met their SLO"
        return Diagnosis("SLO", Level.WARN, f"{share}, fewer than {attainment_warn:.0%}", values)
    return Diagnosis("SLO", Level.OK, "real-time goals meet their SLO" if status.attainment_rt >= 0.0 else "no real-time goals", values)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
