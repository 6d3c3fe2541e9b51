"""Made models load, compute finite numbers, and have the shapes they are named after."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama import shapes as models
from slice_ros.engines.llama.architectures import SHAPES, DeltaNetShape, ModelShape, RecurrentShape
from slice_ros.engines.llama.shapes import QUANTIZATIONS, default_model_path, make_model, make_start_model
from slice_ros.goal import ChatMessage, GoalRequest
from slice_ros.mask import Cell
from slice_ros.slo import Slo


def tiny(name: str) -> ModelShape:
    """A public shape with everything but its structure made small."""
    shape = SHAPES[name]
    if isinstance(shape, RecurrentShape):
        attention = (0, 1) if len(shape.attention) == shape.block_count else (1,)
        small = {"attention": attention if shape.attention else ()}
        small |= {"inner": 256 if shape.inner else 0, "state_heads": 4 if shape.inner else 0}
    else:
        small = {"rope_dimensions": shape.rope_dimensions and 16, "key_length": shape.key_length and 32}
    if isinstance(shape, DeltaNetShape):
        small |= {"block_count": 4, "state": 32, "state_key_heads": 2, "state_heads": 4}
        small |= {"experts": 8, "used_experts": 2, "expert_length": 64}
    if shape.head_count:
        small |= {"head_count": 4, "head_count_kv": 2, "feed_forward_length": 256}
    return replace(shape, **{"vocab_size": 512, "embedding_length": 128, "block_count": 2} | small)


@pytest.fixture
def no_shipped_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "share_dir", lambda: tmp_path / "share")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen2.5-0.5b", 494_032_768),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.1-8b", 8_030_261_248),
        ("chatglm2-6b", 6_243_584_000),
        ("gemma-3-270m", 268_098_176),
        ("mamba2-130m", 128_989_632),
        ("lfm2-350m", 354_483_968),
        ("granite-4.0-h-350m", 340_332_224),
        ("falcon-h1-0.5b", 521_411_104),
        ("qwen3-next-80b-a3b", 79_674_391_296),
    ],
)
def test_a_public_shape_has_as_many_weights_as_its_model(name: str, parameters: int) -> None:
    assert sum(prod(dimensions) for _, dimensions in SHAPES[name].tensors()) == parameters


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_made_model_loads_and_its_logits_are_finite_and_differ(tmp_path: Path, name: str, quantization: str) -> None:
    path = tmp_path / "model.gguf"
    seen: list[tuple[int, int]] = []
    make_model(tiny(name), path, quantization, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]
    engine = LlamaEngine(LlamaConfig(path, n_ctx=512))
    engine.prepare(GoalRequest("a", Slo(), 4, prompt="x" * 300))
    engine.open("a")
    engine.step((Cell("a", 300),))
    logits = engine._logits(1).copy()
    assert np.isfinite(logits).all()
    assert len(np.unique(logits)) > 500  # rows of the output matrix are not copies of each other
    engine.shutdown()


def test_the_same_seed_makes_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    for i, seed in enumerate((1, 1, 2)):
        make_model(tiny("llama-3.2-1b"), tmp_path / f"{i}.gguf", seed=seed)
    first, same, other = ((tmp_path / f"{i}.gguf").read_bytes() for i in range(3))
    assert first == same
    assert first != other


def test_a_model_larger_than_the_random_pattern_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "WRITE_BYTES", 10_000)
    make_model(tiny("qwen2.5-0.5b"), tmp_path / "model.gguf", "q8_0")
    engine = LlamaEngine(LlamaConfig(tmp_path / "model.gguf", n_ctx=256))
    engine.shutdown()


def test_an_unknown_quantization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'q5_k'; it must be one of q4_0"):
        make_model(tiny("llama-3.2-1b"), tmp_path / "model.gguf", "q5_k")


@pytest.mark.usefixtures("no_shipped_model")
def test_the_start_model_speaks_printable_ascii(tmp_path: Path) -> None:
    engine = LlamaEngine(LlamaConfig(default_model_path(), n_ctx=2048))
    text = ""
    for i, prompt in enumerate(("Where am I?", "Grüße 🤖", "\x00\x1b\x7f", "a" * 100)):
        request = GoalRequest(str(i), Slo(), 100, messages=(ChatMessage("user", prompt),))
        tokens = engine.prepare(request)
        tokens -= engine.open(str(i))
        (output,) = engine.step((Cell(str(i), tokens),))
        text += output.text
        while output.finish is None:
            (output,) = engine.step((Cell(str(i)),))
            text += output.text
    assert len(text) == 400
    assert text.isascii()
    assert text.isprintable()
    engine.shutdown()


@pytest.mark.usefixtures("no_shipped_model")
def test_the_start_model_is_made_once(tmp_path: Path) -> None:
    path = default_model_path()
    assert path.is_relative_to(tmp_path / "cache" / "slice_ros" / "models")
    made = path.stat().st_mtime_ns
    assert default_model_path() == path
    assert path.stat().st_mtime_ns == made


@pytest.mark.usefixtures("no_shipped_model")
def test_a_model_that_ships_with_the_package_wins(tmp_path: Path) -> None:
    shipped = tmp_path / "share" / "models" / models.SHIPPED_MODEL
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    assert default_model_path() == shipped


@pytest.mark.usefixtures("no_shipped_model")
def test_several_processes_may_make_the_start_model_at_once(tmp_path: Path) -> None:
    script = "import pathlib, sys; from slice_ros.engines.llama.shapes import make_start_model as make; make(pathlib.Path(sys.argv[1]))"
    path = tmp_path / "start.gguf"
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["start.gguf"]
    make_start_model(tmp_path / "alone.gguf")
    assert path.read_bytes() == (tmp_path / "alone.gguf").read_bytes()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(models, "_add_vocabulary", fail)
    with pytest.raises(OSError, match="disk full"):
        make_start_model(tmp_path / "start.gguf")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_model_and_says_when_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(models.SHAPES, "llama-3.2-1b", tiny("llama-3.2-1b"))
    output = tmp_path / "new" / "model.gguf"
    assert models.main(["--shape", "llama-3.2-1b", "--type", "f16", "--output", str(output)]) == 0
    assert output.read_bytes()[:4] == b"GGUF"
    assert models.main(["--shape", "llama-3.2-1b", "--output", "/proc/model.gguf"]) == 1
    assert "cannot write /proc/model.gguf" in capsys.readouterr().err
