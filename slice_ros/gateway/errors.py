"""What goes wrong, as OpenAI's clients understand it: a status, an error object, and whether and when to try again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from slice_ros.goal import ErrorCode

BUSY_S = 1.0
"""How soon to ask again where too much is in hand, ..."""
AWAY_S = 2.0
"""... and where the server is away: it has noticed its engine's death, or a new one has been found, by then."""

STATUS: Mapping[ErrorCode, int] = {
    ErrorCode.INVALID_GOAL: 400,
    ErrorCode.INVALID_SLO: 400,
    ErrorCode.INVALID_GRAMMAR: 400,
    ErrorCode.CONTEXT_EXCEEDED: 400,
    ErrorCode.INFEASIBLE: 429,
    ErrorCode.SLO_MISSED: 504,
    ErrorCode.OVERLOADED: 429,
    ErrorCode.UNKNOWN_GOAL: 400,
    ErrorCode.PREDECESSOR_FAILED: 400,
    ErrorCode.CANCELED: 499,
    ErrorCode.ENGINE_DIED: 503,
    ErrorCode.SHUTTING_DOWN: 503,
    ErrorCode.SUPERSEDED: 409,
    ErrorCode.INTERNAL: 500,
}
OPENAI_CODES: Mapping[ErrorCode, str] = {
    ErrorCode.CONTEXT_EXCEEDED: "context_length_exceeded",
    ErrorCode.OVERLOADED: "rate_limit_exceeded",
}
"""Codes that clients look for; the others bear the goal's own names."""
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error", 504: "timeout_error"}
"""Of errors; else a status below 500 is the request's, and one above the server's."""


class ApiError(Exception):
    """A request cannot be served.

    Args:
        status: of the HTTP response.
        message: what was wrong, with the value, and what would be right.
        code: a word for programs.
        param: which field, by its path, or which header.
        headers: of the response.
        extra: further members of the error object.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        extra: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers)
        self.extra = extra

    @property
    def body(self) -> dict[str, Any]:
        """The response's JSON."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code, **self.extra}}


def of_goal(code: ErrorCode, message: str, fits_in_s: float = math.nan, extra: Mapping[str, Any] = MappingProxyType({})) -> ApiError:
    """The error of a goal that ended without success.

    Args:
        fits_in_s: when admission would take the goal (INFEASIBLE), s; NaN is never, or not known.
    """
    status = STATUS.get(code, 500)
    headers = {"x-should-retry": "false"}  # OpenAI's clients would send a late or wrong question again, twice
    if status == 503:
        headers = retry_after(AWAY_S)
    elif code is ErrorCode.OVERLOADED:
        headers = retry_after(BUSY_S)
    elif code is ErrorCode.INFEASIBLE and math.isfinite(fits_in_s):
        headers = retry_after(fits_in_s)
    return ApiError(status, message, code=OPENAI_CODES.get(code, code.name.lower()), headers=headers, extra=extra)


def retry_after(seconds: float) -> dict[str, str]:
    """Headers; HTTP's own knows whole seconds only, OpenAI's clients look at the other one first."""
    return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(math.ceil(seconds * 1e3))}
