"""Messages to tokens, with the model's chat template."""

from __future__ import annotations

import json
import logging
import re
import secrets
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from slice_ros.engines.llama import templates
from slice_ros.engines.llama.reasoning import marks_of
from slice_ros.engines.llama.tools import told
from slice_ros.engines.llama.tools.formats import HERMES, format_of, knows_tools
from slice_ros.engines.llama.tools.tool import Tool
from slice_ros.engines.llama.vocabulary import Vocabulary
from slice_ros.goal import ChatMessage, ErrorCode, GoalError

TURN_END = "<|im_end|>"
"""Ends a message in ChatML, which is guessed where a model has no template."""

_logger = logging.getLogger(__name__)


class Chat:
    """Messages to tokens, with the model's chat template.

    Args:
        model: llama.cpp's.
        vocabulary: its tokens.
        named: a template to take instead of the model's own, a family's name or a file; empty is none.

    Raises:
        EngineError: there is no such template.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, named: str = "") -> None:
        self._vocabulary = vocabulary
        own = llama_cpp.llama_model_chat_template(model, None)
        self.source = named or ("model" if own else "")
        """Where the template is from: the model, what was named instead, or empty: it is guessed."""
        text = templates.named(named) if named else own.decode("utf-8", "replace") if own else templates.family(templates.GUESSED)
        self.stop = () if self.source else (TURN_END,)
        """What ends an answer beside the model's own tokens: of a model that was not trained with the template it may be text."""
        if not self.source:
            _logger.warning(
                "the model has no chat template; messages are rendered as ChatML, which it may not know: "
                "name another with the parameter model.chat_template, or send prompt instead"
            )
        form = format_of(text, vocabulary.control)
        self.form = form or HERMES
        """How the model writes calls of tools; one whose template does not tell is told to do it as Hermes does."""
        self._knows_tools = form is not None and knows_tools(text)
        self._knows_calls = form is not None and "tool_calls" in text
        self.reasoning = marks_of(text)
        """Between which marks the model reasons; ``None`` if it does not."""
        self._knows_thinking = "enable_thinking" in text
        self.call_marks = {token: name.encode() for name, token in vocabulary.control.items() if name in self.form.texts}
        """Names of control tokens that are part of calls."""
        self._formatter: Jinja2ChatFormatter | None = None
        try:
            self._formatter = Jinja2ChatFormatter(text, eos_token=vocabulary.eos, bos_token=vocabulary.bos)
        except Exception as error:  # jinja2 has many
            self._defect = f"the model's chat template is broken ({error}); send prompt instead of messages"
            _logger.warning("%s", self._defect)
        self._has_system = self._takes_system()

    def tokenize(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = (), *, thinks: bool | None = None) -> array[int]:
        """Tokens of a conversation and the beginning of the answer.

        Only the template's control tokens count: one spelt out in a message stays text, so that no message can pretend to be another.

        Args:
            tools: those that the model is told of.
            thinks: whether the model reasons; ``None`` is as it does.

        Raises:
            GoalError: INVALID_GOAL, the template refuses the messages.
        """
        if self._formatter is None:
            raise GoalError(ErrorCode.INVALID_GOAL, self._defect)
        quoted = _Quoted(self._vocabulary.special)
        plain = [quoted.hide(message) for message in _plain(messages)]
        described = [quoted.hide(tool.described) for tool in tools]
        if not self._knows_calls:
            plain = told.with_calls(plain, self.form)
        if not self._knows_tools:
            plain, described = told.with_tools(plain, described, self.form, has_system=self._has_system), []
        try:
            wish = {} if thinks is None else {"enable_thinking": thinks}
            text = self._formatter(messages=plain, tools=described or None, **wish).prompt
        except Exception as error:
            raise GoalError(ErrorCode.INVALID_GOAL, f"the model's chat template refuses the messages: {error}") from error
        if thinks is False and self.reasoning is not None and not self._knows_thinking:
            text += f"{self.reasoning.begin}\n\n{self.reasoning.end}\n\n"
        # A template that writes the BOS itself does not get another.
        add_special = not (self._vocabulary.bos and text.startswith(self._vocabulary.bos))
        if not quoted:
            return self._vocabulary.tokenize(text, add_special=add_special)
        tokens = array("i")
        for part, is_quoted in quoted.split(text):
            tokens += self._vocabulary.tokenize(part, add_special=add_special and not tokens, parse_special=not is_quoted)
        return tokens

    def _takes_system(self) -> bool:
        """Whether the template takes a system message."""
        try:
            if self._formatter is not None:
                self._formatter(messages=[{"role": role, "content": "a"} for role in ("system", "user")])
        except Exception:  # whatever it raises, it is raised for a conversation with such a message again
            return False
        return True


class _Object(dict[str, Any]):
    """A call's arguments: an object to templates that look into it, JSON to those that print it."""

    def __str__(self) -> str:
        return json.dumps(self, ensure_ascii=False)


def _plain(messages: Sequence[ChatMessage]) -> Iterator[dict[str, Any]]:
    """Messages as templates take them.

    Raises:
        GoalError: INVALID_GOAL; the arguments of a call are no JSON object.
    """
    names: dict[str, str] = {}
    for i, message in enumerate(messages):
        plain: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            plain["tool_calls"] = []
            for j, call in enumerate(message.tool_calls):
                names[call.id] = call.name
                arguments = _arguments(call.arguments, f"messages[{i}].tool_calls[{j}].arguments")
                plain["tool_calls"].append({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
        if message.tool_call_id:
            plain |= {"tool_call_id": message.tool_call_id, "name": names.get(message.tool_call_id, "")}
        yield plain


def _arguments(text: str, place: str) -> _Object:
    try:
        arguments = json.loads(text or "{}")
    except (json.JSONDecodeError, RecursionError) as error:
        raise GoalError(ErrorCode.INVALID_GOAL, f"{place} is {text[:40]!r}, which is no JSON ({error}); give a JSON object") from error
    if not isinstance(arguments, dict):
        raise GoalError(ErrorCode.INVALID_GOAL, f"{place} is {text[:40]!r}; it must be a JSON object")
    return _Object(arguments)


class _Quoted:
    """Passes strings through a template untouched and finds them again behind it.

    Args:
        pattern: what is hidden in them; ``None`` is nothing.
    """

    def __init__(self, pattern: re.Pattern[str] | None) -> None:
        self._pattern = pattern
        self._mark = f"\ue000{secrets.token_hex(8)}\ue001"  # private use characters and a secret, which no message can contain
        self._hidden: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._hidden)

    def hide(self, value: Any) -> Any:
        """The value with every match in its texts replaced by a mark."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self._pattern.sub(self._replace, value)
        if isinstance(value, dict):
            return type(value)((self.hide(key), self.hide(part)) for key, part in value.items())
        if isinstance(value, list):
            return [self.hide(part) for part in value]
        return value

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """The pieces of the rendered text, and for each whether it was hidden."""
        for i, piece in enumerate(re.split(f"{self._mark}(\\d+)\ue002", text)):
            yield (self._hidden[int(piece)], True) if i % 2 else (piece, False)

    def _replace(self, match: re.Match[str]) -> str:
        self._hidden.append(match[0])
        return f"{self._mark}{len(self._hidden) - 1}\ue002"
