"""What one run of one policy over one stretch of traffic showed: the rows of the benchmark's JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from slice_ros.bench.simulate import Outcome, attainment
from slice_ros.scheduling.task import SloReport

STUDENT_T = (4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09, 2.09)
"""The 97.5 % quantile of Student's t with 2, 3, ... degrees of freedom; beyond them the last one is a little too cautious."""
WITHIN = 0.2
"""A predicted completion counts as right when it is off by this share of the true one at most."""


class RowsError(ValueError):
    """A file does not hold a benchmark's rows."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class of goals: how many, share that met every bound, completion of those that completed (mean, median, 99th percentile).

    And, as in :class:`Row`, how late those are that missed a bound, and how long the longest wait was.
    """

    goals: int
    attainment: float
    e2e_s_mean: float
    e2e_s_p50: float
    e2e_s_p99: float
    late_s_p50: float = math.nan
    late_s_p99: float = math.nan
    ttft_s_max: float = math.nan


@dataclass(frozen=True, slots=True)
class Row:
    """One run. NaN (``null`` in JSON) where there was nothing to measure.

    Args:
        policy: its name; or ``limit``: then ``attainment`` and its parts are what no schedule could exceed, and nothing else is known.
        engine: ``simulated``, ``paced`` or ``llama``.
        device: whose step times.
        workload: its name.
        rate_hz: goals a second.
        rt_share: share of real-time goals in the workload, 0 to 1.
        seed: of the traffic.
        duration_s: how long goals arrived; every one is then served to its end.
        rt_alone: best-effort goals were taken out of the traffic; ``rate_hz`` and ``rt_share`` are those from before.
        bounds_scale: factor on all SLO bounds of the workload.
        goals: submitted.
        attainment: goals that met every bound they asked for, of all submitted; ``_rt`` and ``_be`` of real-time and best-effort ones.
        e2e_s_mean_rt: mean completion time, submission to last token, of completed goals.
        ttft_ms_p50_rt: submission to first token, median.
        tpot_ms_p99_rt: mean gap between tokens, 99th percentile.
        prediction_within_20pct: completed goals whose completion was predicted within 20 % at submission, of those with a prediction.
        missed_ttft: goals whose first token came too late; a goal can miss several bounds.
        failed: goals that did not complete.
        wall_s: time the run took.
        classes: by label.
        late_s_p50, late_s_p99: by how much goals that completed and missed a bound exceeded it, median and 99th percentile; the TPOT is
            exceeded by how much the last token came later than it allows.
        ttft_s_max: the longest wait of a goal for its first token.
    """

    policy: str
    engine: str
    device: str
    workload: str
    rate_hz: float
    rt_share: float
    seed: int
    duration_s: float
    rt_alone: bool
    bounds_scale: float
    goals: int
    attainment: float
    attainment_rt: float
    attainment_be: float
    e2e_s_mean_rt: float
    e2e_s_mean_be: float
    ttft_ms_p50_rt: float
    ttft_ms_p99_rt: float
    tpot_ms_p99_rt: float
    prediction_within_20pct: float
    missed_ttft: int
    missed_tpot: int
    missed_deadline: int
    failed: int
    wall_s: float
    classes: dict[str, ClassRow] = field(default_factory=dict)
    late_s_p50: float = math.nan
    late_s_p99: float = math.nan
    ttft_s_max: float = math.nan


def measured(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The fields of a ``Row`` that follow from what became of the goals."""
    rt = [o for o in outcomes if o.is_real_time]
    be = [o for o in outcomes if not o.is_real_time]
    done = [o.report for o in outcomes if o.completed]
    rt_done = [o.report for o in rt if o.completed]
    labels = dict.fromkeys(o.arrival.request.kind for o in outcomes)
    return {
        "goals": len(outcomes),
        "attainment": attainment(outcomes),
        "attainment_rt": attainment(rt),
        "attainment_be": attainment(be),
        "e2e_s_mean_rt": mean([r.e2e_s for r in rt_done]),
        "e2e_s_mean_be": mean([o.report.e2e_s for o in be if o.completed]),
        "ttft_ms_p50_rt": percentile([r.ttft_s * 1e3 for r in rt_done], 50),
        "ttft_ms_p99_rt": percentile([r.ttft_s * 1e3 for r in rt_done], 99),
        "tpot_ms_p99_rt": percentile([r.tpot_s * 1e3 for r in rt_done if r.output_tokens > 1], 99),
        "prediction_within_20pct": mean([float(_predicted(r)) for r in done if not math.isnan(r.predicted_e2e_s)]),
        "missed_ttft": sum(not r.ttft_met for r in done),
        "missed_tpot": sum(not r.tpot_met for r in done),
        "missed_deadline": sum(not r.deadline_met for r in done),
        "failed": len(outcomes) - len(done),
        "classes": {label: _class_row([o for o in outcomes if o.arrival.request.kind == label]) for label in sorted(labels)},
        **_lateness(outcomes),
    }


def _class_row(outcomes: Sequence[Outcome]) -> ClassRow:
    e2e_s = [o.report.e2e_s for o in outcomes if o.completed]
    times_s = mean(e2e_s), percentile(e2e_s, 50), percentile(e2e_s, 99)
    return ClassRow(len(outcomes), attainment(outcomes), *times_s, **_lateness(outcomes))


def _lateness(outcomes: Sequence[Outcome]) -> dict[str, float]:
    late_s = [lateness_s(o) for o in outcomes if o.completed and not o.report.attained]
    waits_s = [o.report.ttft_s for o in outcomes if not math.isnan(o.report.ttft_s)]
    return {"late_s_p50": percentile(late_s, 50), "late_s_p99": percentile(late_s, 99), "ttft_s_max": max(waits_s, default=math.nan)}


def lateness_s(outcome: Outcome) -> float:
    """By how much a goal that completed exceeded the bound that it exceeded most; 0 if it met them all."""
    slo, report = outcome.arrival.request.slo, outcome.report
    gaps = report.output_tokens - 1
    pairs = [(report.ttft_s, slo.ttft_s), (report.e2e_s, slo.deadline_s)]
    if gaps > 0 and slo.tpot_s is not None:
        pairs.append((report.tpot_s * gaps, slo.tpot_s * gaps))
    return max([0.0, *(took_s - bound_s for took_s, bound_s in pairs if bound_s is not None)])


def _predicted(report: SloReport) -> bool:
    return abs(report.predicted_e2e_s - report.e2e_s) <= WITHIN * report.e2e_s


def mean(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` % of all do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100.0 * len(values)) - 1)]


def confidence(values: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of the mean of values that are drawn independently (Student's t); NaN of fewer than three."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 3:
        return math.nan
    t = STUDENT_T[min(len(known) - 3, len(STUDENT_T) - 1)]
    return t * statistics.stdev(known) / math.sqrt(len(known))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a JSON list, one row a line.

    Raises:
        OSError: the file cannot be written.
    """
    lines = [json.dumps(_without_nan(asdict(row)), allow_nan=False) for row in rows]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Read what ``write_rows`` wrote.

    Raises:
        RowsError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {f.name for f in fields(Row)}
        return [_row({name: value for name, value in entry.items() if name in names}) for entry in content]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RowsError(f"{path} does not hold rows of this benchmark ({error}); give a file written with --json") from error


def _row(entry: dict[str, Any]) -> Row:
    classes = {label: ClassRow(**_with_nan(values)) for label, values in entry.pop("classes").items()}
    return Row(**_with_nan(entry), classes=classes)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in entry.items()}
