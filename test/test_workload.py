"""Traffic is what the workload file says, the same for the same seed; a bad file is refused with its line."""

import itertools
import random
import statistics

import pytest

from slice_ros.bench.workload import Bursty, Lognormal, Periodic, Poisson, Uniform, WorkloadError
from slice_ros.bench.workload_file import load_workload, workload_names
from slice_ros.slo import BestEffort, OnMiss, RealTime

HEAD = "classes:\n  - label: control\n"
REST = "    share: 1\n    service_class: real_time\n    deadline_s: 1\n    output_tokens: [12, 25]\n    prompt_tokens: 32\n"


@pytest.fixture
def load(tmp_path):
    def load_text(text):
        path = tmp_path / "my.yaml"
        path.write_text(text)
        return load_workload(str(path))

    return load_text


# ---- traffic


def test_robot_mix_is_the_published_mix():
    control, voice, qa = load_workload("robot-mix").classes
    assert (control.slo, control.output_tokens, control.prompt_tokens) == (
        RealTime(tpot_ms=50, deadline_s=1.5, on_miss=OnMiss.CONTINUE), Uniform(12, 25), Uniform(32, 96)
    )  # fmt: skip
    assert (voice.slo, voice.output_tokens, voice.prompt_tokens) == (
        BestEffort(ttft_ms=1000, tpot_ms=125, on_miss=OnMiss.CONTINUE), Uniform(40, 120), Uniform(32, 128)
    )  # fmt: skip
    assert (qa.slo, qa.output_tokens, qa.prompt_tokens) == (
        BestEffort(ttft_ms=1000, tpot_ms=100, on_miss=OnMiss.CONTINUE), Uniform(60, 200), Uniform(64, 512)
    )  # fmt: skip
    assert [kind.share for kind in (control, voice, qa)] == [0.7, 0.15, 0.15]


@pytest.mark.parametrize("name", workload_names())
def test_every_workload_of_the_package_gives_the_rate_asked_for(name):
    traffic = load_workload(name).traffic(0.5, 10_000.0, seed=1)
    assert len(traffic) == pytest.approx(5000, rel=0.15)
    assert [a.time_s for a in traffic] == sorted(a.time_s for a in traffic)
    assert len({a.request.goal_id for a in traffic}) == len(traffic)


def test_the_same_seed_gives_the_same_traffic_another_seed_another():
    workload = load_workload("robot-mix")
    assert workload.traffic(1.0, 100.0, seed=3) == workload.traffic(1.0, 100.0, seed=3)
    assert workload.traffic(1.0, 100.0, seed=3) != workload.traffic(1.0, 100.0, seed=4)


def test_no_goal_tells_its_true_length():
    for arrival in load_workload("robot-mix").traffic(1.0, 200.0, seed=0):
        assert arrival.request.max_tokens == {"control": 25, "voice": 120, "qa": 200}[arrival.request.label]
        assert arrival.lengths.output_tokens <= arrival.request.max_tokens


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_another_real_time_share_keeps_the_proportions_within_a_service_class(share):
    workload = load_workload("robot-mix").with_rt_share(share)
    assert workload.rt_share == pytest.approx(share)
    assert workload.classes[1].share == pytest.approx(workload.classes[2].share)
    traffic = workload.traffic(5.0, 400.0, seed=0)
    assert sum(a.request.slo.is_real_time for a in traffic) / len(traffic) == pytest.approx(share, abs=0.05)


def test_a_share_out_of_range_or_for_a_class_that_is_not_there_is_refused():
    workload = load_workload("robot-mix")
    with pytest.raises(WorkloadError, match=r"share is 1\.5; it must be from 0 to 1"):
        workload.with_rt_share(1.5)
    with pytest.raises(WorkloadError, match=r"no real-time class to give a share of 0\.5 to"):
        workload.only("voice").with_rt_share(0.5)


def test_scaled_bounds_leave_the_goals_alone():
    workload = load_workload("robot-mix")
    for before, after in zip(workload.traffic(1, 50, 0), workload.with_bounds_scaled(2.0).traffic(1, 50, 0), strict=True):
        assert (after.time_s, after.lengths) == (before.time_s, before.lengths)
        for name in ("ttft_s", "tpot_s", "deadline_s"):
            bound = getattr(before.request.slo, name)
            assert getattr(after.request.slo, name) == (bound and 2 * bound)


def times_s(process, rate_hz, n, seed=0):
    return [t for t, _ in zip(process.times_s(random.Random(seed), rate_hz), range(n), strict=False)]


def variation(times):
    gaps = [b - a for a, b in itertools.pairwise(times)]
    return statistics.stdev(gaps) / statistics.mean(gaps)


def test_arrival_processes_differ_in_how_even_they_are_not_in_their_rate():
    processes = {"periodic": Periodic(), "poisson": Poisson(), "bursty": Bursty()}
    times = {name: times_s(process, 4.0, 20_000) for name, process in processes.items()}
    for name, its_times in times.items():
        assert len(its_times) / its_times[-1] == pytest.approx(4.0, rel=0.1), name
    assert variation(times["periodic"]) < 1e-6
    assert variation(times["poisson"]) == pytest.approx(1.0, abs=0.05)
    assert variation(times["bursty"]) > 2.0


def test_jitter_moves_a_periodic_goal_by_a_share_of_its_period():
    times = times_s(Periodic(jitter=0.1), 2.0, 1000)
    phase = times_s(Periodic(), 2.0, 1000)
    offsets = [abs(t - p) for t, p in zip(times, phase, strict=True)]
    assert 0.03 < max(offsets) <= 0.05 + 1e-9


