"""Runs every policy over a grid of traffic, in parallel where time is virtual."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from slice_ros.bench.limit import LIMIT, limit_of
from slice_ros.bench.replay import replay
from slice_ros.bench.rows import Row, measured, percentile
from slice_ros.bench.simulate import Outcome, simulate
from slice_ros.bench.slowness import Slowness
from slice_ros.bench.workload import Arrival, Workload
from slice_ros.latency.fit import Step, fit_mean_latency
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.engine import Engine
from slice_ros.scheduling.policies import make_policy

ALONE_ATTAINMENT = 0.99
"""What each class must attain alone for the bounds to fit the device."""


@dataclass(frozen=True, slots=True)
class Case:
    """One policy over one stretch of traffic, or what no policy can exceed on it; fields as in ``Row``."""

    policy: str
    workload: Workload
    rate_hz: float
    seed: int
    duration_s: float
    bounds_scale: float = 1.0
    rt_alone: bool = False

    def traffic(self) -> list[Arrival]:
        """Its goals."""
        arrivals = self.workload.with_bounds_scaled(self.bounds_scale).traffic(self.rate_hz, self.duration_s, self.seed)
        return [a for a in arrivals if a.request.slo.is_real_time] if self.rt_alone else arrivals


class Runner(Protocol):
    """Serves traffic."""

    @property
    def engine(self) -> str: ...

    @property
    def device(self) -> str: ...

    def run(self, arrivals: Sequence[Arrival], policy: str) -> list[Outcome]:
        """One outcome per arrival, in order of arrival, under the policy of that name."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Serves traffic on a virtual clock. Plain data: it can go to another process.

    Args:
        latency: predicts the steps.
        actual: what they really take, if not that.
        slowness, limits: as ``simulate`` takes them.
    """

    latency: LatencyModel
    max_batch: int = 16
    actual: LatencyModel | None = None
    slowness: Slowness | None = None
    limits: Mapping[str, int] | None = None

    engine = "simulated"

    @property
    def device(self) -> str:
        return self.latency.device

    def run(self, arrivals: Sequence[Arrival], policy: str) -> list[Outcome]:
        return simulate(
            arrivals,
            make_policy(policy),
            self.latency,
            max_batch=self.max_batch,
            actual=self.actual,
            slowness=self.slowness,
            limits=self.limits,
        )


@dataclass(frozen=True, slots=True)
class RealTime:
    """Serves traffic in real time.

    Args:
        engine: what it is called: ``llama`` or ``paced``.
        inner: computes the steps.
        latency: predicts them.
        steps: those of the latest run.
    """

    engine: str
    inner: Engine
    latency: LatencyModel
    max_batch: int = 16
    steps: list[Step] = field(default_factory=list)

    @property
    def device(self) -> str:
        return self.inner.info.device

    def run(self, arrivals: Sequence[Arrival], policy: str) -> list[Outcome]:
        self.steps.clear()
        return replay(arrivals, make_policy(policy), self.inner, self.latency, max_batch=self.max_batch, on_step=self.steps.append)

    def simulated(self) -> Simulated:
        """A simulator with the engine's limits that plans as the latest run did, and whose steps take what they took there, if any did.

        That is one fit to all of them, times how slow the machine was in each second.
        """
        limits = {name: getattr(self.inner.info, name) for name in ("context_tokens", "max_sequences", "max_step_tokens")}
        if not self.steps:
            return Simulated(self.latency, self.max_batch, limits=limits)
        actual = fit_mean_latency(self.device, self.steps)
        return Simulated(self.latency, self.max_batch, actual, Slowness.of(self.steps, actual), limits)


def grid(
    workloads: Sequence[Workload],
    rates_hz: Sequence[float],
    policies: Sequence[str],
    seeds: Sequence[int],
    *,
    duration_s: float,
    bounds_scale: float = 1.0,
    rt_alone: bool = False,
) -> list[Case]:
    """Every combination; with ``rt_alone`` each one a second time without its best-effort goals."""
    return [
        Case(policy, workload, rate_hz, seed, duration_s, bounds_scale, alone)
        for workload, rate_hz, policy, seed, alone in itertools.product(
            workloads, rates_hz, policies, seeds, (False, True) if rt_alone else (False,)
        )
    ]


def run_case(case: Case, runner: Runner) -> Row:
    """Serve one case's traffic and measure; or compute the limit, which takes a simulated device."""
    began = time.perf_counter()
    if case.policy == LIMIT:
        assert isinstance(runner, Simulated)
        return _limit_row(case, runner, began)
    outcomes = runner.run(case.traffic(), case.policy)
    return row_of(case, runner.engine, runner.device, outcomes, time.perf_counter() - began)


