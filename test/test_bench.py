"""The benchmark as a command: what it writes, what it draws, and what it says to wrong options."""

import argparse
import json
import math
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from serving import READY_S, children_of, is_alive

from slice_ros.bench import command, plots
from slice_ros.bench.limit import LIMIT
from slice_ros.bench.replay import replay, write_prompts
from slice_ros.bench.rows import confidence, lateness_s, mean, percentile, read_rows
from slice_ros.bench.simulate import simulate
from slice_ros.bench.sweep import Case, RealTime, Simulated, compare, fitting_bounds_scale, grid, run_case, sweep
from slice_ros.bench.workload_file import load_workload
from slice_ros.engines.paced import PacedEngine
from slice_ros.engines.simulated import SimulatedEngine
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import POLICIES, make_policy

ROBOT_MIX = load_workload("robot-mix")
SMOOTH = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-smooth")
ROW_KEYS = {
    "policy", "engine", "device", "workload", "rate_hz", "rt_share", "seed", "goals", "attainment", "attainment_rt", "attainment_be",
    "e2e_s_mean_rt", "e2e_s_mean_be", "ttft_ms_p50_rt", "ttft_ms_p99_rt", "tpot_ms_p99_rt", "prediction_within_20pct", "rt_alone",
}  # fmt: skip


def bench(*options):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(option) for option in options]))


QUICK = ("--rates", "1,2", "--policies", "orca,slice", "--seeds", "2", "--duration", "20", "--jobs", "1")


# ---- rows


def test_json_holds_a_row_for_each_run_with_the_promised_keys(tmp_path):
    path = tmp_path / "rows.json"
    assert bench(*QUICK, "--rt-share", "0.3,0.7", "--rt-alone", "--json", path) == 0
    rows = json.loads(path.read_text())
    assert len(rows) == 2 * 2 * 2 * 2 * 2  # rates, policies, seeds, shares, with and without best effort
    for row in rows:
        assert row.keys() >= ROW_KEYS
        assert 0.0 <= row["attainment_rt"] <= 1.0
        assert (row["engine"], row["workload"]) == ("simulated", "robot-mix")
    assert {(row["policy"], row["rate_hz"], row["rt_share"]) for row in rows} == {
        (policy, rate, share) for policy in ("orca", "slice") for rate in (1.0, 2.0) for share in (0.3, 0.7)
    }


def test_what_was_not_measured_is_null(tmp_path):
    path = tmp_path / "rows.json"
    bench(*QUICK, "--rt-share", "1", "--json", path)
    assert json.loads(path.read_text())[0]["attainment_be"] is None
    assert math.isnan(read_rows(path)[0].attainment_be)


def test_attainment_is_that_of_all_goals_together():
    row = run_case(Case("slice", ROBOT_MIX, 2.0, 0, 30.0), Simulated(SMOOTH))
    rt = row.classes["control"].goals
    assert row.goals == sum(kind.goals for kind in row.classes.values())
    assert row.attainment * row.goals == pytest.approx(row.attainment_rt * rt + row.attainment_be * (row.goals - rt))


def test_rt_alone_is_the_same_traffic_without_its_best_effort_goals():
    both, alone = (Case("orca", ROBOT_MIX, 2.0, 0, 60.0, rt_alone=alone).traffic() for alone in (False, True))
    assert alone == [arrival for arrival in both if arrival.request.slo.is_real_time]


def test_processes_change_how_long_it_takes_not_what_comes_out():
    cases = grid([ROBOT_MIX], [1.0, 2.0], ["orca", "slice"], range(2), duration_s=20.0)

    def without_time(rows):
        return [repr(row).replace(f"wall_s={row.wall_s}", "") for row in rows]

    assert without_time(sweep(cases, Simulated(SMOOTH), jobs=2)) == without_time(sweep(cases, Simulated(SMOOTH)))


def test_rows_written_can_be_shown_and_written_again(tmp_path, capsys):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    bench(*QUICK, "--json", first)
    capsys.readouterr()
    assert bench("--from", first, "--json", second) == 0
    assert first.read_text() == second.read_text()
    shown = capsys.readouterr().out
    assert "orca" in shown
    assert "slice" in shown


