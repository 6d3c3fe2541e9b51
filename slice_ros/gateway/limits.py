"""How much a request may be, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Args:
    body_bytes: of a request's body.
    headers: how many a request may have.
    head_bytes: of its request line and headers.
    requests: that are served at once.
    connections: that are open at once.
    head_s: from a connection's begin, or the last answer's end, to the end of the next headers.
    body_s: from there to the end of the body.
    request_s: from there to the end of the answer.
    write_s: how long a client may take nothing of an answer.
    """

    body_bytes: int = 2**20
    headers: int = 100
    head_bytes: int = 2**16
    requests: int = 512
    connections: int = 900
    head_s: float = 10.0
    body_s: float = 20.0
    request_s: float = 600.0
    write_s: float = 20.0
