"""Managed nodes: a state machine that others drive through services, as ``ros2 lifecycle`` and Nav2's lifecycle manager do.

Design: https://design.ros2.org/articles/node_lifecycle.html. States, transitions, ids and labels are rcl_lifecycle's.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import Any, NamedTuple

from slice_ros.rclpy_dds import messages
from slice_ros.rclpy_dds.exceptions import RCLError
from slice_ros.rclpy_dds.node import Node

State = messages.message("lifecycle_msgs/msg/State")
Transition = messages.message("lifecycle_msgs/msg/Transition")
TransitionDescription = messages.message("lifecycle_msgs/msg/TransitionDescription")
TransitionEvent = messages.message("lifecycle_msgs/msg/TransitionEvent")


class TransitionCallbackReturn(Enum):
    """What a transition's callback answers."""

    SUCCESS = Transition.TRANSITION_CALLBACK_SUCCESS
    FAILURE = Transition.TRANSITION_CALLBACK_FAILURE
    ERROR = Transition.TRANSITION_CALLBACK_ERROR

    def to_label(self) -> str:
        return f"transition_{self.name.lower()}"


class LifecycleState(NamedTuple):
    """A state, as transition callbacks get it."""

    label: str
    state_id: int


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


class _Edge(NamedTuple):
    """One transition: id, label, and the states it leads from and to."""

    id: int
    label: str
    start: int
    goal: int


def _edges() -> tuple[_Edge, ...]:
    unconfigured, inactive, active, finalized = range(State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_FINALIZED + 1)
    error = State.TRANSITION_STATE_ERRORPROCESSING
    requested = (
        (Transition.TRANSITION_CONFIGURE, "configure", unconfigured, State.TRANSITION_STATE_CONFIGURING),
        (Transition.TRANSITION_CLEANUP, "cleanup", inactive, State.TRANSITION_STATE_CLEANINGUP),
        (Transition.TRANSITION_ACTIVATE, "activate", inactive, State.TRANSITION_STATE_ACTIVATING),
        (Transition.TRANSITION_DEACTIVATE, "deactivate", active, State.TRANSITION_STATE_DEACTIVATING),
        (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, "shutdown", unconfigured, State.TRANSITION_STATE_SHUTTINGDOWN),
        (Transition.TRANSITION_INACTIVE_SHUTDOWN, "shutdown", inactive, State.TRANSITION_STATE_SHUTTINGDOWN),
        (Transition.TRANSITION_ACTIVE_SHUTDOWN, "shutdown", active, State.TRANSITION_STATE_SHUTTINGDOWN),
    )
    # The three answers of a state's callback have successive ids.
    outcomes = (
        (Transition.TRANSITION_ON_CONFIGURE_SUCCESS, State.TRANSITION_STATE_CONFIGURING, (inactive, unconfigured, error)),
        (Transition.TRANSITION_ON_CLEANUP_SUCCESS, State.TRANSITION_STATE_CLEANINGUP, (unconfigured, inactive, error)),
        (Transition.TRANSITION_ON_ACTIVATE_SUCCESS, State.TRANSITION_STATE_ACTIVATING, (active, inactive, error)),
        (Transition.TRANSITION_ON_DEACTIVATE_SUCCESS, State.TRANSITION_STATE_DEACTIVATING, (inactive, active, error)),
        (Transition.TRANSITION_ON_SHUTDOWN_SUCCESS, State.TRANSITION_STATE_SHUTTINGDOWN, (finalized, finalized, error)),
        (Transition.TRANSITION_ON_ERROR_SUCCESS, error, (unconfigured, finalized, finalized)),
    )
    answers = [
        _Edge(first + offset, answer.to_label(), state, goals[offset])
        for first, state, goals in outcomes
        for offset, answer in enumerate(TransitionCallbackReturn)
    ]
    return (*(_Edge(*edge) for edge in requested), *answers)


_EDGES = _edges()


