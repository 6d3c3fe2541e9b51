"""One request's goal, from its sending to the last byte of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from slice_ros.client import GoalFailed
from slice_ros.gateway import answers
from slice_ros.gateway.errors import ApiError
from slice_ros.gateway.reply import Reply

EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


@dataclass(frozen=True, slots=True)
class Exchange:
    """An ASGI response.

    Args:
        reply: the goal.
        writer: writes the answer.
        is_streamed: whether the answer goes out as it comes; its status is only told with the first token, so that it can be an error's.
        request_s: how long it may take.
        explain: makes an error of a goal's failure.
    """

    reply: Reply
    writer: answers.Writer
    is_streamed: bool
    request_s: float
    explain: Callable[[GoalFailed], Awaitable[ApiError]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer; a client that hangs up ends its goal.

        Returns:
            Whether it stayed to the end.
        """
        telling = asyncio.ensure_future(self._tell(scope, receive, send))
        gone = asyncio.ensure_future(_hang_up(receive))
        try:
            done, _ = await asyncio.wait((telling, gone), timeout=self.request_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                message = f"the answer was not done within {self.request_s:g} s, this gateway's limit; the goal was canceled"
                self.reply.give_up(ApiError(504, message, code="timeout", headers={"x-should-retry": "false"}))
                done, _ = await asyncio.wait((telling, gone), return_when=asyncio.FIRST_COMPLETED)
            if telling in done:
                telling.result()
            return telling in done
        finally:
            for task in (telling, gone):
                task.cancel()
            await asyncio.gather(telling, gone, return_exceptions=True)

    async def _tell(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_begun = False
        try:
            if not self.is_streamed:
                answer = await self.reply.answer()
                told = JSONResponse(self.writer.whole(answer), headers=self._headers() | answers.headers(answer.report))
                await told(scope, receive, send)
                return
            async for delta in self.reply.deltas():
                if not is_begun:
                    is_begun = True
                    await self._begin(send)
                await send({"type": "http.response.body", "body": self.writer.piece(delta), "more_body": True})
            answer = await self.reply.answer()
            if not is_begun:
                await self._begin(send)
            await send({"type": "http.response.body", "body": self.writer.end(answer)})
        except (GoalFailed, ApiError) as failure:
            error = failure if isinstance(failure, ApiError) else await self.explain(failure)
            if is_begun:
                await send({"type": "http.response.body", "body": answers.error(error.body)})
            else:
                await JSONResponse(error.body, error.status, headers=self._headers() | error.headers)(scope, receive, send)

    async def _begin(self, send: Send) -> None:
        headers = [*EVENT_STREAM, *((name.encode(), value.encode()) for name, value in self._headers().items())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if first := self.writer.begin():
            await send({"type": "http.response.body", "body": first, "more_body": True})

    def _headers(self) -> dict[str, str]:
        return {"x-request-id": self.reply.goal_id}


async def _hang_up(receive: Receive) -> None:
    """Until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
