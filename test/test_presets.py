"""SLOs by name, from parameters and in goals."""

from __future__ import annotations

import pytest

from slice_ros.goal import ErrorCode, GoalError
from slice_ros.parameters.presets import DEFAULTS, presets_of
from slice_ros.parameters.table import ParameterError
from slice_ros.ros.conversions import slo_msg, slo_of
from slice_ros.ros.interfaces import Slo as SloMsg
from slice_ros.slo import BestEffort, OnMiss, RealTime

CONTROL = RealTime(tpot_ms=50, deadline_s=1.5)
PRESETS = {"control": CONTROL, "voice": BestEffort(ttft_ms=1000, tpot_ms=125)}


def test_the_presets_that_come_with_the_server_are_those_of_the_robot_mix():
    presets = presets_of(DEFAULTS)
    assert presets["control"] == CONTROL
    assert presets["voice"] == BestEffort(ttft_ms=1000, tpot_ms=125)
    assert presets["qa"] == BestEffort(ttft_ms=1000, tpot_ms=100)


def test_every_field_of_a_preset_counts():
    values = {"service_class": "real_time", "ttft_ms": 200, "tpot_ms": 40.0, "deadline_s": 2.0, "utility": 7.0, "on_miss": "abort"}
    presets = presets_of({f"slo_presets.arm.{field}": value for field, value in values.items()})
    assert presets == {"arm": RealTime(ttft_ms=200, tpot_ms=40, deadline_s=2.0, utility=7.0, on_miss=OnMiss.ABORT)}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("slo_presets.arm.speed", 1.0, "FIELD is one of service_class"),
        ("slo_presets.deadline_s", 1.0, "slo_presets.NAME.FIELD"),
        ("slo_presets.arm.tpot_ms", -1.0, "slo_presets.arm.tpot_ms is -1.0"),
        ("slo_presets.arm.tpot_ms", "fast", "must be a float"),
        ("slo_presets.arm.on_miss", "panic", "one of default, continue, abort"),
        ("slo_presets.arm.service_class", "real_time", "has no bound"),
    ],
)
def test_a_wrong_preset_is_refused_with_a_sentence(name, value, says):
    with pytest.raises(ParameterError, match=says):
        presets_of({name: value})


def test_a_goal_names_its_preset():
    assert slo_of(SloMsg(preset="control"), PRESETS) == CONTROL


def test_what_the_goal_says_replaces_what_the_preset_says():
    own = slo_msg(BestEffort(deadline_s=0.75), "control")
    assert slo_of(own, PRESETS) == RealTime(tpot_ms=50, deadline_s=0.75)


def test_a_goal_without_an_slo_takes_the_preset_of_its_label():
    assert slo_of(SloMsg(), PRESETS, "voice") == PRESETS["voice"]
    assert slo_of(SloMsg(), PRESETS, "chat") == BestEffort()
    assert slo_of(slo_msg(BestEffort(deadline_s=9.0)), PRESETS, "voice") == BestEffort(deadline_s=9.0)


def test_an_unknown_preset_is_refused_with_those_that_exist():
    with pytest.raises(GoalError, match=r"'cotnrol'.*control, voice") as caught:
        slo_of(SloMsg(preset="cotnrol"), PRESETS)
    assert caught.value.code is ErrorCode.INVALID_SLO