class LifecycleNode(Node):
    """A node that is unconfigured, inactive, active or finalized; override the ``on_...`` callbacks. The methods are rclpy's.

    Args:
        enable_communication_interface: offer the services and the topic ``~/transition_event``.
    """

    def __init__(self, node_name: str, *, enable_communication_interface: bool = True, **options: Any) -> None:
        super().__init__(node_name, **options)
        self._state: int = State.PRIMARY_STATE_UNCONFIGURED
        self._transition_events = None
        if enable_communication_interface:
            self._transition_events = self.create_publisher(TransitionEvent, "~/transition_event", 10)
            for name, kind, answer in (
                ("change_state", "ChangeState", self._answer_change_state),
                ("get_state", "GetState", self._answer_get_state),
                ("get_available_states", "GetAvailableStates", self._answer_available_states),
                ("get_available_transitions", "GetAvailableTransitions", self._answer_available_transitions),
                ("get_transition_graph", "GetAvailableTransitions", self._answer_transition_graph),
            ):
                self.create_service(messages.service(f"lifecycle_msgs/srv/{kind}"), f"~/{name}", answer)

    # ---- callbacks to override

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """SUCCESS leads back to unconfigured, anything else to finalized."""
        return TransitionCallbackReturn.SUCCESS

    # ---- driving it from inside

    def trigger_configure(self) -> TransitionCallbackReturn:
        return self._trigger("configure")

    def trigger_cleanup(self) -> TransitionCallbackReturn:
        return self._trigger("cleanup")

    def trigger_activate(self) -> TransitionCallbackReturn:
        return self._trigger("activate")

    def trigger_deactivate(self) -> TransitionCallbackReturn:
        return self._trigger("deactivate")

    def trigger_shutdown(self) -> TransitionCallbackReturn:
        return self._trigger("shutdown")

    def _trigger(self, label: str) -> TransitionCallbackReturn:
        """Go through a transition and its callback.

        Raises:
            RCLError: the transition is not possible in this state.
        """
        edge = next((edge for edge in _EDGES if edge.start == self._state and edge.label == label), None)
        if edge is None:
            possible = ", ".join(edge.label for edge in _EDGES if edge.start == self._state) or "none"
            raise RCLError(f"the transition {label} is not possible in state {_LABELS[self._state]}; possible: {possible}")
        return self._change_state(edge)

    def _change_state(self, edge: _Edge) -> TransitionCallbackReturn:
        before = LifecycleState(_LABELS[self._state], self._state)
        self._take(edge)
        answer = self._follow(self._answer_of(getattr(self, f"on_{edge.label}"), before))
        if answer is TransitionCallbackReturn.ERROR:
            self._follow(self._answer_of(self.on_error, before))
        return answer

    def _answer_of(self, callback: Any, before: LifecycleState) -> TransitionCallbackReturn:
        try:
            answer: TransitionCallbackReturn = callback(before)
        except Exception as error:
            self.get_logger().error(f"Error raised in {callback.__name__}: {error!r}")
            return TransitionCallbackReturn.ERROR
        return answer

    def _follow(self, answer: TransitionCallbackReturn) -> TransitionCallbackReturn:
        self._take(next(edge for edge in _EDGES if edge.start == self._state and edge.label == answer.to_label()))
        return answer

    def _take(self, edge: _Edge) -> None:
        self._state = edge.goal
        if self._transition_events is not None and self.context.ok():
            self._transition_events.publish(TransitionEvent(timestamp=time.time_ns(), **_parts(edge)))

    # ---- services

    def _answer_change_state(self, request: Any, response: Any) -> Any:
        wanted = request.transition
        edge = next(
            (e for e in _EDGES if e.start == self._state and (e.label == wanted.label if wanted.label else e.id == wanted.id)), None
        )
        if edge is None:
            self.get_logger().warning(
                f"the transition {wanted.label or wanted.id} is not possible in state {_LABELS[self._state]}; nothing was changed"
            )
            response.success = False
        else:
            response.success = self._change_state(edge) is TransitionCallbackReturn.SUCCESS
        return response

    def _answer_get_state(self, _request: Any, response: Any) -> Any:
        response.current_state = _state(self._state)
        return response

    def _answer_available_states(self, _request: Any, response: Any) -> Any:
        response.available_states = [_state(state) for state in _LABELS]
        return response

    def _answer_available_transitions(self, _request: Any, response: Any) -> Any:
        response.available_transitions = [_description(edge) for edge in _EDGES if edge.start == self._state]
        return response

    def _answer_transition_graph(self, _request: Any, response: Any) -> Any:
        response.available_transitions = [_description(edge) for edge in _EDGES]
        return response


def _state(state: int) -> Any:
    return State(id=state, label=_LABELS[state])


def _parts(edge: _Edge) -> dict[str, Any]:
    return {"transition": Transition(id=edge.id, label=edge.label), "start_state": _state(edge.start), "goal_state": _state(edge.goal)}


def _description(edge: _Edge) -> Any:
    return TransitionDescription(**_parts(edge))
