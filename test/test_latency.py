"""Step times: the formula, the profiles that come with the package, and what is wrong with one that is wrong."""

from dataclasses import replace

import pytest

from slice_ros.latency.model import LatencyError, LatencyModel, profile_names
from slice_ros.mask import Cell


def test_a_step_costs_its_rows_its_chunks_its_prompt_tokens_and_its_kv_tokens():
    model = LatencyModel("d", (0.010, 0.020, 0.025), chunk_s=0.003, prompt_token_s=0.001, kv_token_s=0.0001)
    assert model.step_s(2) == pytest.approx(0.020)
    assert model.step_s(3, prompt_tokens=10, chunks=2, kv_tokens=100) == pytest.approx(0.025 + 0.006 + 0.010 + 0.010)
    assert model.column_s((Cell("a"), Cell("b", 4), Cell("c", 6)), [50, 10, 40]) == pytest.approx(0.025 + 0.006 + 0.010 + 0.010)
    assert model.prompt_s(10) == pytest.approx(0.013)


def test_prompt_tokens_cost_the_more_the_more_they_look_back_on():
    model = LatencyModel("d", (0.010, 0.020), chunk_s=0.003, prompt_token_s=0.001, prompt_kv_token_s=0.0001)
    assert model.prompt_s(10, 100) == pytest.approx(0.003 + 10 * 0.001 + 10 * 105 * 0.0001)
    assert model.column_s((Cell("a"), Cell("b", 10)), [1000, 100]) == pytest.approx(0.020 + model.prompt_s(10, 100))
    assert model.column_s((Cell("b", 10),)) == pytest.approx(0.010 + model.prompt_s(10))
    parts_s = model.prompt_s(30) + model.prompt_s(70, 30)
    assert parts_s == pytest.approx(model.prompt_s(100) + model.chunk_s), "however a prompt is cut"
    assert model.scaled(2.0, prompts=3.0).prompt_s(10, 100) == pytest.approx(6 * model.prompt_s(10, 100))


def test_tokens_beyond_a_window_cost_what_the_other_layers_take():
    model = LatencyModel("d", (0.010,), prompt_token_s=0.001, kv_token_s=1e-5, prompt_kv_token_s=1e-6, window=500, windowed=0.75)
    assert [model.attended(tokens) for tokens in (0, 500, 900)] == [0, 500, 600]
    assert model.column_s((Cell("a"),), [900]) == pytest.approx(0.010 + 0.006)
    assert model.prompt_s(10, 900) == pytest.approx(10 * 0.001 + 10 * 605 * 1e-6)
    assert model.prompt_tokens_in(model.prompt_s(10, 900), 900) == pytest.approx(10)
    assert model.scaled(2.0).kv_s(900) == pytest.approx(0.012)
    with pytest.raises(LatencyError, match="windowed 2"):
        replace(model, windowed=2.0)


@pytest.mark.parametrize(("token_s", "kv_token_s"), [(0.001, 0.0), (0.0, 1e-6), (0.001, 1e-6)])
@pytest.mark.parametrize("kv_tokens", [0, 500])
def test_how_many_prompt_tokens_fit_into_a_time_is_what_takes_that_time(token_s, kv_token_s, kv_tokens):
    model = LatencyModel("d", (0.010,), prompt_token_s=token_s, prompt_kv_token_s=kv_token_s)
    for tokens in (1, 30, 4000):
        assert model.prompt_tokens_in(model.prompt_tokens_s(tokens, kv_tokens), kv_tokens) == pytest.approx(tokens)
    assert model.prompt_tokens_in(0.0, kv_tokens) == 0.0
    assert LatencyModel("free", (0.010,)).prompt_tokens_in(0.0) == float("inf")


def test_beyond_its_end_the_table_goes_on_flat():
    model = LatencyModel("d", (0.010, 0.020))
    assert model.step_s(3) == model.step_s(1000) == 0.020


def test_or_as_it_says():
    model = LatencyModel("d", (0.010, 0.020), further_row_s=0.004)
    assert (model.step_s(2), model.step_s(5)) == pytest.approx((0.020, 0.032))
    assert model.scaled(2.0).step_s(5) == pytest.approx(0.064)


def test_prompts_can_be_scaled_further():
    model = LatencyModel("d", (0.010,), chunk_s=0.003, prompt_token_s=0.001, kv_token_s=0.0001).scaled(2.0, prompts=3.0)
    assert model.step_s(1, kv_tokens=10) == pytest.approx(0.022)
    assert model.step_s(1, prompt_tokens=10, chunks=1, kv_tokens=10) == pytest.approx(0.022 + 6 * 0.013)