def row_of(case: Case, engine: str, device: str, outcomes: Sequence[Outcome], wall_s: float) -> Row:
    """What became of one case's goals, served in ``wall_s``."""
    return _row(case, engine, device, measured(outcomes), wall_s)


def _limit_row(case: Case, runner: Simulated, began: float) -> Row:
    """What no schedule can exceed, of all goals, and of each class if there were no others."""
    arrivals = case.traffic()
    classes = {True: "attainment_rt", False: "attainment_be"}
    limits = {"attainment": limit_of(arrivals, runner.latency, runner.max_batch)}
    for is_real_time, name in classes.items():
        its = [arrival for arrival in arrivals if arrival.request.slo.is_real_time is is_real_time]
        limits[name] = limit_of(its, runner.latency, runner.max_batch)
    figures = measured([]) | {"goals": len(arrivals)} | limits
    return _row(case, runner.engine, runner.device, figures, time.perf_counter() - began)


def _row(case: Case, engine: str, device: str, figures: Mapping[str, Any], wall_s: float) -> Row:
    return Row(
        policy=case.policy,
        engine=engine,
        device=device,
        workload=case.workload.name,
        rate_hz=case.rate_hz,
        rt_share=round(case.workload.rt_share, 6),
        seed=case.seed,
        duration_s=case.duration_s,
        rt_alone=case.rt_alone,
        bounds_scale=case.bounds_scale,
        wall_s=round(wall_s, 3),
        **figures,
    )


def sweep(cases: Sequence[Case], runner: Runner, *, jobs: int = 1, on_row: Callable[[Row], None] = lambda _: None) -> list[Row]:
    """Run all cases.

    Args:
        jobs: processes; more than one needs a runner on a virtual clock.
        on_row: called with each row as it is done.

    Returns:
        One row per case, in order.
    """
    rows: dict[int, Row] = {}
    for index, row in _rows(cases, runner, jobs):
        rows[index] = row
        on_row(row)
    return [rows[index] for index in range(len(cases))]


def compare(cases: Sequence[Case], runner: RealTime, *, on_row: Callable[[Row], None] = lambda _: None) -> list[Row]:
    """Run each case in real time, then once more in the simulator, with the step times that the run had.

    Returns:
        Two rows per case: real time, simulated.
    """
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        on_row(row)

    for case in cases:
        add(run_case(case, runner))
        add(run_case(case, runner.simulated()))
    return rows


def _rows(cases: Sequence[Case], runner: Runner, jobs: int) -> Iterator[tuple[int, Row]]:
    if jobs <= 1:
        for index, case in enumerate(cases):
            yield index, run_case(case, runner)
        return
    # A forked child would inherit the locks that the terminal's progress bar happens to hold.
    with ProcessPoolExecutor(min(jobs, len(cases)), multiprocessing.get_context("spawn"), _end_with_parent) as pool:
        futures = {pool.submit(partial(run_case, runner=runner), case): index for index, case in enumerate(cases)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """See to it that this process goes when the one that started it is gone, however that ended, and not after its case."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def fitting_bounds_scale(workload: Workload, latency: LatencyModel) -> float:
    """The factor on all bounds (1 or more, in quarters) with which 0.99 of each class's goals meet them, each served alone."""
    return max(
        max(1.0, math.ceil(4.0 * _needed_scale(workload.only(kind.label), latency)) / 4.0) for kind in workload.classes if kind.share
    )


def _needed_scale(workload: Workload, latency: LatencyModel) -> float:
    """What the bounds must be multiplied with for ``ALONE_ATTAINMENT`` of the goals, each served alone."""
    scales = []
    for arrival in workload.traffic(1.0, 200.0, seed=0):
        report, slo = simulate([arrival], make_policy("orca"), latency)[0].report, arrival.request.slo
        pairs = ((report.ttft_s, slo.ttft_s), (report.tpot_s, slo.tpot_s), (report.e2e_s, slo.deadline_s))
        scales.append(max((took_s / bound_s for took_s, bound_s in pairs if bound_s is not None and took_s >= 0.0), default=1.0))
    return percentile(scales, 100.0 * ALONE_ATTAINMENT)
