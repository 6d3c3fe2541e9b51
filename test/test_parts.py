"""On a CPU a step's prompts and decodes are computed apart, and each goal gets what it would get alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import llama_cpp
import pytest
from engines import exact_engine, serve
from hypothesis import given
from hypothesis import strategies as st

from slice_ros.engines.llama import LlamaConfig, LlamaEngine, loading
from slice_ros.engines.llama.memory import Memory
from slice_ros.engines.llama.parts import TILE, WEIGHTS_A_PAIR, Tiles, parts_of, tiles_of
from slice_ros.goal import GoalRequest
from slice_ros.mask import Cell, Column
from slice_ros.scheduling.engine import KvFullError, Output
from slice_ros.slo import Slo


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LlamaEngine]:
    engine = exact_engine(tmp_path)
    yield engine
    engine.shutdown()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each call of ``llama_decode`` had."""
    counts: list[int] = []
    decode = llama_cpp.llama_decode

    def counted(context: object, batch: llama_cpp.llama_batch) -> int:
        counts.append(batch.n_tokens)
        return int(decode(context, batch))

    monkeypatch.setattr(llama_cpp, "llama_decode", counted)
    return counts


@given(st.integers(0, 6), st.lists(st.tuples(st.integers(1, 40), st.integers(0, 400)), min_size=1, max_size=40), st.integers(1, 64))
def test_parts_are_the_cells_in_order_and_decodes_share_none_with_prompts(prompts: int, cells: list[tuple[int, int]], tile: int) -> None:
    prompts = min(prompts, len(cells))
    tokens, before = [count for count, _ in cells], [held for _, held in cells]
    tiles = Tiles(tile, 0.0)
    found = parts_of(prompts, tokens, before, tiles)
    assert [cell for part in found for cell in range(len(cells))[part]] == list(range(len(cells)))
    if len(found) > 1:
        assert sum(tokens) >= tile
        assert prompts in {part.start for part in found}
        assert all(sum(tokens[part]) < tile or part.stop == part.start + 1 for part in found if part.start >= prompts)
        assert sum(tiles.pairs(tokens[part], before[part]) for part in found) < tiles.pairs(tokens, before)


SMOLLM2 = Tiles(TILE, 134.5e6 / (WEIGHTS_A_PAIR * 270))


@pytest.mark.parametrize(
    ("prompt", "behind", "decodes", "parts"),
    [(64, 0, 1, 2), (64, 0, 15, 2), (128, 300, 7, 2), (60, 0, 4, 2), (60, 600, 4, 1), (56, 600, 8, 1), (49, 600, 15, 2), (40, 0, 15, 1)],
)
def test_a_step_is_computed_in_parts_where_that_was_measured_to_be_quicker(prompt: int, behind: int, decodes: int, parts: int) -> None:
    assert len(parts_of(1, [prompt] + [1] * decodes, [behind] + [150] * decodes, SMOLLM2)) == parts


def test_a_large_model_is_not_read_again_for_one_decode() -> None:
    tiles = Tiles(TILE, 8e9 / (WEIGHTS_A_PAIR * 1024))
    assert len(parts_of(1, [64, 1], [0, 150], tiles)) == 1
    assert len(parts_of(1, [64] + [1] * 12, [0] + [150] * 12, tiles)) == 2


