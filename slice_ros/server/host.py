"""What the server asks of whatever serves its goals: an engine process, or a fleet of other servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from slice_ros.dispatch.member import MemberState
from slice_ros.goal import GoalError, GoalRequest
from slice_ros.parameters.table import Value
from slice_ros.process.host import EngineState
from slice_ros.process.protocol import Ready


class Host(Protocol):
    """Every goal submitted here gets exactly one ``Finished``. The events go to whoever made it.

    ``start`` and ``stop`` may block, and are called on a thread of their own; the others must not.
    """

    @property
    def state(self) -> EngineState: ...

    @property
    def restarts(self) -> int: ...

    @property
    def failure(self) -> str:
        """Why it cannot serve; empty where it can, or nothing is known."""

    @property
    def members(self) -> Sequence[MemberState]:
        """The servers that it passes goals on to, if it does."""

    def start(self) -> Ready:
        """Raises:
        EngineError: it cannot serve.
        """

    def submit(self, request: GoalRequest) -> None: ...

    def cancel(self, goal_id: str, error: GoalError | None = None) -> None:
        """End a goal with CANCELED or another error; one that has ended or is unknown is left as it is."""

    def check(self, check_id: str, request: GoalRequest, prompt_tokens: int = 0) -> None:
        """Ask what a goal could expect now; exactly one ``Checked`` answers. ``prompt_tokens`` 0 = count the prompt's own."""

    def set_parameters(self, values: Mapping[str, Value]) -> None:
        """Go on with other values of live parameters; they have been checked."""

    def stop(self) -> None:
        """End every goal with SHUTTING_DOWN."""