def test_mean_and_percentile():
    assert mean([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(mean([]))
    values = list(range(1, 101))
    assert [percentile(values, p) for p in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 1) == 7.0


def test_confidence_is_that_of_a_mean_of_few():
    assert math.isnan(confidence([1.0, 2.0]))
    assert confidence([1.0, 2.0, 3.0, math.nan]) == pytest.approx(4.30 / math.sqrt(3))
    assert confidence([0.5] * 30) == 0.0


def test_lateness_is_by_how_much_the_bound_was_exceeded_that_was_exceeded_most():
    outcomes = simulate(ROBOT_MIX.traffic(3.0, 30.0, seed=0), make_policy("orca"), SMOOTH)
    for outcome in outcomes:
        assert (lateness_s(outcome) > 0.0) == (not outcome.report.attained)
    control = next(o for o in outcomes if o.is_real_time and not o.report.deadline_met)
    assert lateness_s(control) >= control.report.e2e_s - 1.5 > 0.0
    paced = next(o for o in outcomes if o.is_real_time and o.report.deadline_met and not o.report.tpot_met)
    gaps = paced.report.output_tokens - 1
    assert lateness_s(paced) == pytest.approx((paced.report.tpot_s - 0.05) * gaps)


def test_rows_tell_how_late_goals_were_and_how_long_they_waited():
    row = run_case(Case("orca", ROBOT_MIX, 3.0, 0, 30.0), Simulated(SMOOTH))
    assert 0.0 < row.late_s_p50 < row.late_s_p99
    assert row.ttft_s_max == max(kind.ttft_s_max for kind in row.classes.values())
    timely = run_case(Case("slack", ROBOT_MIX, 0.5, 0, 30.0), Simulated(SMOOTH))
    assert math.isnan(timely.late_s_p50)


def test_seeds_begin_where_they_are_told_to(tmp_path):
    path = tmp_path / "rows.json"
    bench("--rates", "1", "--policies", "orca", "--seeds", "2", "--first-seed", "1000", "--duration", "5", "--jobs", "1", "--json", path)
    assert [row.seed for row in read_rows(path)] == [1000, 1001]


def test_all_policies_are_measured_beside_what_none_can_exceed(tmp_path, capsys):
    pytest.importorskip("scipy")
    path = tmp_path / "rows.json"
    options = ("--rates", "3", "--seeds", "3", "--duration", "10", "--jobs", "1")
    assert bench(*options, "--policies", "all", "--limit", "--rt-alone", "--json", path) == 0
    rows = read_rows(path)
    assert {row.policy for row in rows} == {*POLICIES, LIMIT}
    limits = {(row.seed, row.rt_alone): row for row in rows if row.policy == LIMIT}
    for row in rows:
        assert row.attainment <= limits[row.seed, row.rt_alone].attainment + 1e-9
        assert row.attainment_rt <= limits[row.seed, row.rt_alone].attainment_rt + 1e-9
    shown = capsys.readouterr().out
    assert "±" in shown
    of_slack, of_limit = (mean([row.attainment for row in rows if row.policy == name and not row.rt_alone]) for name in ("slack", LIMIT))
    line = next(line for line in shown.splitlines() if "slack" in line)
    assert f" {of_slack / of_limit:.3f} " in line
    assert 0.0 < of_slack < of_limit
    assert all(name in shown for name in [*POLICIES, LIMIT, "alone", "longest"]), "nothing is cut in 80 columns"
    assert max(map(len, shown.splitlines())) <= 80


def test_what_was_not_asked_for_has_no_column(capsys):
    assert bench(*QUICK) == 0
    shown = capsys.readouterr().out
    assert "alone" not in shown
    assert "limit" not in shown


def test_without_scipy_it_says_how_to_get_it_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert bench("--limit") == 2
    assert "pip install 'slice_ros[limit]'" in capsys.readouterr().err


# ---- bounds


def test_bounds_that_fit_the_device_are_not_scaled():
    assert fitting_bounds_scale(ROBOT_MIX, SMOOTH) == 1.0


def test_bounds_grow_with_a_slower_device():
    slow = LatencyModel("slow", tuple(4 * s for s in SMOOTH.decode_s), prompt_token_s=4 * SMOOTH.prompt_token_s)
    scale = fitting_bounds_scale(ROBOT_MIX, slow)
    assert 1.0 < scale <= 4.0
    for kind in ROBOT_MIX.classes:
        case = Case("orca", ROBOT_MIX.only(kind.label), 0.01, 0, 20_000.0, bounds_scale=scale)
        assert run_case(case, Simulated(slow)).attainment >= 0.98


# ---- real time


def a_paced_engine():
    return PacedEngine(SimulatedEngine(SMOOTH), SMOOTH)


def test_real_time_gives_each_goal_the_lengths_of_its_script():
    engine = a_paced_engine()
    arrivals = ROBOT_MIX.only("control").traffic(3.0, 2.0, seed=1)
    outcomes = replay(arrivals, make_policy("orca"), engine, SMOOTH)
    assert [o.arrival.request.goal_id for o in outcomes] == [a.request.goal_id for a in arrivals]
    for outcome in outcomes:
        assert outcome.completed
        assert outcome.report.output_tokens == outcome.arrival.lengths.output_tokens
        assert outcome.report.prompt_tokens == outcome.arrival.lengths.prompt_tokens
    assert engine.kv.used == 0


def test_real_time_and_virtual_time_agree():
    arrivals = ROBOT_MIX.traffic(2.0, 4.0, seed=2)
    runner = RealTime("paced", a_paced_engine(), SMOOTH)
    real = runner.run(arrivals, "orca")
    virtual = runner.simulated().run(arrivals, "orca")
    assert mean([one.report.e2e_s for one in real]) == pytest.approx(mean([one.report.e2e_s for one in virtual]), rel=0.3)


def test_a_real_run_simulated_counts_what_the_scheduler_does_between_steps(monkeypatch):
    class Slow(type(make_policy("orca"))):
        def plan(self, *situation):
            time.sleep(0.02)
            return super().plan(*situation)

    runner = RealTime("llama", SimulatedEngine(SMOOTH), SMOOTH)  # its steps take no time
    monkeypatch.setitem(POLICIES, "slow", Slow)
    runner.run(ROBOT_MIX.traffic(5.0, 1.0, seed=0), "slow")
    actual = runner.simulated().actual
    assert actual is not None
    assert min(actual.decode_s) > 0.015


def test_prompts_have_the_length_of_their_script_and_no_two_begin_alike():
    arrivals = ROBOT_MIX.traffic(2.0, 20.0, seed=0)
    engine = SimulatedEngine(SMOOTH)
    written = write_prompts(engine, arrivals)
    for arrival in written:
        assert engine.prepare(arrival.request) == arrival.lengths.prompt_tokens
    assert len({arrival.request.prompt[:12] for arrival in written}) == len(written)


def test_a_broken_engine_ends_the_run_with_its_error():
    class Broken(SimulatedEngine):
        def step(self, column):
            raise RuntimeError("out of order")

    arrivals = ROBOT_MIX.traffic(5.0, 1.0, seed=0)
    with pytest.raises(RuntimeError, match="out of order"):
        RealTime("llama", Broken(SMOOTH), SMOOTH).run(arrivals, "orca")


# ---- figures


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize("more", [(), ("--rt-share", "0.2,0.8"), ("--rt-alone", "--limit")], ids=["rates", "shares", "alone"])
def test_figures_are_drawn(tmp_path, more):
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    plot, timeline = tmp_path / "plot.png", tmp_path / "timeline.png"
    assert bench(*QUICK, *more, "--plot", plot, "--timeline", timeline) == 0
    for path in (plot, timeline):
        assert min(png_size(path)) > 500


def test_a_band_in_a_figure_is_the_confidence_interval_of_the_mean(tmp_path, monkeypatch):
    axes = pytest.importorskip("matplotlib.axes")
    pytest.importorskip("scipy")
    bands = []
    monkeypatch.setattr(axes.Axes, "fill_between", lambda _, xs, low, high, **__: bands.append((xs, low, high)))
    path = tmp_path / "rows.json"
    options = ("--rates", "2", "--policies", "slack", "--limit", "--seeds", "3", "--duration", "20", "--jobs", "1")
    assert bench(*options, "--json", path, "--plot", tmp_path / "plot.png") == 0
    rows = [row for row in read_rows(path) if row.policy == "slack"]
    assert len(bands) == 3, "of all goals, real-time and best-effort ones; none of the limit"
    for (xs, low, high), name in zip(bands, ("attainment", "attainment_rt", "attainment_be"), strict=True):
        values = [getattr(row, name) for row in rows]
        assert xs == [2.0]
        assert low[0] == pytest.approx(max(0.0, mean(values) - confidence(values)))
        assert high[0] == pytest.approx(min(1.0, mean(values) + confidence(values)))
    assert any(low[0] < high[0] for _, low, high in bands)


@pytest.mark.parametrize("names", [("llama-server", "slack"), ("slack", "llama-server", "llama-cpp-python", LIMIT), tuple(POLICIES)])
def test_no_two_lines_of_a_figure_look_alike_and_a_policy_looks_the_same_in_all(names):
    row = run_case(Case("slack", load_workload("robot-mix"), 1.0, 0, 2.0), Simulated(LatencyModel.profile("rtx4060ti-chatglm2-6b-int4")))
    styles = plots._styles([replace(row, policy=name) for name in names])
    assert set(styles) == set(names)
    assert len({style["color"] for style in styles.values()}) == len(names)
    assert styles["slack"] == plots._styles([row])["slack"]


def test_no_legend_covers_what_is_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    covered, save = [], plots._save

    def look(figure, path):
        figure.canvas.draw()
        legend = figure.legends[0].get_window_extent()
        covered.append(any(legend.overlaps(axes.get_tightbbox()) for axes in figure.axes if axes.axison))
        save(figure, path)

    monkeypatch.setattr(plots, "_save", look)
    assert bench(*QUICK, "--plot", tmp_path / "plot.png", "--timeline", tmp_path / "timeline.png") == 0
    assert covered == [False, False]


def test_without_matplotlib_it_says_how_to_get_it_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench("--plot", tmp_path / "x.png") == 2
    assert "pip install 'slice_ros[plot]'" in capsys.readouterr().err


# ---- options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--rates", "fast"], "--rates is 'fast'; it must list goals a second"),
        (["--rates", "1,0"], "--rates has 0; goals a second must be above 0"),
        (["--rates", "nan"], "--rates has nan"),
        (["--rates", ","], "--rates is empty"),
        (["--rt-share", "70"], "the real-time share is 70.0; it must be from 0 to 1"),
        (["--policies", "slice,magic"], "--policies names 'magic'; there are: "),
        (["--seeds", "0"], "--seeds is 0; it must be 1 or more"),
        (["--duration", "-5"], "--duration is -5 s"),
        (["--max-batch", "0"], "--max-batch is 0"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--bounds-scale", "big"], "--bounds-scale is 'big'; it must be a number above 0, or auto"),
        (["--device", "abacus"], "there is no device profile 'abacus'"),
        (["--workload", "moon"], "there is no workload 'moon'"),
        (["--json", "/no/such/folder/x.json"], "--json is /no/such/folder/x.json; there is no such folder"),
        (["--model", "x.gguf"], "--model is for --engine paced or llama"),
        (["--limit", "--engine", "paced"], "--limit is for --engine simulated"),
        (["--compare-simulated"], "--compare-simulated is for --engine paced or llama"),
        (["--from", "/dev/null"], "/dev/null does not hold rows"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_a_remedy(options, sentence, capsys):
    assert bench(*options) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_missing_model_is_a_failure_not_a_traceback(tmp_path, capsys):
    pytest.importorskip("llama_cpp")
    assert bench("--engine", "llama", "--model", tmp_path / "none.gguf", "--rates", "1") == 1
    assert "none.gguf" in capsys.readouterr().err


def test_llama_cpp_itself_serves_the_traffic_beside_its_simulation(tmp_path):
    pytest.importorskip("llama_cpp")
    from slice_ros.engines.llama.shapes import make_start_model

    make_start_model(tmp_path / "start.gguf")
    path = tmp_path / "rows.json"
    engine = ("--engine", "llama", "--model", tmp_path / "start.gguf", "--threads", "1", "--compare-simulated")
    assert bench(*engine, "--bounds-scale", "auto", "--json", path, "--rates", "1", "--policies", "slice", "--duration", "3") == 0
    real, simulated = read_rows(path)
    assert (real.engine, simulated.engine) == ("llama", "simulated")
    assert real.goals == simulated.goals > 0
    assert real.failed == 0
    assert real.bounds_scale == simulated.bounds_scale >= 1.0


def test_a_run_without_arrivals_is_compared_as_well():
    cases = grid([load_workload("robot-mix")], [0.001], ["slack"], [0], duration_s=0.1)
    real, simulated = compare(cases, RealTime("paced", a_paced_engine(), SMOOTH))
    assert real.goals == simulated.goals == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_processes_end_with_it_and_not_after_their_case(number):
    command = [sys.executable, "-m", "slice_ros.bench", "--duration", "100000", "--rates", "3", "--policies", "slack", "--jobs", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
        deadline_s = time.monotonic() + READY_S
        while len(workers := [pid for pid in children_of(bench.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]) < 2:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        time.sleep(1.0)  # they are in the middle of a case
        bench.send_signal(number)
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_it_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "slice_ros.bench", *QUICK, "--rates", "1"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "SLO attainment" in done.stdout


def test_few_kv_cells_make_a_simulated_device_slower():
    case = Case("fastserve", ROBOT_MIX, 2.0, 0, 60.0)
    few, plenty = (run_case(case, Simulated(SMOOTH, limits={"context_tokens": cells})) for cells in (1000, 32768))
    assert few.e2e_s_mean_be > 1.1 * plenty.e2e_s_mean_be


def test_a_run_in_real_time_is_simulated_with_its_engines_limits():
    engine = PacedEngine(SimulatedEngine(SMOOTH, context_tokens=5000, max_sequences=7, max_step_tokens=99), SMOOTH)
    twin = RealTime("paced", engine, SMOOTH).simulated()
    assert twin.limits == {"context_tokens": 5000, "max_sequences": 7, "max_step_tokens": 99}


# ---- fleets


def test_a_fleet_is_measured_with_the_policies_of_dispatchers(tmp_path):
    path, options = tmp_path / "rows.json", ("--rates", "1", "--seeds", "1", "--duration", "10", "--jobs", "1", "--network", "2,4")
    devices = "rtx4060ti-chatglm2-6b-int4-smooth,2*rtx4060ti-chatglm2-6b-int4-smooth@0.5"
    assert bench("--devices", devices, *options, "--outages", "8,2", "--deaths", "--json", path) == 0
    rows = json.loads(path.read_text())
    assert [row["policy"] for row in rows] == ["deadline", "round-robin", "least-loaded", "best-device-first"]
    assert rows[0]["device"].count("@0.5") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--devices", "x*y"), "[N*]PROFILE[@SPEED]"),
        (("--devices", f"{SMOOTH.device}@0"), "[N*]PROFILE[@SPEED]"),
        (("--devices", SMOOTH.device, "--policies", "slack"), "there are: deadline"),
        (("--devices", SMOOTH.device, "--network", "-1"), "--network"),
        (("--devices", SMOOTH.device, "--outages", "5"), "--outages"),
        (("--devices", SMOOTH.device, "--engine", "paced"), "--engine simulated"),
    ],
)
def test_wrong_options_of_a_fleet_are_named(options, message, capsys):
    assert bench(*options) == 2
    assert message in capsys.readouterr().err