def test_only_kernels_that_compute_tiles_have_parts(engine: LlamaEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, model, plain = LlamaConfig(tmp_path / "model.gguf", n_gpu_layers=0), engine._model, Memory()
    found = tiles_of(config, model, plain)
    assert found is not None
    assert found.tokens == TILE
    for other in ({"flash_attn": False}, {"type_k": "q8_0", "type_v": "q8_0"}, {"type_k": "f32"}, {"rpc_servers": ("10.0.0.2:50052",)}):
        assert tiles_of(replace(config, **other), model, plain) is None
    assert tiles_of(config, model, Memory(is_state=True)) is tiles_of(config, model, Memory(window=512)) is None
    layers = llama_cpp.llama_model_n_layer(model)
    for kind in (1, 2):  # a GPU, or one that shares the CPU's memory, as a Jetson's
        monkeypatch.setattr(loading, "_device", {kind: 1}.get)
        for on_gpu, expected in ((-1, None), (layers + 1, None), (layers, found)):  # with one on the CPU, that one takes the time
            assert tiles_of(replace(config, n_gpu_layers=on_gpu), model, plain) == expected


def test_goals_in_parts_get_what_each_would_get_alone(engine: LlamaEngine, decoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(7)
    letters = "abcdefgh "
    requests = [
        GoalRequest(
            f"goal {i}",
            Slo(),
            rng.randint(1, 40),
            prompt="".join(rng.choice(letters) for _ in range(rng.choice((1, 5, 30, 90)))),
            regex=rng.choice(("", "", "I turn (left|right) now")),
            logprobs=rng.random() < 0.3,
        )
        for i in range(36)
    ]
    alone = serve(engine, requests, rng, calm=True)
    engine._tiles = Tiles(12, 0.0)
    del decoded[:]
    steps = 0
    step = engine.step

    def counted(column: Column) -> list[Output]:
        nonlocal steps
        steps += 1
        return step(column)

    monkeypatch.setattr(engine, "step", counted)
    for first in range(0, len(requests), 12):
        for goal_id, mine in serve(engine, requests[first : first + 12], rng, drafts=True).items():
            wanted = alone[goal_id]
            assert (mine.text, mine.tokens, mine.finish, mine.computed) == (wanted.text, wanted.tokens, wanted.finish, wanted.computed)
            assert [one.token for one in mine.logprobs] == [one.token for one in wanted.logprobs]
            assert [one.logprob for one in mine.logprobs] == pytest.approx([one.logprob for one in wanted.logprobs], abs=1e-3)
    assert len(decoded) > steps + 8


def test_a_step_whose_last_part_finds_no_room_has_computed_nothing(tmp_path: Path, decoded: list[int]) -> None:
    exact_engine(tmp_path).shutdown()
    path = tmp_path / "small.gguf"
    engine = LlamaEngine(LlamaConfig(path, n_ctx=256, prefix_cache=0, host_cache_mib=0, type_k="f32", type_v="f32", n_gpu_layers=0))
    engine._tiles = Tiles(16, 0.0)
    for goal_id, prompt in (("decoding", "x" * 200), ("other", "y" * 10), ("prompt", "z" * 46)):
        engine.prepare(GoalRequest(goal_id, Slo(), 9, prompt=prompt))
        engine.open(goal_id)
    (_, first) = engine.step((Cell("decoding", 200), Cell("other", 10)))
    used = engine.kv.used
    del decoded[:]
    with pytest.raises(KvFullError, match="a step of 48 tokens"):
        engine.step((Cell("decoding"), Cell("prompt", 46), Cell("other")))
    assert decoded == [46, 2]
    assert engine.kv.used == used
    engine.close("decoding")
    outputs = engine.step((Cell("prompt", 46), Cell("other")))
    assert [output.goal_id for output in outputs] == ["prompt", "other"]
    assert first.tokens == 1
    assert engine.kv.used == 10 + 1 + 46
    engine.shutdown()


def test_decodes_with_forced_tokens_are_no_prompts(engine: LlamaEngine, decoded: list[int]) -> None:
    engine._tiles = Tiles(16, 0.0)
    for goal_id, prompt in (("a", "x" * 30), ("b", "y" * 30)):
        engine.prepare(GoalRequest(goal_id, Slo(), 20, prompt=prompt))
        engine.open(goal_id)
    engine.step((Cell("b", 26),))
    del decoded[:]
    engine.step((Cell("b", 4, is_decode=True), Cell("a", 30)))
    assert decoded == [30, 4]
