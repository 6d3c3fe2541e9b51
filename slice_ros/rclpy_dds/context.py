"""The state that nodes of one process share: arguments, the DDS participant, the graph."""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from collections.abc import Callable, Sequence

from slice_ros.rclpy_dds import arguments, logging, network
from slice_ros.rclpy_dds.arguments import Arguments
from slice_ros.rclpy_dds.dds import Participant
from slice_ros.rclpy_dds.exceptions import NotInitializedException
from slice_ros.rclpy_dds.graph import Graph


class Context:
    """Lives from ``init`` to ``shutdown``. It joins the network with its first node or executor."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._ok = False
        self._domain_id = 0
        self._participant: Participant | None = None
        self._graph: Graph | None = None
        self._callbacks: list[Callable[[], Callable[[], object] | None]] = []
        self._nodes = 0
        self.arguments = Arguments()
        _contexts.add(self)

    def init(self, args: Sequence[str] | None = None, *, initialize_logging: bool = True, domain_id: int | None = None) -> None:
        """Begin.

        Args:
            args: command line with ``--ros-args``; the process's own where none is given.
            domain_id: DDS domain; ``ROS_DOMAIN_ID`` where none is given.

        Raises:
            RuntimeError: it has begun already.
            UnknownROSArgsError: the arguments cannot be understood.
            ValueError: an environment variable of ROS 2 has an impossible value.
        """
        with self._lock:
            if self._ok:
                raise RuntimeError("Context.init() must only be called once")
            self.arguments = arguments.parse(sys.argv if args is None else args)
            domain = network.domain_id() if domain_id is None else domain_id
            if domain != self._domain_id:
                self.leave()
            self._domain_id = domain
            network.refuse_security()
            network.discovery_range()  # a wrong value is to be told here
            if initialize_logging:
                for name, level in self.arguments.log_levels.items():
                    logging.set_logger_level(name, logging.severity_of(level))
            self._ok = True

    def ok(self) -> bool:
        return self._ok

    def get_domain_id(self) -> int:
        return self._domain_id

    @property
    def participant(self) -> Participant:
        """This context's DDS participant.

        Raises:
            NotInitializedException: the context is not initialized, or was shut down before it joined the network.
        """
        with self._lock:
            if self._participant is None:
                if not self._ok:
                    raise NotInitializedException("Context is not initialized, or was shut down; call init() first")
                self._participant = Participant(self._domain_id)
            return self._participant

    @property
    def graph(self) -> Graph:
        with self._lock:
            if self._graph is None:
                self._graph = Graph(self.participant)
            return self._graph

    @property
    def in_network(self) -> bool:
        """Has it joined the network, and not left?"""
        return self._participant is not None

    def node_added(self) -> None:
        with self._lock:
            self._nodes += 1

    def node_removed(self) -> None:
        with self._lock:
            self._nodes -= 1
        self._leave_when_over()

    def on_shutdown(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` at shutdown. A method does not keep its object alive."""
        reference: Callable[[], Callable[[], object] | None]
        reference = weakref.WeakMethod(callback) if hasattr(callback, "__self__") else lambda: callback
        with self._lock:
            self._callbacks = [known for known in self._callbacks if known() is not None]
            if self._callbacks is not None:
                self._callbacks.append(reference)

    def shutdown(self) -> None:
        """End: executors stop spinning, nothing can be sent any more; the nodes are to be destroyed.

        Raises:
            RuntimeError: it is not initialized or shut down already.
        """
        with self._lock:
            if not self._ok:
                raise RuntimeError("Context must be initialized before it can be shutdown")
            self._ok = False
            callbacks, self._callbacks = self._callbacks, []
        for reference in callbacks:
            callback = reference()
            if callback is not None:
                callback()
        self._leave_when_over()

    def try_shutdown(self) -> None:
        with self._lock:
            if self._ok:
                self.shutdown()

    def _leave_when_over(self) -> None:
        """Leave the network once the context is shut down and its nodes are destroyed."""
        if not self._ok and self._nodes <= 0:
            self.leave()

    def leave(self) -> None:
        """Leave the network; peers notice at once."""
        with self._lock:
            graph, self._graph = self._graph, None
            participant, self._participant = self._participant, None
        if graph is not None:
            graph.close()
        if participant is not None:
            participant.close()

    def __enter__(self) -> Context:
        if not self._ok:
            self.init()
        return self

    def __exit__(self, *_: object) -> None:
        self.try_shutdown()


_contexts: weakref.WeakSet[Context] = weakref.WeakSet()


def shutdown_all() -> None:
    """Shut every context of the process down."""
    for context in list(_contexts):
        context.try_shutdown()


@atexit.register
def _leave_at_exit() -> None:
    """While Cyclone's threads can still have the interpreter lock."""
    shutdown_all()
    for context in list(_contexts):
        context.leave()
