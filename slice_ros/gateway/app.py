"""The routes, and what a request goes through: its body read and checked, its model and SLO found, its goal sent, its answer told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slice_ros.client import GoalFailed
from slice_ros.gateway import answers, requests, tags
from slice_ros.gateway.catalog import Catalog, described
from slice_ros.gateway.errors import AWAY_S, BUSY_S, ApiError, of_goal, retry_after
from slice_ros.gateway.exchange import Exchange
from slice_ros.gateway.guard import Guard, Keys
from slice_ros.gateway.limits import Limits
from slice_ros.gateway.link import Link
from slice_ros.gateway.metrics import CONTENT_TYPE, Metrics
from slice_ros.gateway.requests import Question
from slice_ros.goal import ErrorCode
from slice_ros.ros.conversions import slo_msg
from slice_ros.ros.interfaces import CheckSlo

LABEL = "http"
"""Kind of the goals that name none and no preset; a preset of this name on the server is theirs."""
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")
SWALLOWED = 16
"""So many times the limit of a body that is too large is taken in and forgotten, so that its sender hears why."""
HUNG_UP = 499
"""nginx's status of a client that has gone; nobody hears it but the counter."""


class Asking:
    """An ASGI application: a route whose requests become goals.

    Args:
        link: to the server.
        catalog: what models there are.
        metrics: counts.
        limits: what a request may be.
        read: makes a question of a body.
    """

    def __init__(self, link: Link, catalog: Catalog, metrics: Metrics, limits: Limits, read: Callable[[bytes], Question]) -> None:
        self._link = link
        self._catalog = catalog
        self._metrics = metrics
        self._limits = limits
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = HUNG_UP

        async def tell(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        request = Request(scope, receive)
        try:
            if request.method != "POST":
                raise ApiError(405, f"{scope['path']} takes POST, and this is {request.method}", headers={"allow": "POST"})
            if not await self._serve(request, tell):
                self._metrics.hang_ups.inc()
        except ApiError as error:
            await told(error)(scope, receive, tell)
        except ClientDisconnect:
            self._metrics.hang_ups.inc()
        finally:
            self._metrics.requests.labels(scope["path"], str(status)).inc()

    async def _serve(self, request: Request, send: Send) -> bool:
        if self._link.in_flight >= self._limits.requests:
            message = f"{self._limits.requests} requests are being served, as many as this gateway takes; try again in {BUSY_S:g} s"
            raise ApiError(429, message, code="rate_limit_exceeded", headers=retry_after(BUSY_S))
        by_headers = tags.of_headers(request.headers.items())
        question = self._read(await self._body(request))
        adapter, preset = await self._catalog.find(question.model)
        wanted = tags.merged(by_headers, question.tags, tags.of_priority(question.priority), tags.Tags(preset=preset or None))
        slo, preset, label = tags.slo_of(wanted), wanted.preset or "", wanted.label or wanted.preset or LABEL
        with self._metrics.in_flight.track_inprogress():
            reply = self._link.send(
                question.prompt, slo=slo, preset=preset, label=label, adapter=adapter, stream=question.is_streamed, **question.goal
            )

            async def explain(failure: GoalFailed) -> ApiError:
                fits_in_s = float("nan")
                if failure.code is ErrorCode.INFEASIBLE:
                    prompt_tokens, max_tokens = failure.report.prompt_tokens or 1, question.goal["max_tokens"]
                    check = CheckSlo.Request(prompt_tokens=prompt_tokens, max_tokens=max_tokens, label=label, slo=slo_msg(slo, preset))
                    fits_in_s = await self._link.fits_in_s(check)
                seen = {"slo": answers.slo(failure.report)} if failure.report.prompt_tokens else {}
                return of_goal(failure.code, failure.message, fits_in_s, seen)

            is_chat = not isinstance(question.prompt, str)
            writer = answers.Writer(reply.goal_id, question.model, is_chat, question.tells_usage)
            try:
                exchange = Exchange(reply, writer, question.is_streamed, self._limits.request_s, explain)
                return await exchange(request.scope, request.receive, send)
            finally:
                self._link.forget(reply)

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415, f"content-type is {kind[:80]!r}; it must be application/json", code="unsupported_media_type", param="content-type"
            )
        try:
            return await asyncio.wait_for(self._taken_in(request), self._limits.body_s)
        except asyncio.TimeoutError as error:
            raise ApiError(408, f"the body was not there within {self._limits.body_s:g} s", code="timeout") from error

    async def _taken_in(self, request: Request) -> bytes:
        most, taken, size = self._limits.body_bytes, bytearray(), 0
        async for piece in request.stream():
            size += len(piece)
            if size <= most:
                taken += piece
            elif size > SWALLOWED * most:
                break
        if size > most:
            raise ApiError(413, f"the body has more than {most} bytes, the most that this gateway takes", code="request_too_large")
        return bytes(taken)


class Telling:
    """What is told of the server.

    Args:
        link: to the server.
        catalog: what models there are.
        metrics: counts.
    """

    def __init__(self, link: Link, catalog: Catalog, metrics: Metrics) -> None:
        self._link = link
        self._catalog = catalog
        self._metrics = metrics

    async def models(self, _: Request) -> Response:
        offer = await self._catalog.offer()
        return JSONResponse({"object": "list", "data": [described(name) for name in offer.models]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._catalog.find(name)
        return JSONResponse(described(name))

    async def health(self, _: Request) -> Response:
        status = self._link.status
        state = "away" if status is None else status.engine_state
        is_ready = state == "ready"
        body = {"status": "ok" if is_ready else "unavailable", "server": self._link.server, "engine": state}
        return JSONResponse(body, 200 if is_ready else 503, headers={} if is_ready else retry_after(AWAY_S))

    async def metrics(self, _: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)


def told(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, headers=error.headers)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return told(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:80]
    message = f"there is no {path} here; there are: {', '.join(ROUTES)}" if error.status_code == 404 else f"{path}: {error.detail}"
    return told(ApiError(error.status_code, message, code="unknown_url", headers=error.headers or {}))


async def _defect(_: Request, error: Exception) -> Response:
    return told(ApiError(500, f"the gateway raised {type(error).__name__}, which is an error in the gateway itself", code="internal"))


def make_app(link: Link, limits: Limits, keys: Keys, hosts: Collection[str], origins: Collection[str]) -> Starlette:
    """The application.

    Args:
        link: to the server.
        limits: of requests.
        keys: that open it; with none, requests must be for
        hosts: these names.
        origins: web pages that may use it from a browser.
    """
    catalog, metrics = Catalog(link), Metrics(lambda: link.status)
    telling = Telling(link, catalog, metrics)
    routes = [
        Route("/v1/chat/completions", Asking(link, catalog, metrics, limits, requests.chat)),
        Route("/v1/completions", Asking(link, catalog, metrics, limits, requests.completion)),
        Route("/v1/models", telling.models),
        Route("/v1/models/{name:path}", telling.model),
        Route("/health", telling.health),
        Route("/metrics", telling.metrics),
    ]
    middleware = [Middleware(Guard, keys=keys, hosts=hosts, headers=limits.headers, head_bytes=limits.head_bytes)]
    if origins:
        cors = Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"])
        middleware.insert(0, cors)
    handlers: Any = {ApiError: _api_error, HTTPException: _http_error, Exception: _defect}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)
