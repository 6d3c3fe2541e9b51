"""A connection that waits for nobody for ever: uvicorn's own waits for a first request, its headers, and for who does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from slice_ros.gateway.limits import Limits


class Connection(H11Protocol):
    """HTTP/1.1 with patience; the body and the answer are the application's to wait for.

    Args:
        limits: how many connections there may be, and how long each may take.
    """

    def __init__(self, limits: Limits, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._limits = limits
        self._head: asyncio.TimerHandle | None = None
        self._write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= self._limits.connections:
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        self._head = self._start(self._head, self._limits.head_s, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_served = self.cycle is not None and not self.cycle.response_complete
        if not is_served:
            self._head = self._start(self._head, self._limits.head_s, self.transport.close)
        elif self._head is not None:
            self._head.cancel()
            self._head = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # What a client does not take keeps a connection that is closed open.
        self.loop.call_later(self.timeout_keep_alive + self._limits.write_s, self._end_if_closing)

    def _end_if_closing(self) -> None:
        if self.transport.is_closing():
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write = self._start(self._write, self._limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write is not None:
            self._write.cancel()
            self._write = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._head, self._write):
            if timer is not None:
                timer.cancel()

    def _start(self, timer: asyncio.TimerHandle | None, seconds: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        return timer or self.loop.call_later(seconds, act)