def test_a_class_may_have_a_process_of_its_own(load):
    workload = load(
        "classes:\n"
        "  - {label: tick, share: 3, service_class: real_time, deadline_s: 1, output_tokens: 5, prompt_tokens: 8, arrivals: periodic}\n"
        "  - {label: talk, share: 1, service_class: best_effort, output_tokens: 5, prompt_tokens: 8}\n"
    )
    traffic = workload.traffic(4.0, 500.0, seed=0)
    ticks = [a.time_s for a in traffic if a.request.label == "tick"]
    assert len(ticks) == pytest.approx(1500, abs=1)  # 3 of 4 Hz, like a clock
    assert variation(ticks) < 1e-6
    assert len(traffic) - len(ticks) == pytest.approx(500, rel=0.15)


def test_lognormal_lengths_have_their_median_and_never_exceed_their_maximum():
    rng = random.Random(0)
    values = [Lognormal(60, 0.8, 400).draw(rng) for _ in range(4000)]
    assert statistics.median(values) == pytest.approx(60, rel=0.05)
    assert min(values) >= 1
    assert max(values) == 400


# ---- files


def test_everything_the_schema_offers_can_be_said(load):
    workload = load(
        """\
description: all of it
arrivals: {bursty: {burst_s: 1, silence_s: 3}}
classes:
  - label: a
    share: 2
    service_class: real_time
    ttft_ms: 200
    tpot_ms: 50
    deadline_s: 1.5
    utility: 7
    on_miss: abort
    max_tokens: 64
    output_tokens: {lognormal: {median: 20, sigma: 0.5, max: 60}}
    prompt_tokens: {choice: [16, 512]}
    arrivals: {periodic: {jitter: 0.2}}
  - {label: b, share: 1, service_class: best_effort, output_tokens: 5, prompt_tokens: [1, 2], arrivals: {poisson: {}}}
"""
    )
    a, b = workload.classes
    assert workload.name == "my"
    assert workload.arrivals == Bursty(1, 3)
    assert a.slo == RealTime(ttft_ms=200, tpot_ms=50, deadline_s=1.5, utility=7, on_miss=OnMiss.ABORT)
    assert (a.max_tokens, a.arrivals, b.arrivals, b.output_tokens) == (64, Periodic(0.2), Poisson(), Uniform(5, 5))
    assert {arrival.lengths.prompt_tokens for arrival in workload.only("a").traffic(1, 50, 0)} == {16, 512}


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("", 1, "the file is empty"),
        ("classes: [", 1, "not YAML"),
        ("=", 1, "'=' is no value: could not determine a constructor"),
        ("arrivals: poisson\nclasses: 2001-13-01\n", 2, "'2001-13-01' is no value: month must be in 1..12"),
        ("- a\n", 1, "the workload is ['a']; it must be a mapping"),
        ("arrivals: poisson\n", 1, "the workload has no classes; add it"),
        ("classes: []\n", 1, "no class with a share above 0"),
        ("classes: 3\n", 1, "classes is 3; it must be a list"),
        ("arrivals: often\n" + HEAD + REST, 1, "arrivals is 'often'; it must be one of poisson, periodic, bursty"),
        ("arrivals:\n  bursty:\n    burst_s: 0\n" + HEAD + REST, 2, "burst_s is 0.0"),
        ("colour: red\n" + HEAD + REST, 1, "unknown key 'colour'"),
        (HEAD + REST.replace("share: 1", "share: -1"), 2, "share of class 'control' is -1.0"),
        (HEAD + REST.replace("share: 1", "share: lots"), 3, "share is 'lots'; it must be a number"),
        (HEAD + REST.replace("    share: 1\n", ""), 2, "a class has no share; add it"),
        (HEAD + REST.replace("real_time", "urgent"), 4, "service_class is 'urgent'; it must be one of real_time, best_effort"),
        (HEAD + REST.replace("    deadline_s: 1\n", ""), 2, "a real-time SLO has no bound"),
        (HEAD + REST.replace("deadline_s: 1", "deadline_s: 0"), 2, "deadline is 0.0 s"),
        (HEAD + REST.replace("[12, 25]", "[25, 12]"), 6, "the range of tokens is [25, 12]; it must rise"),
        (HEAD + REST.replace("[12, 25]", "[12]"), 6, "a range has two ends"),
        (HEAD + REST.replace("[12, 25]", "many"), 6, "output_tokens is 'many'; it must be a whole number"),
        (HEAD + REST.replace("[12, 25]", "{normal: 3}"), 6, "unknown key 'normal'; known are choice, lognormal"),
        (HEAD + REST.replace("[12, 25]", "{lognormal: {median: 9, sigma: 0, max: 20}}"), 6, "lognormal has median 9.0, sigma 0.0"),
        (HEAD + REST + "    tpot: 50\n", 8, "unknown key 'tpot'"),
        (HEAD + REST + "    share: 2\n", 8, "share twice"),
        (HEAD + REST + "  - label: control\n" + REST, 2, "more than one class 'control'"),
    ],
)
def test_a_bad_file_is_refused_with_file_and_line(load, text, line, sentence):
    with pytest.raises(WorkloadError) as caught:
        load(text)
    place, _, said = str(caught.value).partition(": ")
    assert place.endswith(f"my.yaml:{line}"), str(caught.value)
    assert sentence in said


def test_an_unknown_workload_names_those_that_exist():
    with pytest.raises(WorkloadError, match=r"no workload 'moon'; there are: .*robot-mix"):
        load_workload("moon")
