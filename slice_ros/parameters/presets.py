"""SLOs by name: ``slo_presets.control.tpot_ms: 50`` in a parameter file lets a goal say ``slo.preset: "control"``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slice_ros.parameters.table import Change, Parameter, ParameterError
from slice_ros.slo import LONGEST_BOUND_S, OnMiss, ServiceClass, Slo, SloError

PREFIX = "slo_presets."

CLASSES = {"best_effort": ServiceClass.BEST_EFFORT, "real_time": ServiceClass.REAL_TIME}
ON_MISS = {"default": OnMiss.DEFAULT, "continue": OnMiss.CONTINUE, "abort": OnMiss.ABORT}

FIELDS: dict[str, Parameter] = {
    p.name: p
    for p in (
        Parameter("service_class", "best_effort", "real_time goals are served before best_effort ones", choices=tuple(CLASSES)),
        Parameter("ttft_ms", 0.0, "time to first token, ms; 0 = no bound", 0.0, LONGEST_BOUND_S * 1e3),
        Parameter("tpot_ms", 0.0, "time per output token, ms; 0 = no bound", 0.0, LONGEST_BOUND_S * 1e3),
        Parameter("deadline_s", 0.0, "submission to last output token, s; 0 = no bound", 0.0, LONGEST_BOUND_S),
        Parameter("utility", 0.0, "weight against goals of the same class; 0 = the class default", 0.0, 1e9),
        Parameter("on_miss", "default", "once the SLO cannot be met any more; by default real-time goals end", choices=tuple(ON_MISS)),
    )
}
"""What a preset is made of; their names are those behind ``slo_presets.NAME.``."""

DEFAULTS: dict[str, Any] = {
    "slo_presets.control.service_class": "real_time",
    "slo_presets.control.tpot_ms": 50.0,
    "slo_presets.control.deadline_s": 1.5,
    "slo_presets.voice.ttft_ms": 1000.0,
    "slo_presets.voice.tpot_ms": 125.0,
    "slo_presets.qa.ttft_ms": 1000.0,
    "slo_presets.qa.tpot_ms": 100.0,
}
"""The three kinds of the benchmark's ``robot-mix``."""


def preset_parameter(name: str) -> Parameter:
    """What is known of ``slo_presets.NAME.FIELD``.

    Raises:
        ParameterError: it is no parameter of a preset.
    """
    preset, _, field = name.removeprefix(PREFIX).rpartition(".")
    if not name.startswith(PREFIX) or not preset or field not in FIELDS:
        raise ParameterError(f"there is no parameter {name!r}; a preset has {PREFIX}NAME.FIELD, where FIELD is one of {', '.join(FIELDS)}")
    return replace(FIELDS[field], name=name, change=Change.LIVE)


def presets_of(values: Mapping[str, Any]) -> dict[str, Slo]:
    """The presets that parameters ``slo_presets.NAME.FIELD`` describe.

    Raises:
        ParameterError: a name or value is wrong, or a preset contradicts itself.
    """
    grouped: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        checked = preset_parameter(name).check(value)
        preset, _, field = name.removeprefix(PREFIX).rpartition(".")
        grouped.setdefault(preset, {})[field] = checked
    return {preset: _slo(preset, fields) for preset, fields in grouped.items()}


def _slo(preset: str, fields: Mapping[str, Any]) -> Slo:
    try:
        return Slo(
            CLASSES[fields.get("service_class", "best_effort")],
            (fields.get("ttft_ms", 0.0) / 1e3) or None,
            (fields.get("tpot_ms", 0.0) / 1e3) or None,
            fields.get("deadline_s", 0.0) or None,
            fields.get("utility", 0.0) or None,
            ON_MISS[fields.get("on_miss", "default")],
        )
    except SloError as error:
        raise ParameterError(f"preset {PREFIX}{preset}: {error}") from error
