"""Figures of the server and of this gateway, as Prometheus reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slice_ros.parameters import presets

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
GAUGES = {
    "queued": ("slice_queued_goals", "goals that wait for their first token"),
    "running": ("slice_running_goals", "goals that have begun"),
    "step_ms": ("slice_step_milliseconds", "time of a step, mean since the last status"),
    "step_ratio": ("slice_step_ratio", "measured by calibrated time of steps"),
    "tokens_per_s": ("slice_tokens_per_second", "output tokens"),
    "kv_used": ("slice_kv_used_cells", "KV cells that goals in hand hold"),
    "kv_cached": ("slice_kv_cached_cells", "KV cells that hold beginnings of prompts to come"),
    "kv_total": ("slice_kv_cells", "KV cells there are"),
}
"""Field of a status: name and description."""
CLASS_COUNTERS = {
    "submitted": ("slice_goals_submitted", "goals received"),
    "completed": ("slice_goals_completed", "goals that ended with a result"),
    "failed": ("slice_goals_failed", "goals that ended with an error"),
    "attained": ("slice_goals_attained", "goals that met every bound"),
}
TIMES = {
    "ttft": ("slice_ttft_milliseconds", "time to first token of the latest goals"),
    "tpot": ("slice_tpot_milliseconds", "time per output token of the latest goals"),
    "e2e": ("slice_e2e_milliseconds", "submission to last token of the latest goals"),
}
QUANTILES = {"0.5": "p50", "0.99": "p99"}
CLASSES = {int(kind): name for name, kind in presets.CLASSES.items()}


class Metrics:
    """Args:
    status: the server's latest ``SloStatus``, or ``None``.
    """

    def __init__(self, status: Callable[[], Any]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Server(status))
        self.requests = Counter(
            "slice_gateway_requests", "answered, by route and HTTP status", ["route", "status"], registry=self._registry
        )
        self.hang_ups = Counter("slice_gateway_hang_ups", "clients that left before their answer's end", registry=self._registry)
        self.in_flight = Gauge("slice_gateway_in_flight_requests", "requests whose goals have not ended", registry=self._registry)

    def text(self) -> bytes:
        text: bytes = generate_latest(self._registry)
        return text


class _Server(Collector):
    """What the server says of itself."""

    def __init__(self, status: Callable[[], Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        is_ready = status is not None and status.engine_state == "ready"
        yield GaugeMetricFamily("slice_up", "1 = the server is there and its engine is ready", value=float(is_ready))
        if status is None:
            return
        for field, (name, description) in GAUGES.items():
            value = float(getattr(status, field))
            if not math.isnan(value):
                yield GaugeMetricFamily(name, description, value=value)
        yield CounterMetricFamily("slice_engine_restarts", "engine processes started anew", value=float(status.engine_restarts))
        attainment = GaugeMetricFamily("slice_attainment", "share of the last minute's goals that met their SLO", labels=["class"])
        for name, value in (("real_time", status.attainment_rt), ("best_effort", status.attainment_be)):
            if not math.isnan(value):
                attainment.add_metric([name], value)
        yield attainment
        labels = ["label", "class"]
        for field, (name, description) in CLASS_COUNTERS.items():
            counter = CounterMetricFamily(name, description, labels=labels)
            for kind in status.classes:
                counter.add_metric([kind.label, CLASSES.get(kind.service_class, "")], float(getattr(kind, field)))
            yield counter
        for field, (name, description) in TIMES.items():
            gauge = GaugeMetricFamily(name, description, labels=[*labels, "quantile"])
            for kind in status.classes:
                for quantile, suffix in QUANTILES.items():
                    value = getattr(kind, f"{field}_ms_{suffix}")
                    if not math.isnan(value):
                        gauge.add_metric([kind.label, CLASSES.get(kind.service_class, ""), quantile], value)
            yield gauge
