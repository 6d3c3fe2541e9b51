"""The service level objective (SLO) a goal carries: its class, its bounds, and what to do when they are missed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum


class SloError(ValueError):
    """An SLO contradicts itself or has a value out of range."""


class ServiceClass(IntEnum):
    """Numbered as in ``msg/Slo.msg``."""

    BEST_EFFORT = 0
    REAL_TIME = 1


class OnMiss(IntEnum):
    """What becomes of a goal once its SLO cannot be met any more; numbered as in ``msg/Slo.msg``."""

    DEFAULT = 0
    """ABORT for real-time goals, whose late answer nobody should follow, CONTINUE for best-effort ones."""
    ABORT = 1
    CONTINUE = 2


DEFAULT_UTILITY = {ServiceClass.REAL_TIME: 100.0, ServiceClass.BEST_EFFORT: 1.0}
"""Utility U of a class in the SLICE paper's reference implementation."""

LONGEST_BOUND_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds in seconds; ``None`` is no bound.

    Args:
        service_class: real-time goals are served before best-effort ones.
        ttft_s: submission to first output token.
        tpot_s: mean gap between output tokens.
        deadline_s: submission to last output token.
        utility: weight against goals of the same class; ``None`` takes the class default.
        on_miss: what to do once the SLO cannot be met any more.

    Raises:
        SloError: a bound is not a positive time up to a day, the utility is not positive, or a real-time SLO has no bound.
    """

    service_class: ServiceClass = ServiceClass.BEST_EFFORT
    ttft_s: float | None = None
    tpot_s: float | None = None
    deadline_s: float | None = None
    utility: float | None = None
    on_miss: OnMiss = OnMiss.DEFAULT

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "deadline_s"):
            bound = getattr(self, name)
            if bound is not None and not (math.isfinite(bound) and 0.0 < bound <= LONGEST_BOUND_S):
                raise SloError(f"{name[:-2]} is {bound} s; it must be above 0 and at most {LONGEST_BOUND_S:.0f} s, or absent for no bound")
        if self.utility is not None and not (math.isfinite(self.utility) and self.utility > 0.0):
            raise SloError(f"utility is {self.utility}; it must be a finite number above 0, or absent for the class default")
        if self.is_real_time and not self.has_bound:
            raise SloError("a real-time SLO has no bound; give ttft, tpot or deadline, or make it best-effort")
        if self.ttft_s is not None and self.deadline_s is not None and self.ttft_s > self.deadline_s:
            raise SloError(
                f"ttft is {self.ttft_s} s, which is after the deadline of {self.deadline_s} s; the first token cannot be due after the last"
            )

    @property
    def is_real_time(self) -> bool:
        return self.service_class is ServiceClass.REAL_TIME

    @property
    def ends_on_miss(self) -> bool:
        """Whether the goal is ended once its SLO cannot be met any more."""
        return self.on_miss is OnMiss.ABORT or (self.on_miss is OnMiss.DEFAULT and self.is_real_time)

    @property
    def has_bound(self) -> bool:
        return not (self.ttft_s is None and self.tpot_s is None and self.deadline_s is None)

    @property
    def weight(self) -> float:
        """Utility U, with the class default where none was given."""
        return DEFAULT_UTILITY[self.service_class] if self.utility is None else self.utility


def RealTime(  # noqa: N802 - reads as a type at the call site: slo=RealTime(deadline_s=1.5, tpot_ms=50)
    *,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    deadline_s: float | None = None,
    utility: float | None = None,
    on_miss: OnMiss = OnMiss.DEFAULT,
) -> Slo:
    """A real-time SLO; at least one bound is needed. A goal that cannot meet it any more ends at once, unless ``on_miss`` is CONTINUE."""
    return Slo(ServiceClass.REAL_TIME, _s(ttft_ms), _s(tpot_ms), deadline_s, utility, on_miss)


def BestEffort(  # noqa: N802
    *,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    deadline_s: float | None = None,
    utility: float | None = None,
    on_miss: OnMiss = OnMiss.DEFAULT,
) -> Slo:
    """A best-effort SLO; without bounds it is served in what time is left."""
    return Slo(ServiceClass.BEST_EFFORT, _s(ttft_ms), _s(tpot_ms), deadline_s, utility, on_miss)


def _s(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000.0
