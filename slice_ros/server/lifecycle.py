"""Managed nodes whose transitions are coroutines: a node goes on serving while one of them takes its time.

Others drive them through services, as ``ros2 lifecycle`` and Nav2's lifecycle manager do; states, transitions, ids and labels are
rcl_lifecycle's (design: https://design.ros2.org/articles/node_lifecycle.html). rclpy's own ``LifecycleNode`` would stand still during a
transition, and end when asked for one that is not possible.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from lifecycle_msgs.msg import State, Transition, TransitionDescription, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

_LABELS = {
    State.PRIMARY_STATE_UNKNOWN: "unknown",
    State.PRIMARY_STATE_UNCONFIGURED: "unconfigured",
    State.PRIMARY_STATE_INACTIVE: "inactive",
    State.PRIMARY_STATE_ACTIVE: "active",
    State.PRIMARY_STATE_FINALIZED: "finalized",
    State.TRANSITION_STATE_CONFIGURING: "configuring",
    State.TRANSITION_STATE_CLEANINGUP: "cleaningup",
    State.TRANSITION_STATE_SHUTTINGDOWN: "shuttingdown",
    State.TRANSITION_STATE_ACTIVATING: "activating",
    State.TRANSITION_STATE_DEACTIVATING: "deactivating",
    State.TRANSITION_STATE_ERRORPROCESSING: "errorprocessing",
}
_SUCCESS, _FAILURE, _ERROR = "transition_success", "transition_failure", "transition_error"


class TransitionError(Exception):
    """A transition failed; the sentence says why."""


class _Edge(NamedTuple):
    """One transition: id, label, and the states it leads from and to."""

    id: int
    label: str
    start: int
    goal: int


def _requests() -> tuple[_Edge, ...]:
    """What others may ask for."""
    unconfigured, inactive, active = State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE
    return (
        _Edge(Transition.TRANSITION_CONFIGURE, "configure", unconfigured, State.TRANSITION_STATE_CONFIGURING),
        _Edge(Transition.TRANSITION_CLEANUP, "cleanup", inactive, State.TRANSITION_STATE_CLEANINGUP),
        _Edge(Transition.TRANSITION_ACTIVATE, "activate", inactive, State.TRANSITION_STATE_ACTIVATING),
        _Edge(Transition.TRANSITION_DEACTIVATE, "deactivate", active, State.TRANSITION_STATE_DEACTIVATING),
        _Edge(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, "shutdown", unconfigured, State.TRANSITION_STATE_SHUTTINGDOWN),
        _Edge(Transition.TRANSITION_INACTIVE_SHUTDOWN, "shutdown", inactive, State.TRANSITION_STATE_SHUTTINGDOWN),
        _Edge(Transition.TRANSITION_ACTIVE_SHUTDOWN, "shutdown", active, State.TRANSITION_STATE_SHUTTINGDOWN),
    )


def _outcomes() -> tuple[_Edge, ...]:
    """How what was asked for ends."""
    unconfigured, inactive, active, finalized = range(State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_FINALIZED + 1)
    error = State.TRANSITION_STATE_ERRORPROCESSING
    table = (
        (Transition.TRANSITION_ON_CONFIGURE_SUCCESS, State.TRANSITION_STATE_CONFIGURING, (inactive, unconfigured, error)),
        (Transition.TRANSITION_ON_CLEANUP_SUCCESS, State.TRANSITION_STATE_CLEANINGUP, (unconfigured, inactive, error)),
        (Transition.TRANSITION_ON_ACTIVATE_SUCCESS, State.TRANSITION_STATE_ACTIVATING, (active, inactive, error)),
        (Transition.TRANSITION_ON_DEACTIVATE_SUCCESS, State.TRANSITION_STATE_DEACTIVATING, (inactive, active, error)),
        (Transition.TRANSITION_ON_SHUTDOWN_SUCCESS, State.TRANSITION_STATE_SHUTTINGDOWN, (finalized, finalized, error)),
        (Transition.TRANSITION_ON_ERROR_SUCCESS, error, (unconfigured, finalized, finalized)),
    )
    # The three outcomes of a state have successive ids.
    return tuple(
        _Edge(first + offset, label, state, goals[offset])
        for first, state, goals in table
        for offset, label in enumerate((_SUCCESS, _FAILURE, _ERROR))
    )


_REQUESTS, _OUTCOMES = _requests(), _outcomes()


class ManagedNode(Node):
    """A node that is unconfigured, inactive, active or finalized; override the ``on_...`` coroutines.

    One that raises leads to error processing. There ``on_error`` tidies up, and the node is unconfigured; where that raises, too, it is
    finalized. ``failure`` is the reason: the sentence of a ``TransitionError``, or what else was raised; empty after a success.
    """

    def __init__(self, node_name: str, **options: Any) -> None:
        super().__init__(node_name, **options)
        self.failure = ""
        self._state: int = State.PRIMARY_STATE_UNCONFIGURED
        self._transition_events = self.create_publisher(TransitionEvent, "~/transition_event", 10)
        group = ReentrantCallbackGroup()  # a transition in progress keeps nobody out
        for name, kind, answer in (
            ("change_state", ChangeState, self._answer_change_state),
            ("get_state", GetState, self._answer_get_state),
            ("get_available_states", GetAvailableStates, self._answer_available_states),
            ("get_available_transitions", GetAvailableTransitions, self._answer_available_transitions),
            ("get_transition_graph", GetAvailableTransitions, self._answer_transition_graph),
        ):
            self.create_service(kind, f"~/{name}", answer, callback_group=group)

    async def on_configure(self) -> None: ...

    async def on_cleanup(self) -> None: ...

    async def on_activate(self) -> None: ...

    async def on_deactivate(self) -> None: ...

    async def on_shutdown(self) -> None: ...

    async def on_error(self) -> None: ...

    @property
    def state(self) -> str:
        """The state's label."""
        return _LABELS[self._state]

    async def change_state(self, wanted: str | int) -> bool:
        """Go through a transition, given by its label or id.

        Returns:
            Whether it succeeded. One that is not possible in this state, or during another transition, changes nothing.
        """
        edge = next((edge for edge in _REQUESTS if edge.start == self._state and wanted in (edge.label, edge.id)), None)
        if edge is None:
            self.get_logger().warning(f"the transition {wanted} is not possible in state {self.state}; nothing was changed")
            return False
        self._take(edge)
        reason = await self._reason_against(getattr(self, f"on_{edge.label}"))
        self.failure = reason or ""
        self._end(_SUCCESS if reason is None else _ERROR)
        if reason is None:
            return True
        self.get_logger().error(f"cannot {edge.label}: {self.failure}")
        worse = await self._reason_against(self.on_error)
        if worse is not None:
            self.failure += f"; nor can that be put right: {worse}; start the node anew"
            self.get_logger().fatal(self.failure)
        self._end(_SUCCESS if worse is None else _ERROR)
        return False

    async def _reason_against(self, callback: Callable[[], Awaitable[None]]) -> str | None:
        """Why it failed; ``None`` where it did not."""
        try:
            await callback()
        except TransitionError as error:
            return str(error)
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            return f"{callback.__name__} raised {error!r}, which is an error in the node itself"
        return None

    def _end(self, outcome: str) -> None:
        self._take(next(edge for edge in _OUTCOMES if edge.start == self._state and edge.label == outcome))

    def _take(self, edge: _Edge) -> None:
        self._state = edge.goal
        if self.context.ok():
            self._transition_events.publish(TransitionEvent(timestamp=time.time_ns(), **_parts(edge)))

    # ---- services

    async def _answer_change_state(self, request: Any, response: Any) -> Any:
        response.success = await self.change_state(request.transition.label or request.transition.id)
        return response

    def _answer_get_state(self, _request: Any, response: Any) -> Any:
        response.current_state = _state(self._state)
        return response

    def _answer_available_states(self, _request: Any, response: Any) -> Any:
        response.available_states = [_state(state) for state in _LABELS]
        return response

    def _answer_available_transitions(self, _request: Any, response: Any) -> Any:
        response.available_transitions = [_description(edge) for edge in _REQUESTS if edge.start == self._state]
        return response

    def _answer_transition_graph(self, _request: Any, response: Any) -> Any:
        response.available_transitions = [_description(edge) for edge in (*_REQUESTS, *_OUTCOMES)]
        return response


def _state(state: int) -> Any:
    return State(id=state, label=_LABELS[state])


def _parts(edge: _Edge) -> dict[str, Any]:
    return {"transition": Transition(id=edge.id, label=edge.label), "start_state": _state(edge.start), "goal_state": _state(edge.goal)}


def _description(edge: _Edge) -> Any:
    return TransitionDescription(**_parts(edge))
