"""Logits to one goal's next token."""

from __future__ import annotations

import codecs
import ctypes
import re
import secrets
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from slice_ros.goal import Sampling

PENALTY_TOKENS = 64
"""How many of the latest tokens the repeat penalty looks at; llama.cpp's default."""

LIKELY_TOKENS = 64
"""How many of the most likely tokens a grammar is asked about before it is asked about all."""

GRAMMAR_S, GRAMMAR_TOKEN_S = 1.0, 0.1
"""Time of the processor that a goal's grammar may take: so much, and so much for each token."""

SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")
"""Half a UTF-16 surrogate, which Python's decoder refuses only with its last byte, when nothing else can follow."""


class Sampler:
    """One goal's choice of tokens.

    Args:
        chain: llama.cpp's sampler chain; ``None`` takes the most likely token.
        grammar: llama.cpp's grammar sampler; ``None`` is no grammar.
        piece: the bytes of a token.
    """

    def __init__(self, chain: Any, grammar: Any, piece: Callable[[int], bytes]) -> None:
        self._chain = chain
        self._grammar = grammar
        self._piece = piece
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._tokens = 0
        self._grammar_s = 0.0

    def draw(self, best: int, logits: npt.NDArray[np.float32], candidates: Candidates) -> int | None:
        """The next token.

        Args:
            best: the most likely token.
            logits: of every token of the vocabulary.
            candidates: room to work in, which all samplers share.

        Returns:
            The token; ``None`` if the grammar allows none.
        """
        token = best
        if self._chain is not None:
            candidates.load(logits)
            token = candidates.draw(self._chain)
        if self._grammar is not None:
            began_s = time.thread_time()
            # To ask about one token is cheap, and mostly the one drawn first is right.
            if not (candidates.allows(self._grammar, token) and self._continues_text(token)):
                allowed = self._draw_allowed(logits, candidates)
                if allowed is None:
                    return None
                token = allowed
            # llama.cpp aborts the process when a token is accepted that the grammar does not allow.
            llama_cpp.llama_sampler_accept(self._grammar, token)
            self._tokens += 1
            self._grammar_s += time.thread_time() - began_s
        if self._chain is not None:
            llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    @property
    def is_slow(self) -> bool:
        """Whether the grammar takes so much of the processor that the other goals must not wait for it any longer."""
        return self._grammar_s > GRAMMAR_S + GRAMMAR_TOKEN_S * self._tokens

    @property
    def complaint(self) -> str:
        return (
            f"its grammar took {self._grammar_s:.2f} s of the processor for {self._tokens} tokens of the answer; at most {GRAMMAR_S:g} s "
            f"and {GRAMMAR_TOKEN_S:g} s a token are allowed, as all goals wait meanwhile: let fewer of its rules begin with each other"
        )

    def free(self) -> None:
        for sampler in (self._chain, self._grammar):
            if sampler is not None:
                llama_cpp.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def _draw_allowed(self, logits: npt.NDArray[np.float32], candidates: Candidates) -> int | None:
        """Draw among the tokens that the grammar allows; ``None`` if it allows none."""
        if self._chain is None:  # to ask about the whole vocabulary takes long, and the best one is mostly among the most likely
            likely = min(LIKELY_TOKENS, len(logits))
            candidates.load(logits, np.argpartition(logits, -likely)[-likely:])
            candidates.apply(self._grammar)
            if candidates.any_left() and self._continues_text(token := candidates.best()):
                return token
        broken: list[int] = []
        while True:
            candidates.load(logits)
            candidates.apply(self._grammar)
            candidates.drop(broken)
            if not candidates.any_left():
                return None
            token = candidates.best() if self._chain is None else candidates.draw(self._chain)
            if self._continues_text(token):
                return token
            broken.append(token)

    def _continues_text(self, token: int) -> bool:
        """Take a token's bytes in if they go on as UTF-8; llama.cpp's grammars also read as a character what is none."""
        state = self._decoder.getstate()
        try:
            self._decoder.decode(self._piece(token))
        except UnicodeDecodeError:
            goes_on = False
        else:
            goes_on = not SURROGATE.match(self._decoder.getstate()[0])
        if not goes_on:
            self._decoder.setstate(state)
        return goes_on


