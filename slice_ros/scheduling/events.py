"""What the scheduler tells the world, in the order in which it happens: plain data that crosses from the engine process to the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slice_ros.goal import ErrorCode, FinishReason, TokenLogprob, ToolCall
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.admission import Prediction
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.task import SloReport, TaskState


class Progress(NamedTuple):
    """A goal got a token, or several."""

    goal_id: str
    text: str
    report: SloReport
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """A goal's one and only end: with a finish reason, or with an error code and a sentence."""

    goal_id: str
    reason: FinishReason | None
    error_code: ErrorCode
    error_msg: str
    report: SloReport


@dataclass(frozen=True, slots=True)
class MaskSnapshot:
    """The steps taken since the snapshot before, then those the matrix in force still holds.

    Rows of all four sequences and of ``cells`` (int32, shape (rows, columns), values as in ``mask.py``) correspond.
    Slack is infinite without a bound, NaN for a goal that has ended. ``cursor`` is the next step's column: those before it were taken, the
    others are planned.
    """

    goal_ids: tuple[str, ...]
    kinds: tuple[str, ...]
    real_time: tuple[bool, ...]
    slack_s: tuple[float, ...]
    cells: npt.NDArray[np.int32]
    cursor: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The scheduler's state; means are over the time since the snapshot before.

    ``step_s`` is a step's time as measured, then as its plan took it for, then as calibrated. ``tokens_per_step`` is what a goal that gets
    tokens from a step gets; ``drafted_per_step`` is what the goals of a step guess ahead, ``draft_acceptance`` the right share of it. What
    predictions are made from comes last: step times, limits, and goals in hand, the first ones if they are many.
    """

    policy: str
    queued: int
    running: int
    steps: int
    step_s: float
    step_predicted_s: float
    step_calibrated_s: float
    tokens_per_s: float
    tokens_per_step: float
    drafted_per_step: float
    draft_acceptance: float
    kv_used: int
    kv_cached: int
    kv_parked_bytes: int
    kv_total: int
    mask: MaskSnapshot
    latency: LatencyModel
    limits: Limits
    in_hand: tuple[TaskState, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer to ``Scheduler.check``: a prediction, or why there is none."""

    check_id: str
    prediction: Prediction | None
    error_code: ErrorCode = ErrorCode.NONE
    error_msg: str = ""


class Sent(NamedTuple):
    """A dispatcher sent a goal to one of its members, and why to that one."""

    goal_id: str
    member: str
    why: str


Event = Progress | Finished | Checked | Snapshot | Sent
