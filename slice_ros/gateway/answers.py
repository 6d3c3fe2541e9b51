"""Answers in OpenAI's words: whole, or as the server-sent events of a stream."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from slice_ros.client import Answer, Delta
from slice_ros.goal import ToolCall
from slice_ros.scheduling.task import SloReport

DONE = b"data: [DONE]\n\n"
TIMES = ("ttft", "tpot", "e2e", "predicted_ttft", "predicted_tpot", "predicted_e2e")
"""Times of a report that an answer tells, in ms."""
LEAST_LOGPROB = -9999.0
"""What OpenAI says of a token that could not be; JSON has no infinity."""


@dataclass(slots=True)
class Writer:
    """Writes one answer.

    Args:
        goal_id: the answer's id has it, so that the goal can be found in logs and events.
        model: as the request named it.
        is_chat: else it is a completion.
        tells_usage: whether a stream ends with what it took.
        calls: of tools that the stream has begun so far.
    """

    goal_id: str
    model: str
    is_chat: bool
    tells_usage: bool = False
    calls: int = 0
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of an answer that comes at once."""
        said: dict[str, Any] = {"text": answer.text}
        if self.is_chat:
            further: dict[str, Any] = {"tool_calls": [_call(call) for call in answer.tool_calls]} if answer.tool_calls else {}
            content = answer.text if answer.text or not further else None
            if answer.reasoning:
                further["reasoning_content"] = answer.reasoning
            said = {"message": {"role": "assistant", "content": content, "refusal": None, **further}}
        choice = {"index": 0, **said, "logprobs": self._logprobs(answer), "finish_reason": answer.finish_reason}
        return self._object([choice], "chat.completion") | {"usage": usage(answer.report)}

    def begin(self) -> bytes:
        """The first event of a stream."""
        return self._event({"role": "assistant", "content": ""}, None) if self.is_chat else b""

    def piece(self, delta: Delta) -> bytes:
        if not self.is_chat:
            return self._event(delta.text, None)
        said: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        if delta.calls:
            said["tool_calls"] = [self._piece_of_call(piece) for piece in delta.calls]
        return self._event(said, None)

    def _piece_of_call(self, piece: ToolCall) -> dict[str, Any]:
        """A call's beginning, or what is new of the latest one's arguments."""
        if not piece.id:
            return {"index": self.calls - 1, "function": {"arguments": piece.arguments}}
        self.calls += 1
        return {"index": self.calls - 1, **_call(piece)}

    def end(self, answer: Answer) -> bytes:
        """The last events of a stream; log-probabilities are known only now."""
        events = self._event({} if self.is_chat else "", answer.finish_reason, self._logprobs(answer))
        if self.tells_usage:
            events += _sse(self._object([], "chat.completion.chunk") | {"usage": usage(answer.report)})
        return events + DONE

    def _object(self, choices: list[dict[str, Any]], kind: str) -> dict[str, Any]:
        begin, kind = ("chatcmpl", kind) if self.is_chat else ("cmpl", "text_completion")
        return {"id": f"{begin}-{self.goal_id}", "object": kind, "created": self.created, "model": self.model, "choices": choices}

    def _event(self, said: Any, finish_reason: str | None, logprobs: Any = None) -> bytes:
        choice = {"index": 0, "delta" if self.is_chat else "text": said, "logprobs": logprobs, "finish_reason": finish_reason}
        return _sse(self._object([choice], "chat.completion.chunk") | ({"usage": None} if self.tells_usage else {}))

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        if not answer.logprobs:
            return None
        tokens = [(token, max(logprob, LEAST_LOGPROB), data) for token, logprob, data in answer.logprobs]
        if not self.is_chat:
            return {
                "tokens": [token for token, _, _ in tokens],
                "token_logprobs": [logprob for _, logprob, _ in tokens],
                "top_logprobs": None,
                "text_offset": list(accumulate((len(token) if data else 0 for token, _, data in tokens[:-1]), initial=0)),
            }
        content = [{"token": token, "logprob": logprob, "bytes": list(data), "top_logprobs": []} for token, logprob, data in tokens]
        return {"content": content, "refusal": None}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def usage(report: SloReport) -> dict[str, Any]:
    """Tokens, and under ``slo`` what became of the SLO."""
    return {
        "prompt_tokens": report.prompt_tokens,
        "completion_tokens": report.output_tokens,
        "total_tokens": report.prompt_tokens + report.output_tokens,
        "prompt_tokens_details": {"cached_tokens": report.cached_tokens},
        "slo": slo(report),
    }


def slo(report: SloReport) -> dict[str, Any]:
    """What became of a goal's SLO; times in ms, ``None`` where there is none."""
    times = {f"{name}_ms": getattr(report, f"{name}_s") * 1e3 for name in TIMES}
    met = {name: getattr(report, name) for name in ("attained", "ttft_met", "tpot_met", "deadline_met")}
    return met | {name: None if math.isnan(ms) else round(ms, 3) for name, ms in times.items()}


def headers(report: SloReport) -> dict[str, str]:
    """The same as headers."""
    told = {name: value for name, value in slo(report).items() if value is not None and not name.endswith("_met")}
    return {f"x-slo-{name.replace('_', '-')}": str(value).lower() for name, value in told.items()}


def error(body: dict[str, Any]) -> bytes:
    """The event that ends a stream whose goal fails after its first token."""
    return _sse(body)


def _sse(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
