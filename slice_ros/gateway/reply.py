"""A goal that was sent, as a coroutine of an asyncio loop follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from slice_ros.client import Answer, Delta, Generation
from slice_ros.gateway.errors import ApiError


class Reply:
    """Wakes the running loop when there is something new; the goal itself lives in the executor's thread."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._failure: ApiError | None = None
        self._is_over = False
        generation.listen(self._heard)

    @property
    def goal_id(self) -> str:
        return self._generation.goal_id

    def _heard(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._news.set)

    async def deltas(self) -> AsyncIterator[Delta]:
        """Text and calls of tools as they come; what comes while nobody takes it is one piece.

        Raises:
            ApiError: it was given up.
        """
        while not self._is_over:
            await self._news.wait()
            self._news.clear()
            if self._failure is not None:
                raise self._failure
            self._is_over = self._generation.done  # before the rest is taken, so that none is left
            if any(delta := self._generation.take()):
                yield delta

    async def answer(self) -> Answer:
        """What it ends with.

        Raises:
            GoalFailed: it ended without success.
            ApiError: it was given up.
        """
        async for _ in self.deltas():
            pass
        return self._generation.answer()

    def give_up(self, error: ApiError) -> None:
        """End it for this reason, unless it has ended."""
        if not self._generation.done:
            self._failure = error
            self._generation.cancel()
            self._news.set()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if not self._generation.done:
            self._generation.cancel()
