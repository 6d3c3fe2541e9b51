"""Only a first start measures; whatever is wrong with the saved file, or with the disk, costs a measurement and nothing else."""

import logging

import pytest

pytest.importorskip("llama_cpp")
from slice_ros.engines.llama import LlamaConfig
from slice_ros.latency.model import LatencyModel
from slice_ros.process import saved_latency
from slice_ros.process.saved_latency import saved_or_measured, saved_path
from slice_ros.scheduling.engine import EngineInfo

MEASURED = LatencyModel("as measured", (0.010, 0.012, 0.015), 0.001, 0.0005, 1e-6)
INFO = EngineInfo("m.gguf", "a CPU, 1 threads", 2048, 64, 512, 2048)


class Idle:
    """An engine that is not asked for anything but what it is."""

    info = INFO


@pytest.fixture
def measurements(monkeypatch, tmp_path):
    """How often step times were measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    batches = []

    def measure(engine, *, max_batch):
        batches.append(max_batch)
        return MEASURED

    monkeypatch.setattr(saved_latency, "measure_latency", measure)
    return batches


@pytest.fixture
def config(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF and what follows")
    return LlamaConfig(tmp_path / "m.gguf")


def test_a_second_start_takes_what_the_first_measured(measurements, config):
    assert saved_or_measured(Idle, config, 16) == MEASURED
    again = saved_or_measured(Idle, config, 16)
    assert again.decode_s == pytest.approx(MEASURED.decode_s)
    assert (again.chunk_s, again.prompt_token_s, again.kv_token_s) == pytest.approx((0.001, 0.0005, 1e-6))
    assert measurements == [16]


def test_a_model_copied_elsewhere_is_the_same_model(measurements, config, tmp_path):
    saved_or_measured(Idle, config, 16)
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "m.gguf"
    copy.write_bytes((tmp_path / "m.gguf").read_bytes())
    saved_or_measured(Idle, LlamaConfig(copy), 16)
    assert measurements == [16]


@pytest.mark.parametrize(
    "other",
    [
        {"info": EngineInfo("m.gguf", "a CPU, 2 threads", 2048, 64, 512, 2048)},
        {"info": EngineInfo("m.gguf", "a CPU, 1 threads", 4096, 64, 512, 2048)},
        {"config": {"type_k": "q8_0"}},
        {"config": {"main_gpu": 1}},
        {"max_batch": 32},
        {"content": b"GGUF and something else"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_whatever_makes_steps_faster_or_slower_is_measured_by_itself(config, tmp_path, other):
    path = saved_path(INFO, config, 16)
    (tmp_path / "m.gguf").write_bytes(other.get("content", b"GGUF and what follows"))
    changed = LlamaConfig(tmp_path / "m.gguf", **other.get("config", {}))
    assert saved_path(other.get("info", INFO), changed, other.get("max_batch", 16)) != path


def test_a_broken_file_is_measured_anew_and_replaced(measurements, config, caplog):
    path = saved_path(INFO, config, 16)
    path.parent.mkdir(parents=True)
    path.write_text("decode_ms: many")
    with caplog.at_level(logging.WARNING):
        assert saved_or_measured(Idle, config, 16) == MEASURED
    assert "measured again" in caplog.text
    saved_or_measured(Idle, config, 16)
    assert measurements == [16]


def test_a_disk_that_cannot_be_written_is_a_line_in_the_log(measurements, config, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert saved_or_measured(Idle, config, 16) == MEASURED
    assert "cannot be saved" in caplog.text
