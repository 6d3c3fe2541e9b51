"""Executors: wait for events and run the callbacks."""

from __future__ import annotations

import inspect
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from slice_ros.rclpy_dds.dds import INFINITY_NS, Guard, WaitSet
from slice_ros.rclpy_dds.task import Future, Task
from slice_ros.rclpy_dds.timer import Timer
from slice_ros.rclpy_dds.utilities import get_default_context
from slice_ros.rclpy_dds.waitable import Waitable

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.context import Context
    from slice_ros.rclpy_dds.node import Node


class ExternalShutdownException(Exception):
    """The context was shut down while an executor was spinning."""

    def __init__(self) -> None:
        super().__init__("Context has been shutdown.")


class ShutdownException(Exception):
    """The executor was shut down."""


class TimeoutException(Exception):
    """Nothing happened in time."""


class Executor:
    """Runs the callbacks of its nodes.

    One wait set holds a condition per entity. A triggered entity is taken out of it until its data was taken, and stays out while its
    callback group is busy; so there is no polling, and no entity is looked at that has nothing to do.

    Args:
        context: the default context where none is given.
    """

    def __init__(self, *, context: Context | None = None) -> None:
        self._context = context or get_default_context()
        participant = self._context.participant
        self._waitset = WaitSet(participant)
        self._guard = Guard(participant)
        self._waitset.attach(self._guard)
        self._ready: deque[Task] = deque()
        self._lock = threading.RLock()
        self._nodes: list[Node] = []
        self._events: deque[Task] = deque()  # one of each entity at most
        self._was_event = False
        self._armed: dict[int, Waitable] = {}  # by condition
        self._timers: set[Timer] = set()  # waiting for their time
        self._members: set[Waitable] = set()
        self._is_shutdown = False
        self._context.on_shutdown(self.wake)

    @property
    def context(self) -> Context:
        return self._context

    # ---- nodes and their entities

    def add_node(self, node: Node) -> bool:
        """Run this node's callbacks; says whether it is new here."""
        with self._lock:
            if node in self._nodes:
                return False
            self._nodes.append(node)
        node.executor = self
        for waitable in node.waitables:
            self._add(waitable)
        return True

    def remove_node(self, node: Node) -> None:
        with self._lock:
            if node not in self._nodes:
                return
            self._nodes.remove(node)
        for waitable in node.waitables:
            self._discard(waitable)
        node._executor_left(self)

    def get_nodes(self) -> list[Node]:
        with self._lock:
            return list(self._nodes)

    def _add(self, waitable: Waitable) -> None:
        with self._lock:
            if waitable in self._members:
                return
            self._members.add(waitable)
        self._arm(waitable)

    def _discard(self, waitable: Waitable) -> None:
        with self._lock:
            self._members.discard(waitable)
            self._disarm(waitable)

    def _arm(self, waitable: Waitable) -> None:
        """Wait for this entity (again)."""
        with self._lock:
            if self._is_shutdown or waitable not in self._members:
                return
            if isinstance(waitable, Timer):
                self._timers.add(waitable)
                self._guard.trigger()
            elif waitable.condition is not None:
                self._armed[waitable.condition.key] = waitable
                self._waitset.attach(waitable.condition)

    def _disarm(self, waitable: Waitable) -> None:
        if isinstance(waitable, Timer):
            self._timers.discard(waitable)
        elif waitable.condition is not None and self._armed.pop(waitable.condition.key, None) is not None:
            self._waitset.detach(waitable.condition)

    # ---- tasks

    def create_task(self, callback: Any, *args: Any, **kwargs: Any) -> Task:
        """Run a function, coroutine function or coroutine; from any thread."""
        task = Task(callback, args, kwargs, self)
        self._queue(task)
        return task

    def _queue(self, task: Task) -> None:
        self._ready.append(task)
        self.wake()

    def wake(self) -> None:
        """End the wait in progress, or the next one at once."""
        if not self._is_shutdown:
            self._guard.trigger()

    async def _handle(self, waitable: Waitable) -> None:
        """One event of one entity: claim its group, take what is there, wait for the entity again, and run its callback."""
        group = waitable.callback_group
        if not group.beginning_execution(waitable, lambda: self._arm(waitable)):
            return
        try:
            work = waitable.take()
            self._arm(waitable)
            if work is not None:
                result = work()
                if inspect.iscoroutine(result):
                    await result
        finally:
            group.ending_execution(waitable)

    # ---- spinning

    def spin(self) -> None:
        """Run callbacks until the executor or the context is shut down.

        Raises:
            ExternalShutdownException: the context was shut down.
        """
        while self._context.ok() and not self._is_shutdown:
            self.spin_once()
        if not self._is_shutdown:
            raise ExternalShutdownException

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for an event, at most ``timeout_sec`` (``None`` or negative: without end), and run one callback.

        Raises:
            ExternalShutdownException: the context was shut down.
        """
        task = self._next_task(timeout_sec)
        if task is not None:
            self._run(task)

    def spin_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """Run callbacks until ``future`` is complete, at most ``timeout_sec``."""
        future._resume_when_done(self.wake)
        self._spin_while(lambda: not future.done(), timeout_sec)

    def spin_once_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        future._resume_when_done(self.wake)
        if not future.done():
            self.spin_once(timeout_sec)

    def _spin_while(self, condition: Callable[[], bool], timeout_sec: float | None) -> None:
        end = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        while condition() and self._context.ok() and not self._is_shutdown:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            self.spin_once(left)

    def _run(self, task: Task) -> None:
        task()
        error = task.exception()
        if error is not None:
            raise error

    def _next_task(self, timeout_sec: float | None) -> Task | None:
        """The next task, after waiting for at most ``timeout_sec``; ``None`` when there is none."""
        if not self._context.ok():
            raise ExternalShutdownException
        if self._is_shutdown:
            return None
        self._collect(0 if self._ready or self._events else self._wait_ns(timeout_sec))
        if not self._context.ok():
            raise ExternalShutdownException
        return self._pop()

    def _pop(self) -> Task | None:
        """Events of entities and other tasks by turns: a burst of goals to go on with delays no timer and no request."""
        self._was_event = bool(self._events) and not (self._was_event and self._ready)
        queue = self._events if self._was_event else self._ready
        return queue.popleft() if queue else None

    def _wait_ns(self, timeout_sec: float | None) -> int:
        with self._lock:
            waits = [timer.time_until_next_call_or(INFINITY_NS) for timer in self._timers]
        if timeout_sec is not None and timeout_sec >= 0:
            waits.append(int(timeout_sec * 1e9))
        return max(0, min(waits, default=INFINITY_NS))

    def _collect(self, timeout_ns: int) -> None:
        """Wait, and queue what is due."""
        try:
            keys = self._waitset.wait(timeout_ns)
        except RuntimeError:
            if self._context.ok():
                raise
            return  # the context has left the network
        with self._lock:
            for key in keys:
                if key == self._guard.key:
                    self._guard.take()
                    continue
                waitable = self._armed.get(key)
                if waitable is not None:
                    self._disarm(waitable)
                    self._events.append(Task(self._handle, (waitable,), {}, self))
            for timer in [timer for timer in self._timers if timer.is_ready()]:
                self._timers.discard(timer)
                self._events.append(Task(self._handle, (timer,), {}, self))

    def shutdown(self, timeout_sec: float | None = None) -> bool:  # noqa: ARG002 - rclpy's signature
        """Stop running callbacks and let the nodes go; says whether everything has ended."""
        with self._lock:
            if self._is_shutdown:
                return True
            for node in list(self._nodes):
                self.remove_node(node)
            self._guard.trigger()
            self._is_shutdown = True
        return True

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


class SingleThreadedExecutor(Executor):
    """Runs callbacks in the thread that spins."""


class MultiThreadedExecutor(Executor):
    """Runs callbacks in a pool of threads; what may run at the same time, callback groups say.

    Args:
        num_threads: threads of the pool; the number of CPUs where none is given, at least 2.
    """

    def __init__(self, num_threads: int | None = None, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        count = num_threads or os.cpu_count() or 1
        if count < 2:
            warnings.warn("a MultiThreadedExecutor with one thread runs one callback at a time; it has two here", stacklevel=2)
            count = 2
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="executor")
        self._errors: deque[BaseException] = deque()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        task = self._next_task(timeout_sec)
        while task is not None:
            self._pool.submit(self._run, task)
            task = self._pop()
        if self._errors:
            raise self._errors.popleft()

    def _run(self, task: Task) -> None:
        """In a thread of the pool: a callback's error is raised by the thread that spins."""
        try:
            super()._run(task)
        except Exception as error:
            self._errors.append(error)
            self.wake()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        done = super().shutdown(timeout_sec)
        self._pool.shutdown(wait=timeout_sec is None)
        return done
