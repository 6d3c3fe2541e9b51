"""Bodies of OpenAI's requests, checked: what is served, what is taken without effect, and all else refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from slice_ros.gateway.errors import ApiError
from slice_ros.gateway.tags import Tags
from slice_ros.goal import ChatMessage, GoalError, Sampling, ToolCall

SEEDS = 2**32 - 1
QUOTED = 60
"""Letters of a wrong value that an error repeats."""


def _whole(text: str) -> str:
    """ROS ends a text at its first NUL."""
    if "\0" in text:
        raise PydanticCustomError("nul", "the text has a character U+0000, which cannot be sent; leave it out")
    return text


Text = Annotated[str, AfterValidator(_whole)]
Tokens = Annotated[int, Field(ge=1, lt=2**32)]


def only(*values: Any) -> BeforeValidator:
    """For a field of which this server knows these values, and no others."""

    def check(value: Any) -> Any:
        if value is not None and value not in values:
            known = " or ".join(json.dumps(v) for v in values) or "none"
            raise PydanticCustomError("unsupported", "this server knows only {known}; leave it out", {"known": known})
        return value

    return BeforeValidator(check)


def _parts(content: Any) -> Any:
    """The text of a message that may come in parts."""
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise PydanticCustomError("unsupported", "a part of type {kind} is not served; this server takes text", {"kind": repr(kind)})
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("text", "a part of type 'text' has no text")
    return "\n".join(part["text"] for part in content)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class FunctionCall(_Body):
    name: Text
    arguments: Text


class Call(_Body):
    """A call of a tool, as an answer had it."""

    id: Text
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Any = None

    @property
    def plain(self) -> ToolCall:
        return ToolCall(self.id, self.function.name, self.function.arguments)


class Message(_Body):
    """One of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Text | None, BeforeValidator(_parts)] = None
    tool_calls: list[Call] | None = None
    tool_call_id: Text | None = None
    name: Text | None = None
    reasoning_content: Any = None
    refusal: Annotated[Any, only()] = None
    annotations: Annotated[Any, only([])] = None
    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only()] = None

    @property
    def plain(self) -> ChatMessage:
        role = "system" if self.role == "developer" else self.role
        return ChatMessage(role, self.content or "", tuple(call.plain for call in self.tool_calls or ()), self.tool_call_id or "")


class Function(_Body):
    name: Text
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Body):
    """One that an answer may call; ``strict`` or not, its arguments follow its schema."""

    type: Literal["function"]
    function: Function

    @property
    def plain(self) -> dict[str, Any]:
        return {"type": "function", "function": self.function.model_dump(exclude_none=True, exclude={"strict"})}


class FunctionName(_Body):
    name: Text


class NamedTool(_Body):
    type: Literal["function"]
    function: FunctionName


class JsonSchema(_Body):
    name: Text
    schema_: dict[str, Any] = Field(alias="schema")
    description: Text | None = None
    strict: bool | None = None


