"""What the node's host and the engine process say to each other, pickled over a socket pair that nobody else holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from slice_ros.goal import ErrorCode, GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.parameters.table import Value
from slice_ros.scheduling.engine import EngineInfo
from slice_ros.scheduling.events import Event


@dataclass(frozen=True, slots=True)
class Start:
    """First command: the checked values of ``parameters.PARAMETERS``."""

    parameters: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Submit:
    request: GoalRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a goal with this error."""

    goal_id: str
    code: ErrorCode = ErrorCode.CANCELED
    message: str = "the goal was canceled"


@dataclass(frozen=True, slots=True)
class Check:
    """What could a goal expect if it were submitted now? A ``Checked`` event answers; ``prompt_tokens`` 0 = count the prompt's own."""

    check_id: str
    request: GoalRequest
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class SetParameters:
    """Go on with other values of live parameters; they have been checked."""

    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Stop:
    """End every goal with SHUTTING_DOWN, then the process."""


Command = Submit | Cancel | Check | SetParameters | Stop


@dataclass(frozen=True, slots=True)
class Ready:
    """First answer: the engine can serve."""

    info: EngineInfo
    latency: LatencyModel


@dataclass(frozen=True, slots=True)
class Failed:
    """Last answer: the engine cannot be built, or something in its process broke; the process ends."""

    message: str


Answer = Ready | Failed | list[Event]
"""``Ready`` comes first, then events; ``Failed`` may come at any time."""


class Status(IntEnum):
    """How an engine process ends by itself. Python takes 1 and 2 for what is not caught, and for arguments."""

    STOPPED = 0
    FAILED = 3
    """It has told why."""
    ABANDONED = 4
    """Nobody is left at the other end of its pipe."""
