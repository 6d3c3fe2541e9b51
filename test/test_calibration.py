"""What is measured of an engine is how long its steps take."""

from dataclasses import replace

import pytest
from builders import PAPER

from slice_ros.cli import main
from slice_ros.commands.calibrate import meaning
from slice_ros.engines.calibration import measure_latency, relative_errors
from slice_ros.engines.simulated import SimulatedEngine
from slice_ros.latency.fit import Step, fit_mean_latency
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.engine import EngineError

SAW_TOOTH = LatencyModel("saw", (0.014, 0.027, 0.038, 0.030, 0.050), chunk_s=0.002, prompt_token_s=0.00047, kv_token_s=1e-6)
LOOKING_BACK = replace(SAW_TOOTH, device="looking back", prompt_kv_token_s=2e-7)
WINDOW = replace(LOOKING_BACK, device="window", kv_token_s=4e-6, window=512, windowed=0.85)


def measured(model, max_batch, **engine):
    clock = VirtualClock()
    engine = SimulatedEngine(model, clock, **engine)
    result = measure_latency(engine, max_batch=max_batch, clock=clock)
    assert engine.kv.used == 0
    return result


@pytest.mark.parametrize("model", [PAPER, SAW_TOOTH, LOOKING_BACK, WINDOW], ids=lambda model: model.device)
def test_it_finds_the_model_that_the_engine_follows(model):
    result = measured(model, len(model.decode_s))
    assert result.decode_s == pytest.approx(model.decode_s, rel=1e-6)
    assert result.chunk_s == pytest.approx(model.chunk_s, abs=1e-6)
    assert result.prompt_token_s == pytest.approx(model.prompt_token_s, abs=1e-7)
    assert result.kv_token_s == pytest.approx(model.kv_token_s, abs=1e-9)
    assert result.prompt_kv_token_s == pytest.approx(model.prompt_kv_token_s, abs=1e-10)
    assert result.windowed == model.windowed


def test_rows_beyond_those_measured_are_not_taken_to_be_free():
    linear = LatencyModel("linear", tuple(0.007 + 0.004 * rows for rows in range(1, 33)))
    assert measured(linear, 16).step_s(32) == pytest.approx(linear.step_s(32))
    assert measured(linear, 1).step_s(32) == pytest.approx(linear.step_s(1))  # nothing is known of a second one


@pytest.mark.parametrize("limits", [{"max_sequences": 1}, {"max_sequences": 4}, {"max_step_tokens": 40}, {"context_tokens": 600}], ids=str)
def test_it_stays_within_what_the_engine_can_hold(limits):
    result = measured(SAW_TOOTH, 16, **limits)
    assert len(result.decode_s) == min(16, limits.get("max_sequences", 16))
    assert result.prompt_token_s == pytest.approx(SAW_TOOTH.prompt_token_s, rel=0.05)


def test_a_slow_device_is_not_asked_for_its_longest_prompts():
    clock = VirtualClock()
    engine = SimulatedEngine(LatencyModel("slow", (0.05, 0.06), prompt_token_s=0.01), clock)
    longest = 0
    step = engine.step

    def watched(column):
        nonlocal longest
        longest = max(longest, *(cell.prompt_tokens for cell in column))
        return step(column)

    engine.step = watched
    result = measure_latency(engine, max_batch=2, clock=clock)
    assert longest <= 128
    assert result.prompt_token_s == pytest.approx(0.01, rel=1e-3)
    assert clock.now() < 15.0


def test_kernels_that_take_tokens_in_tiles_are_found_out():
    """Four tokens take as long as one; what is left over is that of all tokens, not that of the rows."""
    tiles = LatencyModel("tiles", (0.012, 0.016, 0.020, 0.010, 0.022, 0.026), prompt_token_s=0.0025, tile=4)
    assert tiles.step_s(3, 6, 1) == pytest.approx(0.020 + 6 * 0.0025 - (0.020 - 0.0075))  # eight tokens: no rest
    result = measured(tiles, 6)
    assert result.tile == 4
    assert result.decode_s == pytest.approx(tiles.decode_s, rel=1e-4)
    assert result.prompt_token_s == pytest.approx(0.0025, rel=1e-3)
    assert measured(PAPER, 8).tile == 0


