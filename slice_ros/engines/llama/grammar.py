"""What an answer may be: a JSON schema, a regular expression or a grammar, kept token by token by llguidance."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits
from llguidance.gbnf_to_lark import is_lark_syntax
from llguidance.llamacpp import lltokenizer_from_vocab

from slice_ros.engines.llama import gbnf, schema
from slice_ros.engines.llama.vocabulary import Vocabulary
from slice_ros.goal import ErrorCode, GoalError, GoalRequest

LONGEST = 64 * 1024
SCHEMA_LIMITS = LLParserLimits(step_lexer_fuel=50_000, step_max_items=20_000, max_lexer_states=20_000, verbose_errors=False)
"""For one token, llguidance works off about 14,000 units of fuel and 20,000 items in a millisecond. A state takes 1 to 2 kB, and each byte
of a forced text may be a new one, of 6 microseconds."""
GRAMMAR_LIMITS = LLParserLimits(step_lexer_fuel=50_000, step_max_items=5_000, max_lexer_states=10_000, verbose_errors=False)
"""Grammars can be ambiguous in every place, and an item then costs more."""

_AT = re.compile(r"(?:at )?(\d+)\((\d+)\): ")
_PLACE = re.compile(r"at line \d+, column \d+: ")
_REGEX_ERROR = re.compile(r"regex parse error:\n {4}.*\n {4}(?P<before> *)\^+\n+error: (?P<what>.*)")


class Grammars:
    """Makes the grammars of goals for one vocabulary; thread-safe."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._size = vocabulary.size
        # A vocabulary without an end of generation gets one that no model draws.
        endings = sorted(vocabulary.ending) or [vocabulary.size]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it calls a function of llama.cpp that has a new name
            self.tokenizer = lltokenizer_from_vocab(vocabulary.pointer, max(vocabulary.size, endings[-1] + 1), endings)

    def make(self, request: GoalRequest) -> Grammar | None:
        """The grammar of a goal; ``None`` if it has none.

        Raises:
            GoalError: INVALID_GRAMMAR, with the place where it is wrong.
        """
        for source, text in (("json_schema", request.json_schema), ("regex", request.regex), ("grammar", request.grammar)):
            if len(text) > LONGEST:
                raise GoalError(ErrorCode.INVALID_GRAMMAR, f"{source} has {len(text)} characters; at most {LONGEST} are allowed")
        if request.json_schema:
            text = schema.to_grammar(request.json_schema)
        elif request.regex:
            text = LLMatcher.grammar_from_regex(request.regex)
        elif request.grammar:
            is_lark = is_lark_syntax(request.grammar)
            text = LLMatcher.grammar_from_lark(request.grammar if is_lark else gbnf.to_lark(request.grammar))
        else:
            return None
        limits = SCHEMA_LIMITS if request.json_schema else GRAMMAR_LIMITS
        matcher = LLMatcher(self.tokenizer, text, log_level=0, limits=limits)
        if not matcher.is_error():
            return Grammar(matcher, self._size, self.tokenizer.vocab_size)
        what = _sentence(matcher.get_error())
        if request.json_schema:
            raise schema.refusal(request.json_schema, what, lambda text: self._complaint(text, limits))
        if request.grammar and not is_lark_syntax(request.grammar):
            what = _PLACE.sub("", what)  # a place in the Lark
        raise GoalError(ErrorCode.INVALID_GRAMMAR, f"{'regex' if request.regex else 'grammar'} is not valid: {what}")

    def _complaint(self, text: str, limits: LLParserLimits) -> str:
        _, errors = LLMatcher.validate_grammar_with_warnings(text, self.tokenizer, limits=limits)
        return _sentence(errors[0]) if errors else ""


class Grammar:
    """One goal's grammar, and how far its answer is in it.

    Args:
        matcher: keeps it.
        size: tokens of the vocabulary.
        mask_bits: those that the matcher knows.
    """

    def __init__(self, matcher: LLMatcher, size: int, mask_bits: int) -> None:
        self._matcher = matcher
        self._size = size
        self._mask_bits = mask_bits
        self._mask: npt.NDArray[np.uint8] | None = None
        self._is_current = False
        self._tokens = 0

    def look_ahead(self) -> None:
        """Find out what may come next. It takes the longest of all and needs no interpreter, so that it can be done beside a step."""
        if self._is_current:
            return
        if self._mask is None:
            self._mask = np.zeros((self._mask_bits + 31) // 32 * 4, np.uint8)
        if self._matcher.is_stopped():
            self._mask.fill(0)
        else:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._is_current = True

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        return bool(self._bits[token >> 3] >> (token & 7) & 1)

    def allowed(self) -> npt.NDArray[np.intp]:
        """The tokens that may come next."""
        return np.flatnonzero(np.unpackbits(self._bits, count=self._size, bitorder="little"))

    def accept(self, token: int) -> None:
        """A token came, one that is allowed."""
        self._is_current = False
        self._tokens += 1
        self._matcher.consume_token(token)

    def forced(self) -> Sequence[int]:
        """Accept the tokens that must come next, if there are any, as far as their text is certain to be cut like this."""
        tokens = self._matcher.compute_ff_tokens()
        if tokens:
            self._is_current = False
            self._tokens += len(tokens)
            self._matcher.consume_tokens(tokens)
        return tokens

    @property
    def is_complete(self) -> bool:
        """Whether nothing may come any more but the end."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def complaint(self) -> str:
        """Why nothing more can be said about what may come next; empty as long as all is well."""
        if not self._matcher.is_error():
            return ""
        what = _sentence(self._matcher.get_error())
        return f"what the answer may be became too complex after {self._tokens} of its tokens ({what}); make it simpler"

    @property
    def _bits(self) -> npt.NDArray[np.uint8]:
        self.look_ahead()
        assert self._mask is not None
        return self._mask


def _sentence(error: Any) -> str:
    """llguidance's complaint in one line: without the text around the place, which it prints like a compiler."""
    text = str(error)
    if wrong := _REGEX_ERROR.search(text):
        return f"{wrong['what']}, at column {len(wrong['before']) + 1} of the regular expression"
    return _AT.sub(r"at line \1, column \2: ", text.splitlines()[0])[:300]