class ResponseFormat(_Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def schema_text(self) -> str:
        """As a goal has it; empty is none.

        Raises:
            ApiError: 400, it is missing.
        """
        if self.type == "text":
            return ""
        if self.type == "json_object":
            return '{"type":"object"}'
        if self.json_schema is None:
            message = "response_format.json_schema is missing; give a name and a schema"
            raise ApiError(400, message, code="invalid_value", param="response_format.json_schema")
        return json.dumps(self.json_schema.schema_)


class StreamOptions(_Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Generation(_Body):
    """What requests for chats and completions have in common."""

    model: Text
    max_tokens: Tokens | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Text | list[Text] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # vLLM's and llama-server's, and this server's own
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    grammar: Text | None = None
    regex: Text | None = None
    priority: int | None = None
    slo: Tags | None = None
    prompt_cache_key: Annotated[Text, Field(max_length=256)] | None = None

    # what this server knows one value of
    n: Annotated[Any, only(1)] = None
    presence_penalty: Annotated[Any, only(0)] = None
    frequency_penalty: Annotated[Any, only(0)] = None
    logit_bias: Annotated[Any, only({})] = None

    # without effect
    user: Any = None
    safety_identifier: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    prompt_cache_retention: Any = None

    def goal(self) -> dict[str, Any]:
        """What ``SliceClient.send`` takes.

        Raises:
            ApiError: 400, values that do not go together.
        """
        try:
            sampling = Sampling(
                self.temperature or 0.0,
                self.top_k or 0,
                self.top_p or 0.0,
                self.min_p or 0.0,
                self.repetition_penalty or 0.0,
                0 if self.seed is None else _seed(self.seed),
            )
        except GoalError as error:
            raise ApiError(400, str(error), code="invalid_value") from error
        return {
            "max_tokens": self.max_tokens or 0,
            "sampling": sampling,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop or [],
            "grammar": self.grammar or "",
            "regex": self.regex or "",
            "session_id": self.prompt_cache_key or "",
        }


class ChatRequest(_Generation):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Tokens | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Any, only(0)] = None
    modalities: Annotated[Any, only(["text"])] = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    reasoning: Literal["off", "on", "deadline"] | Tokens | None = None
    """This server's own, and more than an effort: how long the block may be."""

    def goal(self) -> dict[str, Any]:
        return super().goal() | {
            "max_tokens": self.max_completion_tokens or self.max_tokens or 0,
            "json_schema": self.response_format.schema_text if self.response_format else "",
            "logprobs": bool(self.logprobs),
            "tools": [tool.plain for tool in self.tools] if self.tools else "",
            "tool_choice": self._choice if self.tools else "",
            "reasoning": self._reasoning,
        }

    @property
    def _reasoning(self) -> str:
        """As a goal has it: an effort is a wish, which the server keeps as off or on."""
        if self.reasoning is not None:
            return str(self.reasoning)
        return "" if self.reasoning_effort is None else "off" if self.reasoning_effort == "none" else "on"

    @property
    def _choice(self) -> str:
        """Raises:
        ApiError: 400, what is asked for cannot be kept.
        """
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        if self.parallel_tool_calls is False and self.tool_choice != "none":
            message = (
                "parallel_tool_calls is false: only a tool that tool_choice names is called no more than once; name one, or leave it out"
            )
            raise ApiError(400, message, code="unsupported_value", param="parallel_tool_calls")
        return self.tool_choice or "auto"


class CompletionRequest(_Generation):
    """``POST /v1/completions``."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    best_of: Annotated[Any, only(1)] = None
    echo: Annotated[Any, only(False)] = None
    suffix: Annotated[Any, only("")] = None

    def goal(self) -> dict[str, Any]:
        return super().goal() | {"logprobs": self.logprobs is not None}


@dataclass(frozen=True, slots=True)
class Question:
    """A request, as this package understands it.

    Args:
        prompt: text, or a conversation.
        model: as the request names it.
        goal: further arguments of ``SliceClient.send``.
        tags: what the body says of its SLO.
        priority: vLLM's.
        is_streamed: whether the answer is wanted as it comes.
        tells_usage: whether a stream is to end with what it took.
    """

    prompt: str | tuple[ChatMessage, ...]
    model: str
    goal: dict[str, Any]
    tags: Tags
    priority: int | None
    is_streamed: bool
    tells_usage: bool


def chat(body: bytes) -> Question:
    """Raises:
    ApiError: 400, with the field.
    """
    request = _parsed(ChatRequest, body)
    return _question(request, tuple(message.plain for message in request.messages))


def completion(body: bytes) -> Question:
    """Raises:
    ApiError: 400, with the field.
    """
    request = _parsed(CompletionRequest, body)
    return _question(request, request.prompt if isinstance(request.prompt, str) else request.prompt[0])


def _question(request: _Generation, prompt: str | tuple[ChatMessage, ...]) -> Question:
    tells_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
    return Question(prompt, request.model, request.goal(), request.slo or Tags(), request.priority, bool(request.stream), tells_usage)


Model = TypeVar("Model", bound=BaseModel)


def _parsed(kind: type[Model], body: bytes) -> Model:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(_steps(first["loc"]))
        if first["type"] == "json_invalid":
            raise ApiError(400, f"the body is no JSON: {first['msg']}", code="invalid_json") from error
        if first["type"] == "extra_forbidden":
            raise ApiError(400, f"this server knows no {param}; leave it out", code="unsupported_parameter", param=param) from error
        if first["type"] == "missing":
            raise ApiError(400, f"{param} is missing", code="missing_parameter", param=param) from error
        code = "unsupported_value" if first["type"] == "unsupported" else "invalid_value"
        shown = json.dumps(first["input"], default=str)[:QUOTED]
        raise ApiError(400, f"{param or 'the body'} is {shown}: {first['msg']}", code=code, param=param or None) from error


def _steps(location: Iterable[int | str]) -> Iterator[str]:
    """The way to a field; where it may be of several kinds, pydantic goes on with the kind."""
    for step in location:
        if isinstance(step, str) and not (step.isidentifier() and step.islower()):
            return
        yield str(step)


def _seed(seed: int) -> int:
    """One that is not 0, which draws a new one each time."""
    return seed if 0 < seed <= SEEDS else seed % SEEDS + 1