def test_what_is_left_over_of_a_tile_is_that_of_all_tokens():
    tiles = LatencyModel("tiles", (0.012, 0.016, 0.020, 0.010), prompt_token_s=0.003, tile=4)
    assert tiles.step_s(3) == 0.020
    assert tiles.step_s(1, 4, 1) == pytest.approx(0.0025 + 4 * 0.003)  # four tokens: nothing left over, though one row is
    assert tiles.step_s(3, 5, 1) == pytest.approx(3 * 0.0025 + (0.020 - 3 * 0.0025) + 5 * 0.003)  # seven tokens: three
    assert tiles.scaled(2.0).step_s(3, 5, 1) == pytest.approx(2 * tiles.step_s(3, 5, 1))
    odd = LatencyModel("odd", (0.001, 0.002, 0.003, 0.100), tile=4)
    assert odd.step_s(1, 2, 1) == 0.001, "no step is shorter than that of one row"


def test_no_rows_take_no_time():
    assert LatencyModel("d", (0.010,)).step_s(0) == 0.0


def test_a_step_with_more_rows_may_be_shorter():
    assert LatencyModel("d", (0.023, 0.027, 0.033, 0.026)).step_s(4) < 0.027


def test_the_published_profile_is_the_default_that_everyone_expects():
    model = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4")
    assert [round(s * 1e3) for s in model.decode_s] == [14, 27, 38, 50, 60, 72, 83, 125, 126, 123, 124, 125, 126, 123, 124]


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_of_the_package_loads(name):
    assert LatencyModel.profile(name).device == name


def test_a_saved_profile_loads_again(tmp_path):
    model = LatencyModel("here", (0.0123456, 0.020), chunk_s=0.001, prompt_token_s=0.0005, further_row_s=0.004, tile=2)
    model = replace(model, kv_token_s=2**-25, prompt_kv_token_s=2**-40, window=512, windowed=0.75)
    path = tmp_path / "here.yaml"
    path.write_text(model.to_yaml("measured in a test"))
    loaded = LatencyModel.profile(str(path))
    assert loaded.decode_s == model.decode_s
    assert (loaded.chunk_s, loaded.prompt_token_s, loaded.further_row_s, loaded.tile) == (0.001, 0.0005, 0.004, 2)
    assert (loaded.window, loaded.windowed) == (512, 0.75)
    assert (loaded.kv_token_s, loaded.prompt_kv_token_s) == pytest.approx((model.kv_token_s, model.prompt_kv_token_s), rel=1e-5)


def test_an_unknown_profile_names_those_that_exist():
    with pytest.raises(LatencyError, match=r"no device profile 'abacus'; there are: .*rtx4060ti-chatglm2-6b-int4"):
        LatencyModel.profile("abacus")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "has no decode_ms"),
        ({"decode_ms": []}, "empty table"),
        ({"decode_ms": 14}, "must be a list of numbers"),
        ({"decode_ms": [14, "x"]}, "must be a list of numbers"),
        ({"decode_ms": [14, -1]}, r"l\(2\) is -0.001 s"),
        ({"decode_ms": [14], "chunk_ms": float("nan")}, "chunk is nan s"),
        ({"decode_ms": [14], "chunk_ms": "much"}, "chunk_ms is 'much'"),
        ({"decode_ms": [14], "tile": 2}, "tile is 2; it must be 0 to 1"),
        ({"decode_ms": [14], "tile": 0.5}, "tile is 0.5; it must be a whole number"),
        ({"decode_ms": [14], "speed": 3}, r"unknown keys \['speed'\]"),
    ],
)
def test_an_impossible_profile_is_refused(content, sentence):
    with pytest.raises(LatencyError, match=sentence):
        LatencyModel.from_dict("d", content)


@pytest.mark.parametrize("text", ["decode_ms: [1, 2", "decode_ms: 2001-13-01"])
def test_a_file_that_is_not_yaml_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(LatencyError, match=r"bad\.yaml cannot be read"):
        LatencyModel.profile(str(path))


@pytest.mark.parametrize("seconds", [0.0, -0.01, float("nan"), float("inf")])
def test_a_step_that_takes_no_time_is_refused(seconds):
    with pytest.raises(LatencyError, match=r"l\(2\).*above 0"):
        LatencyModel("d", (0.010, seconds))