def test_an_odd_slow_step_does_not_show():
    clock = VirtualClock()
    engine = SimulatedEngine(PAPER, clock)
    step, steps = engine.step, 0

    def disturbed(column):
        nonlocal steps
        steps += 1
        if steps % 11 == 0:
            clock.advance(0.5)
        return step(column)

    engine.step = disturbed
    result = measure_latency(engine, max_batch=4, clock=clock)
    assert result.decode_s == pytest.approx(PAPER.decode_s[:4], rel=1e-3)
    assert result.kv_token_s == pytest.approx(0.0, abs=1e-9)


def test_goals_that_end_by_themselves_are_replaced():
    class Terse(SimulatedEngine):
        """Every answer is three tokens, and to ask for a fourth is an error, as it is with llama.cpp."""

        ended: set[str] = set()  # noqa: RUF012

        def step(self, column):
            assert not self.ended & {cell.goal_id for cell in column}
            outputs = super().step(column)
            self.ended |= {output.goal_id for output in outputs if output.finish}
            return outputs

        def prepare(self, request):
            tokens = super().prepare(request)
            self._sequences[request.goal_id].max_tokens = 3
            return tokens

    clock = VirtualClock()
    engine = Terse(PAPER, clock)
    assert measure_latency(engine, max_batch=4, clock=clock).decode_s == pytest.approx(PAPER.decode_s[:4], rel=1e-3)


