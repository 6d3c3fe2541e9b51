"""What an answer may be: a JSON schema, a regular expression or a grammar, kept token by token by llguidance."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits
from llguidance.gbnf_to_lark import is_lark_syntax
from llguidance.llamacpp import lltokenizer_from_vocab

from slice_ros.engines.llama import gbnf, schema
from slice_ros.engines.llama.tools.formats import Format
from slice_ros.engines.llama.tools.tool import Choice
from slice_ros.engines.llama.vocabulary import Vocabulary
from slice_ros.goal import ErrorCode, GoalError, GoalRequest

LONGEST = 64 * 1024
SCHEMA_LIMITS = LLParserLimits(step_lexer_fuel=200_000, step_max_items=20_000, max_lexer_states=20_000, verbose_errors=False)
"""For one token, llguidance works off about 14,000 units of fuel and 20,000 items in a millisecond; names like ``^.{1,255}$``, which are
published, need more than 100,000. A state takes 1 to 2 kB, and each byte of a forced text may be a new one, of 6 microseconds."""
GRAMMAR_LIMITS = LLParserLimits(step_lexer_fuel=50_000, step_max_items=5_000, max_lexer_states=10_000, verbose_errors=False)
"""Grammars can be ambiguous in every place, and an item then costs more."""

_AT = re.compile(r"(?:at )?(\d+)\((\d+)\): ")
_PLACE = re.compile(r"at line \d+, column \d+: ")
_REGEX_ERROR = re.compile(r"regex parse error:\n {4}.*\n {4}(?P<before> *)\^+\n+error: (?P<what>.*)")


class Grammars:
    """Makes the grammars of goals for one vocabulary; thread-safe."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
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
        for source, text in (("regex", request.regex), ("grammar", request.grammar)):
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

    def of_calls(self, choice: Choice, form: Format) -> Grammar:
        """The grammar of calls of tools: of the whole answer where one is required, else of what comes once calls begin.

        Raises:
            GoalError: INVALID_GRAMMAR, with the tool whose schema cannot be kept.
        """
        text = self._calls(choice, form)
        matcher = LLMatcher(self.tokenizer, text, log_level=0, limits=SCHEMA_LIMITS)
        if matcher.is_error():
            for tool in choice.tools:
                if what := self._complaint(self._calls(replace(choice, tools=(tool,)), form), SCHEMA_LIMITS):
                    raise GoalError(
                        ErrorCode.INVALID_GRAMMAR, f"the parameters of tool {tool.name!r} cannot be kept: {_PLACE.sub('', what)}"
                    )
            raise GoalError(ErrorCode.INVALID_GRAMMAR, f"the tools cannot be kept together: {_sentence(matcher.get_error())}")
        if choice.is_required:
            return Grammar(matcher, self._size, self.tokenizer.vocab_size)
        return LazyGrammar(matcher, self._size, self.tokenizer.vocab_size, form.trigger, self._vocabulary.name, is_first=form.is_first)

    def _calls(self, choice: Choice, form: Format) -> str:
        try:
            text = form.grammar(choice, self._vocabulary.lark)
            if len(text) > LONGEST:
                raise GoalError(ErrorCode.INVALID_GRAMMAR, f"the tools' schemas have {len(text)} characters; at most {LONGEST} are allowed")
            return LLMatcher.grammar_from_lark(text)
        except ValueError as error:  # half a surrogate, NaN, or a number that is too large
            raise GoalError(ErrorCode.INVALID_GRAMMAR, f"tools hold what is no JSON: {error}") from error

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

    def allowed(self) -> npt.NDArray[np.intp] | None:
        """The tokens that may come next; ``None`` is any."""
        return np.flatnonzero(np.unpackbits(self._bits, count=self._size, bitorder="little"))

    def accept(self, token: int) -> None:
        """A token came, one that is allowed."""
        self._is_current = False
        self._tokens += 1
        self._matcher.consume_token(token)

    def follows(self, tokens: Sequence[int]) -> bool:
        """Accept the beginning of an answer that is there already; whether it is the beginning of one that is allowed."""
        self._is_current = False
        self._tokens += len(tokens)
        self._matcher.consume_tokens(list(tokens))
        return not self._matcher.is_error()

    def forced(self) -> Sequence[int]:
        """Accept the tokens that must come next, if there are any, as far as their text is certain to be cut like this."""
        tokens = self._matcher.compute_ff_tokens()
        if tokens:
            self._is_current = False
            self._tokens += len(tokens)
            self._matcher.consume_tokens(tokens)
        return tokens

    def agrees(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, may come next one after the other; changes nothing."""
        return int(self._matcher.validate_tokens(list(tokens)))

    @property
    def is_awake(self) -> bool:
        """Whether it says what may come next."""
        return True

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


class LazyGrammar(Grammar):
    """A grammar that lets everything pass until a trigger has come, and is kept from there on.

    Args:
        trigger: a text, which may lie in several tokens, or a control token's name.
        name_of: a token's text or name.
        is_first: whether the answer must begin with the trigger.
    """

    def __init__(
        self, matcher: LLMatcher, size: int, mask_bits: int, trigger: str, name_of: Callable[[int], str], *, is_first: bool
    ) -> None:
        super().__init__(matcher, size, mask_bits)
        self._trigger = trigger
        self._name_of = name_of
        self._is_first = is_first
        self._is_awake = self._is_over = False
        self._latest: list[int] = []
        self._heard = ""

    def look_ahead(self) -> None:
        if self._is_awake:
            super().look_ahead()

    def allows(self, token: int) -> bool:
        return not self._is_awake or super().allows(token)

    def allowed(self) -> npt.NDArray[np.intp] | None:
        return super().allowed() if self._is_awake else None

    def accept(self, token: int) -> None:
        if self._is_awake:
            super().accept(token)
        elif not self._is_over:
            self._latest.append(token)
            self._heard += self._name_of(token)
            self._listen()

    def forced(self) -> Sequence[int]:
        return super().forced() if self._is_awake else ()

    def agrees(self, tokens: Sequence[int]) -> int:
        return super().agrees(tokens) if self._is_awake else len(tokens)

    @property
    def is_awake(self) -> bool:
        return self._is_awake

    def _listen(self) -> None:
        """Wake up where the latest tokens hold the trigger; else forget those that cannot be its beginning."""
        if self._is_first:
            heard = self._heard.lstrip()
            self._is_over = not (heard.startswith(self._trigger) or self._trigger.startswith(heard))
            is_there = heard.startswith(self._trigger)
        else:
            is_there = self._trigger in self._heard
            while len(rest := self._heard[len(self._name_of(self._latest[0])) :]) >= len(self._trigger) and (
                self._trigger in rest or not is_there
            ):
                self._heard = rest
                del self._latest[0]
        if is_there:
            self._is_awake = self._matcher.try_consume_tokens(self._latest) == len(self._latest)
            if not self._is_awake:  # what came with the trigger begins no call
                self._matcher.reset()
                self._latest, self._heard = [], ""
                self._is_over = self._is_first


def _sentence(error: Any) -> str:
    """llguidance's complaint in one line: without the text around the place, which it prints like a compiler."""
    text = str(error)
    if wrong := _REGEX_ERROR.search(text):
        return f"{wrong['what']}, at column {len(wrong['before']) + 1} of the regular expression"
    return _AT.sub(r"at line \1, column \2: ", text.splitlines()[0])[:300]
