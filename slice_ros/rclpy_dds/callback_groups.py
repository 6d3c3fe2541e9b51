"""Which callbacks may run at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class CallbackGroup:
    """Callbacks that share a rule about running at the same time."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def can_execute(self, entity: Any) -> bool:
        """May this entity's callback begin now?"""
        raise NotImplementedError

    def beginning_execution(self, entity: Any, retry: Callable[[], None] | None = None) -> bool:
        """Claim the right to run. Where it is not to be had now, ``retry`` is called once it may be."""
        raise NotImplementedError

    def ending_execution(self, entity: Any) -> None:
        """Give the right back."""
        with self._lock:
            self._release(entity)
            waiting, self._waiting = self._waiting, []
        for retry in waiting:
            retry()

    def _release(self, entity: Any) -> None:
        pass


class ReentrantCallbackGroup(CallbackGroup):
    """Any number of its callbacks at once."""

    def can_execute(self, entity: Any) -> bool:  # noqa: ARG002
        return True

    def beginning_execution(self, entity: Any, retry: Callable[[], None] | None = None) -> bool:  # noqa: ARG002
        return True


class MutuallyExclusiveCallbackGroup(CallbackGroup):
    """One of its callbacks at a time; a coroutine keeps the others out until it ends, also while it awaits."""

    def __init__(self) -> None:
        super().__init__()
        self._running: Any = None

    def can_execute(self, entity: Any) -> bool:  # noqa: ARG002
        return self._running is None

    def beginning_execution(self, entity: Any, retry: Callable[[], None] | None = None) -> bool:
        with self._lock:
            if self._running is None:
                self._running = entity
                return True
            if retry is not None:
                self._waiting.append(retry)
            return False

    def _release(self, entity: Any) -> None:
        if self._running is entity:
            self._running = None