def test_progress_rises_to_the_end():
    shares = []
    clock = VirtualClock()
    measure_latency(SimulatedEngine(PAPER, clock), max_batch=4, clock=clock, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_its_goals_begin_differently_so_that_no_prefix_is_found_computed():
    class Prompts(SimulatedEngine):
        prompts: list[str] = []  # noqa: RUF012

        def prepare(self, request):
            self.prompts.append(request.prompt)
            return super().prepare(request)

    clock = VirtualClock()
    measure_latency(Prompts(PAPER, clock), max_batch=2, clock=clock)
    assert len({prompt.split()[0] for prompt in Prompts.prompts}) == len(Prompts.prompts)


def test_a_model_is_judged_by_fresh_steps_of_all_kinds():
    clock = VirtualClock()
    engine = SimulatedEngine(SAW_TOOTH, clock)
    taken = []
    step = engine.step

    def watched(column):
        taken.append((len(column), sum(cell.prompt_tokens for cell in column)))
        return step(column)

    engine.step = watched
    errors = relative_errors(engine, SAW_TOOTH, max_batch=5, clock=clock)
    assert max(errors.relative) == pytest.approx(0.0, abs=1e-6)
    assert max(errors.noise) == pytest.approx(0.0, abs=0.01)
    assert engine.kv.used == 0
    assert {rows for rows, _ in taken} == {1, 2, 3, 4, 5}
    assert {rows for rows, prompt_tokens in taken if prompt_tokens > 64} >= {1, 3, 5}
    assert {rows for rows, prompt_tokens in taken if not prompt_tokens} >= {1, 2, 3, 4}


def test_a_model_that_is_half_as_fast_is_off_by_the_whole():
    clock = VirtualClock()
    errors = relative_errors(SimulatedEngine(SAW_TOOTH, clock), SAW_TOOTH.scaled(2.0), max_batch=5, clock=clock)
    assert errors.relative == pytest.approx([1.0] * len(errors.relative))


def test_the_noise_of_the_machine_is_told_beside_it():
    clock = VirtualClock()
    engine = SimulatedEngine(PAPER, clock)
    step, steps = engine.step, 0

    def noisy(column):
        nonlocal steps
        steps += 1
        clock.advance(0.010 * (steps % 3))
        return step(column)

    engine.step = noisy
    errors = relative_errors(engine, PAPER, max_batch=4, clock=clock)
    assert max(errors.noise) > 0.2


def test_steps_of_all_kinds_together_give_the_model_they_follow():
    model = LatencyModel("d", (0.010, 0.020, 0.030, 0.040), prompt_token_s=0.001)
    steps = [Step(rows, tokens, (), model.step_s(rows, tokens)) for rows in (1, 2, 4) for tokens in (0, 8, 100) * 2]
    steps.append(Step(3, 500, (), 0.001))  # an odd one: too few of its kind to tell
    fitted = fit_mean_latency("d", steps)
    assert fitted.decode_s == pytest.approx(model.decode_s)  # three rows are interpolated
    assert fitted.prompt_token_s == pytest.approx(0.001)


def test_llama_cpp_itself_is_measured_and_left_clean(tmp_path):
    pytest.importorskip("llama_cpp")
    from slice_ros.engines.llama import LlamaConfig, LlamaEngine
    from slice_ros.engines.llama.shapes import make_start_model

    make_start_model(tmp_path / "start.gguf")
    engine = LlamaEngine(LlamaConfig(tmp_path / "start.gguf", n_ctx=2048, n_seq_max=8, n_threads=1))
    try:
        result = measure_latency(engine, max_batch=4)
        assert engine.kv.used == 0
    finally:
        engine.shutdown()
    assert len(result.decode_s) == 4
    assert min(result.decode_s) > 0.0
    assert result.step_s(1, prompt_tokens=512, chunks=1) > 2 * result.step_s(1)


@pytest.mark.parametrize(("trained", "is_enough"), [(256, True), (40, False)])
def test_prompts_are_no_longer_than_the_model_was_trained_with(tmp_path, trained, is_enough):
    pytest.importorskip("llama_cpp")
    from slice_ros.engines.llama import LlamaConfig, LlamaEngine
    from slice_ros.engines.llama.shapes import START_SHAPE, make_start_model

    make_start_model(tmp_path / "short.gguf", shape=replace(START_SHAPE, block_count=1, context_length=trained))
    engine = LlamaEngine(LlamaConfig(tmp_path / "short.gguf", n_ctx=4096, n_seq_max=4, n_threads=1))
    try:
        if is_enough:
            latency = measure_latency(engine, max_batch=2)
            assert relative_errors(engine, latency, max_batch=2).relative
        else:
            with pytest.raises(EngineError, match=r"cannot be measured: .* at most 40 fit"):
                measure_latency(engine, max_batch=2)
    finally:
        engine.shutdown()


def test_the_command_writes_a_profile_and_saves_it_for_servers(tmp_path, monkeypatch, capsys):
    pytest.importorskip("llama_cpp")
    from slice_ros.engines.llama.shapes import make_start_model

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_start_model(tmp_path / "start.gguf")
    small = ("calibrate", "--model", str(tmp_path / "start.gguf"), "--threads", "1", "--context", "512", "--max-batch", "2")
    assert main([*small, "--output", str(tmp_path / "here.yaml")]) == 0
    printed = capsys.readouterr()
    assert "random steps are off by" in printed.err
    written = LatencyModel.profile(str(tmp_path / "here.yaml"))
    assert len(written.decode_s) == 2
    (saved,) = (tmp_path / "cache" / "slice_ros" / "latency").iterdir()
    assert f"saved for servers: {saved}" in printed.err
    assert LatencyModel.profile(str(saved)).decode_s == written.decode_s


def test_the_command_says_what_step_times_mean_for_a_deadline():
    latency = LatencyModel("even", (0.010,) * 8, prompt_token_s=0.001)
    assert "64 prompt tokens and 25 of answer takes 0.31 s alone" in meaning(latency)


def test_the_command_says_what_cannot_be_calibrated(tmp_path, capsys):
    pytest.importorskip("llama_cpp")
    assert main(["calibrate", "--max-batch", "0"]) == 2
    assert "--max-batch is 0; it must be 1 or more" in capsys.readouterr().err
    assert main(["calibrate", "--model", str(tmp_path / "none.gguf")]) == 1
    assert "none.gguf" in capsys.readouterr().err
