"""The clock that SLOs count in: real time, or a simulation's (``use_sim_time``), which may be slower or faster, pause, or begin anew."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace

from rclpy.node import Node

from slice_ros.goal import GoalRequest
from slice_ros.ros.conversions import TIMES
from slice_ros.scheduling.task import SloReport
from slice_ros.slo import LONGEST_BOUND_S, Slo

LOOK_PERIOD_S = 0.1
WINDOW_S = 2.0
"""The rate of a clock is that of the latest two seconds."""
LEAP_S = 1.0
QUICKEST = 50.0
"""A clock that goes on by more than a second and fifty times real time has made a step."""


class SloClock:
    """Tells how many seconds of a goal's SLO pass in a second of real time.

    The engine knows real time alone. So a goal's bounds are converted when it is submitted, by the rate that the clock has then, and what
    it experiences is converted back by the same rate. While the clock stands still no bound can be missed. What it does later changes
    nothing for the goals in hand; after a step its rate is measured anew, and until then is what it was.

    Args:
        node: whose clock it is.
        kind: ``real`` or ``ros`` (parameter ``slo.clock``).
    """

    def __init__(self, node: Node, kind: str) -> None:
        self._node = node
        self._is_real = kind == "real"
        self._looks: deque[tuple[float, float]] = deque()
        self.rate = 1.0
        """Seconds of the clock in a second of real time; 0 while it stands still, 1 until it has been seen to run."""

    def look(self) -> None:
        """To be called every ``LOOK_PERIOD_S``."""
        if self._is_real:
            return
        now_s, ros_s = time.monotonic(), self._node.get_clock().now().nanoseconds * 1e-9
        if ros_s == 0.0:
            return  # there is no clock yet
        if self._looks:
            before_s, before_ros_s = self._looks[-1]
            if not 0.0 <= ros_s - before_ros_s <= LEAP_S + QUICKEST * (now_s - before_s):
                self._looks.clear()  # a step, or the clock's first message
        self._looks.append((now_s, ros_s))
        while len(self._looks) > 2 and now_s - self._looks[0][0] > WINDOW_S:
            self._looks.popleft()
        if len(self._looks) > 1:
            (begin_s, begin_ros_s), (end_s, end_ros_s) = self._looks[0], self._looks[-1]
            self.rate = (end_ros_s - begin_ros_s) / (end_s - begin_s)


def in_real_time(request: GoalRequest, rate: float) -> GoalRequest:
    """A goal with bounds in seconds of real time, from one with bounds of a clock of this rate."""
    if rate == 1.0:
        return request
    return replace(request, slo=_slo(request.slo, rate), chain_deadline_s=_bound(request.chain_deadline_s, rate))


def in_clock_time(report: SloReport, rate: float) -> SloReport:
    """What a goal experienced, in seconds of a clock of this rate; of one that stood still, in real time."""
    if rate in (0.0, 1.0):
        return report
    return report._replace(**{name: getattr(report, name) * rate for name in TIMES})


def _slo(slo: Slo, rate: float) -> Slo:
    return replace(slo, ttft_s=_bound(slo.ttft_s, rate), tpot_s=_bound(slo.tpot_s, rate), deadline_s=_bound(slo.deadline_s, rate))


def _bound(bound_s: float | None, rate: float) -> float | None:
    if bound_s is None:
        return None
    return min(bound_s / rate, LONGEST_BOUND_S) if rate > 0.0 else LONGEST_BOUND_S
