"""Parameters: one table, checked values, sentences for wrong ones, and a YAML file that agrees with it."""

from __future__ import annotations

import math

import pytest
import yaml

from slice_ros.parameters import presets
from slice_ros.parameters.table import PARAMETERS, ParameterError, check_all
from slice_ros.paths import share_dir


def flatten(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_yaml_file_lists_every_parameter_at_its_default():
    content = yaml.safe_load((share_dir() / "config" / "slice.yaml").read_text())
    assert dict(flatten(content["/**"]["ros__parameters"])) == {p.name: p.default for p in PARAMETERS.values()} | presets.DEFAULTS


def test_what_is_not_given_takes_its_default():
    assert check_all({"context.n_ctx": 4096})["context.n_ctx"] == 4096
    assert check_all({})["engine.kind"] == "llama"


def test_every_default_passes_its_own_check():
    for parameter in PARAMETERS.values():
        assert parameter.check(parameter.default) == parameter.default


def test_an_integer_serves_where_a_float_is_meant():
    value = PARAMETERS["status.rate_hz"].check(4)
    assert value == 4.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("context.n_ctx", "big", "must be a int"),
        ("context.n_ctx", True, "must be a int"),
        ("context.n_ctx", 3, "in 64 to"),
        ("engine.kind", "gpu", "one of llama, paced, simulated"),
        ("scheduler.policy", "fifo", "one of"),
        ("status.rate_hz", math.nan, "in 2 to 50"),
        ("status.rate_hz", math.inf, "in 2 to 50"),
    ],
)
def test_a_wrong_value_is_refused_with_the_value_and_what_would_be_right(name, value, says):
    with pytest.raises(ParameterError, match=says) as caught:
        check_all({name: value})
    assert name in str(caught.value)
    assert str(value) in str(caught.value)


def test_an_unknown_parameter_is_refused():
    with pytest.raises(ParameterError, match=r"'scheduler\.polcy'"):
        check_all({"scheduler.polcy": "orca"})
