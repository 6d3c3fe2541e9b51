"""A py_trees behaviour that asks the model; needs ``py_trees`` (and, to be ticked by a tree in ROS, ``py_trees_ros``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import py_trees
except ImportError as error:
    raise ImportError(f"slice_ros.behaviours needs py_trees ({error}); install py_trees") from error

from slice_ros.client import Generation, GoalFailed, SliceClient


class Ask(py_trees.behaviour.Behaviour):
    """Sends a goal when it is entered, and writes its answer to the blackboard.

    RUNNING while the answer is on its way, SUCCESS when it is there, FAILURE when the goal ended with an error (``feedback_message``
    is the server's sentence) or, with ``needs_slo``, missed its SLO. Left before its end, it cancels the goal.

    Args:
        name: of the behaviour.
        prompt: the text, or a function that is called at each entry.
        blackboard_key: the answer's text goes there.
        server: name of the server node.
        needs_slo: an answer that came too late is a failure.
        options: of ``SliceClient.send``: ``slo``, ``preset``, ``max_tokens``, ``json_schema``, ...

    >>> root = py_trees.composites.Selector("where to", memory=False, children=[
    ...     Ask("ask the model", "Next waypoint?", "waypoint", preset="control"),
    ...     py_trees.behaviours.SetBlackboardVariable("stay", "waypoint", "here", overwrite=True),
    ... ])
    """

    def __init__(
        self,
        name: str,
        prompt: str | Callable[[], str],
        blackboard_key: str = "answer",
        *,
        server: str = "/slice_server",
        needs_slo: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(name)
        self._prompt = prompt
        self._server = server
        self._needs_slo = needs_slo
        self._options = options
        self._client: SliceClient | None = None
        self._generation: Generation | None = None
        self._key = blackboard_key
        self.blackboard = self.attach_blackboard_client(name)
        self.blackboard.register_key(blackboard_key, access=py_trees.common.Access.WRITE)

    def setup(self, **kwargs: Any) -> None:
        """Args:
            node: the ROS node of the tree; somebody spins it.

        Raises:
            KeyError: no node was given.
        """
        if "node" not in kwargs:
            raise KeyError(f"{self.name} needs a ROS node: tree.setup(node=...)")
        self._client = SliceClient(kwargs["node"], self._server)

    def initialise(self) -> None:
        if self._client is None:
            raise RuntimeError(f"{self.name} was not set up; call tree.setup(node=...) first")
        prompt = self._prompt if isinstance(self._prompt, str) else self._prompt()
        self._generation = self._client.send(prompt, **self._options)

    def update(self) -> Any:
        end = self._generation.end if self._generation is not None else None
        if end is None:
            self.feedback_message = "waiting for the answer"
            return py_trees.common.Status.RUNNING
        if isinstance(end, GoalFailed):
            self.feedback_message = str(end)
            return py_trees.common.Status.FAILURE
        if self._needs_slo and not end.report.attained:
            self.feedback_message = f"the answer missed its SLO: it came after {end.report.e2e_s:.2f} s"
            return py_trees.common.Status.FAILURE
        self.feedback_message = end.text
        self.blackboard.set(self._key, end.text)
        return py_trees.common.Status.SUCCESS

    def terminate(self, new_status: Any) -> None:
        if new_status == py_trees.common.Status.INVALID and self._generation is not None and not self._generation.done:
            self._generation.cancel()

    def shutdown(self) -> None:
        if self._client is not None:
            self._client.destroy()
