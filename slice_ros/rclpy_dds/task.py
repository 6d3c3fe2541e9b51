"""Futures, and the tasks with which an executor runs callbacks and coroutines."""

from __future__ import annotations

import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.executors import Executor


class Future:
    """A result that is not there yet. May be completed and asked from any thread, and awaited in coroutines that an executor runs."""

    def __init__(self, *, executor: Executor | None = None) -> None:
        self._lock = threading.Lock()
        self._done = False
        self._cancelled = False
        self._result: Any = None
        self._exception: BaseException | None = None
        self._callbacks: list[Callable[[Future], Any]] = []
        self._resumes: list[Callable[[], None]] = []
        self._set_executor(executor)

    def __await__(self) -> Generator[Future, None, Any]:
        if not self._done:
            yield self
        return self.result()

    def cancel(self) -> None:
        """Complete without a result, unless it is complete already."""
        self._complete(cancelled=True)

    def cancelled(self) -> bool:
        return self._cancelled

    def done(self) -> bool:
        return self._done

    def result(self) -> Any:
        """The result; ``None`` while there is none. Raises the exception where there is one instead."""
        if self._exception is not None:
            raise self._exception
        return self._result

    def exception(self) -> BaseException | None:
        return self._exception

    def set_result(self, result: Any) -> None:
        self._complete(result=result)

    def set_exception(self, exception: BaseException) -> None:
        self._complete(exception=exception)

    def add_done_callback(self, callback: Callable[[Future], Any]) -> None:
        """Call ``callback(self)`` once this is complete: in the executor where there is one, else in the completing thread."""
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        self._invoke(callback)

    def remove_done_callback(self, callback: Callable[[Future], Any]) -> bool:
        """Forget ``callback``; says whether it was there."""
        with self._lock:
            try:
                self._callbacks.remove(callback)
            except ValueError:
                return False
            return True

    def _resume_when_done(self, resume: Callable[[], None]) -> None:
        """Call ``resume`` in the completing thread; it must only queue work."""
        with self._lock:
            if not self._done:
                self._resumes.append(resume)
                return
        resume()

    def _set_executor(self, executor: Executor | None) -> None:
        self._executor = weakref.ref(executor) if executor is not None else None

    def _complete(self, result: Any = None, exception: BaseException | None = None, cancelled: bool = False) -> None:
        with self._lock:
            if self._done:
                return
            self._result, self._exception, self._cancelled, self._done = result, exception, cancelled, True
            callbacks, self._callbacks = self._callbacks, []
            resumes, self._resumes = self._resumes, []
        for resume in resumes:
            resume()
        for callback in callbacks:
            self._invoke(callback)

    def _invoke(self, callback: Callable[[Future], Any]) -> None:
        executor = self._executor() if self._executor is not None else None
        if executor is not None:
            executor.create_task(callback, self)
            return
        try:
            callback(self)
        except Exception as error:
            warnings.warn(f"Unhandled exception in done callback: {error}", stacklevel=2)


class Task(Future):
    """A function or coroutine that an executor runs; its own completion is a future's.

    A coroutine that awaits a ``Future`` is put aside, and queued again by the thread that completes the future. Nothing is polled.
    """

    def __init__(self, handler: Any, args: tuple[Any, ...], kwargs: dict[str, Any], executor: Executor) -> None:
        super().__init__(executor=executor)
        self._handler, self._args, self._kwargs = handler, args, kwargs
        self._coroutine: Coroutine[Any, Any, Any] | None = handler if inspect.iscoroutine(handler) else None
        self._queue: Callable[[Task], None] = executor._queue

    def __call__(self) -> None:
        """Run until the end or the next future that is not complete."""
        if self._done:
            if self._coroutine is not None:
                self._coroutine.close()
            return
        try:
            if self._coroutine is None:
                result = self._handler(*self._args, **self._kwargs)
                if not inspect.iscoroutine(result):
                    self.set_result(result)
                    return
                self._coroutine = result
            awaited = self._coroutine.send(None)
        except StopIteration as stop:
            self.set_result(stop.value)
        except Exception as error:
            self.set_exception(error)
        else:
            if isinstance(awaited, Future):
                awaited._resume_when_done(lambda: self._queue(self))
            elif awaited is None:
                self._queue(self)
            else:
                self._coroutine.close()
                self.set_exception(TypeError(f"a callback awaits {awaited!r}; here it must be a Future or a coroutine"))
