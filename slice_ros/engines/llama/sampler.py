"""Logits to one goal's next token."""

from __future__ import annotations

import ctypes
import secrets
from array import array
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from slice_ros.engines.llama.grammar import Grammar
from slice_ros.goal import Sampling

PENALTY_TOKENS = 64
"""How many of the latest tokens the repeat penalty looks at; llama.cpp's default."""

COLDEST = 1e-3
"""Below this temperature the most likely token is taken: a logit's rounding counts more than the draw, and logits would overflow."""


class Sampler:
    """One goal's choice of tokens.

    Args:
        chain: llama.cpp's sampler chain; ``None`` takes the most likely token.
        grammar: what may be drawn; ``None`` is anything.
    """

    def __init__(self, chain: Any, grammar: Grammar | None) -> None:
        self._chain = chain
        self._grammar = grammar
        self.is_bound = True
        """Whether the grammar counts: not while the model reasons."""

    @property
    def grammar(self) -> Grammar | None:
        return self._grammar if self.is_bound else None

    def draw(self, best: int, logits: npt.NDArray[np.float32], candidates: Candidates) -> int | None:
        """The next token. It does not count as one of the answer before it is accepted.

        Args:
            best: the most likely token.
            logits: of every token of the vocabulary.
            candidates: room to work in, which all samplers share.

        Returns:
            The token; ``None`` if the grammar allows none.
        """
        if self._chain is None and (self.grammar is None or self.grammar.allows(best)):
            return best
        allowed = None if self.grammar is None else self.grammar.allowed()
        if allowed is not None and not len(allowed):
            return None
        if self._chain is None:
            return int(allowed[logits[allowed].argmax()]) if allowed is not None else best
        candidates.load(logits, allowed)
        return candidates.draw(self._chain)

    def accept(self, token: int) -> None:
        """A token of the answer was drawn."""
        if self.grammar is not None:
            self.grammar.accept(token)
        if self._chain is not None:
            llama_cpp.llama_sampler_accept(self._chain, token)

    def forced(self) -> Sequence[int]:
        """Accept the tokens that must come next. To the chain they were drawn among one, so that a seed goes on as it would have."""
        tokens = () if self.grammar is None else self.grammar.forced()
        for token in tokens if self._chain is not None else ():
            only = llama_cpp.llama_token_data(token, 0.0, 0.0)
            array = llama_cpp.llama_token_data_array(ctypes.pointer(only), 1, -1, False)
            llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
            llama_cpp.llama_sampler_accept(self._chain, token)
        return tokens

    def free(self) -> None:
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
        self._chain = self._grammar = None


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

    def load(self, logits: npt.NDArray[np.float32], ids: npt.NDArray[np.intp] | None = None) -> None:
        """Take all tokens, or some."""
        count = self._array.size = len(self._ids if ids is None else ids)
        data = self._data[:count]
        data["id"] = self._ids if ids is None else ids  # samplers sort and cut the array
        data["logit"] = logits if ids is None else logits[ids]
        self._array.data = ctypes.cast(data.ctypes.data, llama_cpp.llama_token_data_p)
        self._array.selected = -1
        self._array.sorted = False

    def draw(self, sampler: Any) -> int:
        """Apply a chain that ends with a choice, and return the token chosen: one of those loaded, whatever the numbers are."""
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(self._array))
        chosen = self._array.selected
        return int(self._array.data[chosen if 0 <= chosen < self._array.size else 0].id)


def make_chain(sampling: Sampling, prompt: array[int], vocabulary_size: int) -> Any:
    """A sampler chain in the order of llama.cpp's own tools; ``None`` if nothing is to be done but to take the best."""
    penalty = sampling.repeat_penalty not in (0.0, 1.0)
    is_greedy = sampling.temperature < COLDEST
    if is_greedy and not penalty:
        return None
    sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

    def add(part: Any) -> None:
        llama_cpp.llama_sampler_chain_add(sampler, part)

    if penalty:
        add(llama_cpp.llama_sampler_init_penalties(vocabulary_size, PENALTY_TOKENS, sampling.repeat_penalty, 0.0, 0.0))
    if is_greedy:
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
