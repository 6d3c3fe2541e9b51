"""Messages to tokens, with the model's chat template."""

from __future__ import annotations

import logging
import re
import secrets
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from slice_ros.engines.llama.vocabulary import Vocabulary
from slice_ros.goal import ChatMessage, ErrorCode, GoalError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Chat template of a model that brings none, as llama.cpp does it."""

_logger = logging.getLogger(__name__)


class Chat:
    """Messages to tokens, with the model's chat template."""

    def __init__(self, model: Any, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        template = llama_cpp.llama_model_chat_template(model, None)
        if template is None:
            _logger.warning("the model has no chat template; messages are rendered as ChatML")
        text = CHATML if template is None else template.decode("utf-8", "replace")
        self._formatter: Jinja2ChatFormatter | None = None
        try:
            self._formatter = Jinja2ChatFormatter(text, eos_token=vocabulary.eos, bos_token=vocabulary.bos)
        except Exception as error:  # jinja2 has many
            self._defect = f"the model's chat template is broken ({error}); send prompt instead of messages"
            _logger.warning("%s", self._defect)

    def tokenize(self, messages: Sequence[ChatMessage]) -> array[int]:
        """Tokens of a conversation and the beginning of the answer.

        Only the template's control tokens count: one spelt out in a message stays text, so that no message can pretend to be another.

        Raises:
            GoalError: INVALID_GOAL, the template refuses the messages.
        """
        if self._formatter is None:
            raise GoalError(ErrorCode.INVALID_GOAL, self._defect)
        special, quoted = self._vocabulary.special, _Quoted()
        plain = [{"role": quoted.hide(special, message.role), "content": quoted.hide(special, message.content)} for message in messages]
        try:
            text = self._formatter(messages=plain).prompt
        except Exception as error:
            raise GoalError(ErrorCode.INVALID_GOAL, f"the model's chat template refuses the messages: {error}") from error
        # A template that writes the BOS itself does not get another.
        add_special = not (self._vocabulary.bos and text.startswith(self._vocabulary.bos))
        if not quoted:
            return self._vocabulary.tokenize(text, add_special=add_special)
        tokens = array("i")
        for part, is_quoted in quoted.split(text):
            tokens += self._vocabulary.tokenize(part, add_special=add_special and not tokens, parse_special=not is_quoted)
        return tokens


class _Quoted:
    """Passes strings through a template untouched and finds them again behind it."""

    def __init__(self) -> None:
        self._mark = f"\ue000{secrets.token_hex(8)}\ue001"  # private use characters and a secret, which no message can contain
        self._hidden: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._hidden)

    def hide(self, pattern: re.Pattern[str] | None, text: str) -> str:
        """The text with every match replaced by a mark."""

        def replace(match: re.Match[str]) -> str:
            self._hidden.append(match[0])
            return f"{self._mark}{len(self._hidden) - 1}\ue002"

        return text if pattern is None else pattern.sub(replace, text)

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """The pieces of the rendered text, and for each whether it was hidden."""
        for i, piece in enumerate(re.split(f"{self._mark}(\\d+)\ue002", text)):
            yield (self._hidden[int(piece)], True) if i % 2 else (piece, False)