def most_likely(logits: npt.NDArray[np.float32]) -> list[int]:
    """The token of each row with the highest logit."""
    tokens: list[int] = logits.argmax(axis=1).tolist()
    return tokens


def logprob(logits: npt.NDArray[np.float32], token: int) -> float:
    """The natural logarithm of a token's probability."""
    highest = logits.max()
    return float(logits[token] - highest - np.log(np.exp(logits - highest).sum()))


class Candidates:
    """The tokens of the vocabulary with their logits, as samplers take them (``llama_token_data_array``)."""

    _DTYPE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

    def __init__(self, size: int) -> None:
        self._ids = np.arange(size, dtype=np.int32)
        self._data = np.zeros(size, self._DTYPE)
        self._array = llama_cpp.llama_token_data_array()
        self._single = llama_cpp.llama_token_data()
        self._single_array = llama_cpp.llama_token_data_array(ctypes.pointer(self._single), 1, -1, False)

    def load(self, logits: npt.NDArray[np.float32], ids: npt.NDArray[np.intp] | None = None) -> None:
        """Take all tokens, or some."""
        count = self._array.size = len(self._ids if ids is None else ids)
        data = self._data[:count]
        data["id"] = self._ids if ids is None else ids  # samplers sort and cut the array
        data["logit"] = logits if ids is None else logits[ids]
        self._array.data = ctypes.cast(data.ctypes.data, llama_cpp.llama_token_data_p)
        self._array.selected = -1
        self._array.sorted = False

    def apply(self, sampler: Any) -> None:
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(self._array))

    def drop(self, tokens: Sequence[int]) -> None:
        if tokens:
            self._data["logit"][np.isin(self._data["id"][: self._array.size], tokens).nonzero()] = -np.inf

    def draw(self, sampler: Any) -> int:
        """Apply a chain that ends with a choice, and return the token chosen."""
        self.apply(sampler)
        return int(self._array.data[self._array.selected].id)

    def any_left(self) -> bool:
        return bool(self._data["logit"][: self._array.size].max() > -np.inf)

    def best(self) -> int:
        """The most likely token."""
        return int(self._data["id"][self._data["logit"][: self._array.size].argmax()])

    def allows(self, grammar: Any, token: int) -> bool:
        """Whether a grammar allows a token next."""
        self._single.id, self._single.logit = token, 0.0
        llama_cpp.llama_sampler_apply(grammar, ctypes.byref(self._single_array))
        return bool(self._single.logit == 0.0)


def make_chain(sampling: Sampling, prompt: array[int], vocabulary_size: int) -> Any:
    """A sampler chain in the order of llama.cpp's own tools; ``None`` if nothing is to be done but to take the best."""
    penalty = sampling.repeat_penalty not in (0.0, 1.0)
    if sampling.temperature == 0.0 and not penalty:
        return None
    sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

    def add(part: Any) -> None:
        llama_cpp.llama_sampler_chain_add(sampler, part)

    if penalty:
        add(llama_cpp.llama_sampler_init_penalties(vocabulary_size, PENALTY_TOKENS, sampling.repeat_penalty, 0.0, 0.0))
    if sampling.temperature == 0.0:
        add(llama_cpp.llama_sampler_init_greedy())
    else:
        if sampling.top_k:
            add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
        if 0.0 < sampling.top_p < 1.0:
            add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p:
            add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
        add(llama_cpp.llama_sampler_init_temp(sampling.temperature))
        # 0 asks for a new seed; llama.cpp takes 2**32 - 1 for that.
        add(llama_cpp.llama_sampler_init_dist(min(sampling.seed, 2**32 - 2) or secrets.randbelow(2**32 - 2)))
    if penalty:
        for token in prompt[-PENALTY_TOKENS:]:
            llama_cpp.llama_sampler_accept(sampler, token)
    return sampler
