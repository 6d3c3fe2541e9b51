"""Who may come in: by a key, or where none is asked for, only who is on this machine and no web page in disguise."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Iterable
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from slice_ros.gateway.errors import ApiError

OPEN = ("/health",)
"""Paths that need no key: whoever supervises a process has none."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")


class Keys:
    """Keys that open the door; kept as digests, compared in constant time."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def of_file(cls, path: Path) -> Keys:
        """Those in a file, one a line.

        Raises:
            ValueError: it cannot be read, or holds none.
        """
        try:
            lines = [line.strip() for line in path.read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the keys in {path} cannot be read: {error}") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ValueError(f"{path} holds no key; write one a line, as from: openssl rand -hex 32")
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def open(self, key: str) -> bool:
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, own) for own in self._digests) > 0  # all of them are compared


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware.

    Args:
        keys: with any, a request bears one as ``Authorization: Bearer KEY``; without, it must be for one of
        hosts: since a web page in a browser on this machine reaches the loopback interface as well, by a name of its own.
        headers, head_bytes: how many a request may have, and how large they may be together.
    """

    def __init__(self, app: ASGIApp, keys: Keys, hosts: Collection[str], headers: int, head_bytes: int) -> None:
        self._app = app
        self._keys = keys
        self._hosts = {host.lower() for host in hosts}
        self._headers = headers
        self._head_bytes = head_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._objection(scope)
        if error is None:
            await self._app(scope, receive, send)
        else:
            await JSONResponse(error.body, error.status, headers=error.headers)(scope, receive, send)

    def _objection(self, scope: Scope) -> ApiError | None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if len(scope["headers"]) > self._headers or size > self._head_bytes:
            message = f"the request has {len(scope['headers'])} headers of {size} bytes; {self._headers} of {self._head_bytes} are taken"
            return ApiError(431, message, code="headers_too_large")
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not self._keys:
            host = headers.get(b"host", "")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name.lower() not in self._hosts:
                return ApiError(
                    403, f"the request is for host {host[:80]!r}, which this gateway is not; see --allow-host", code="wrong_host"
                )
        elif scope["path"] not in OPEN:
            kind, _, key = headers.get(b"authorization", "").partition(" ")
            if kind.lower() != "bearer" or not self._keys.open(key.strip()):
                message = "the API key is missing or wrong; send one of the gateway's as: Authorization: Bearer KEY"
                return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        return None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
