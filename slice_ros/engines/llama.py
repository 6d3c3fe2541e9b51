"""Computes steps with llama.cpp: one context, a KV sequence for each open goal, one ``llama_decode`` for each column."""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import re
import secrets
import struct
import tempfile
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

# llama.cpp's threads meet several times in each layer. By default they spin for a millisecond and more at each meeting, so that one busy
# program beside them makes steps ten to a hundred times longer. 1000 turns are enough on a quiet machine. OpenMP reads this on loading.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# When llama.cpp aborts, it prints where. Without this it would have gdb print the stack, too, while clients wait for the news.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from llama_cpp.llama_grammar import json_schema_to_gbnf

from slice_ros.engines.base import EngineError, EngineInfo, KvFullError, KvUse, Output
from slice_ros.engines.grammar import check_grammar, locate
from slice_ros.engines.text import TextStream
from slice_ros.goal import ChatMessage, ErrorCode, FinishReason, GoalError, GoalRequest, Sampling
from slice_ros.mask import Column
from slice_ros.models import default_model_path
from slice_ros.parameters import Value

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Chat template of a model that brings none, as llama.cpp does it."""

PENALTY_TOKENS = 64
"""How many of the latest tokens the repeat penalty looks at; llama.cpp's default."""

LIKELY_TOKENS = 64
"""How many of the most likely tokens a grammar is asked about before it is asked about all."""

KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "q4_0": 2}
"""Types of KV cells, with ggml's numbers."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Model and context, named as llama.cpp names them.

    Args:
        model_path: a GGUF file.
        n_ctx: KV cells, shared by all sequences.
        n_batch: tokens in one step at most.
        n_seq_max: sequences that can hold KV at once.
        n_threads: threads that compute; 0 takes the physical cores this process may use.
        n_gpu_layers: layers on the GPU, where llama.cpp was built for one; negative is all.
        main_gpu: index of the GPU that holds small tensors.
        tensor_split: share of the model for each GPU; empty splits by free memory.
        flash_attn: let llama.cpp use flash attention where the device has it.
        type_k: type of the keys in KV cells, one of ``KV_TYPES``.
        type_v: type of the values; a quantised one needs flash attention.
        use_mmap: map the file instead of reading it.
        use_mlock: keep the model from being swapped out.

    Raises:
        EngineError: a value is out of range.
    """

    model_path: str | Path
    n_ctx: int = 8192
    n_batch: int = 512
    n_seq_max: int = 64
    n_threads: int = 0
    n_gpu_layers: int = -1
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    flash_attn: bool = True
    type_k: str = "f16"
    type_v: str = "f16"
    use_mmap: bool = True
    use_mlock: bool = False

    def __post_init__(self) -> None:
        for name, least, most in (("n_ctx", 1, 2**31 - 1), ("n_batch", 1, 2**16), ("n_seq_max", 1, 256), ("n_threads", 0, 512)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise EngineError(f"{name} is {value}; it must be in {least}..{most}")
        for name in ("type_k", "type_v"):
            if getattr(self, name) not in KV_TYPES:
                raise EngineError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(KV_TYPES)}")
        if len(self.tensor_split) > llama_cpp.llama_max_devices():
            raise EngineError(f"tensor_split has {len(self.tensor_split)} values; llama.cpp knows {llama_cpp.llama_max_devices()} devices")

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Value]) -> LlamaConfig:
        """The server's parameters ``model.path``, ``context.*``, ``gpu.*`` and ``cpu.*``; without a path the default model is taken.

        Raises:
            EngineError: a value is out of range.
        """
        groups = {"context", "gpu", "cpu"}
        values: dict[str, Any] = {}
        for name, value in parameters.items():
            group, _, key = name.partition(".")
            if group in groups:
                values[key] = value
        values["tensor_split"] = _shares(values["tensor_split"])
        return cls(str(parameters["model.path"]) or default_model_path(), **values)


@dataclass(slots=True)
class _Goal:
    """One goal's tokens and what turns logits into its next one.

    The token sampled last is not computed yet: a decode computes it and samples the next. So a decode, a prompt chunk, and computing
    everything again after an eviction are the same thing: the next ``count`` of the ``pending`` tokens.

    Args:
        tokens: prompt and output so far.
        limit: ends by length when it has so many.
        text: the output as text.
        sampler: llama.cpp's sampler chain; ``None`` takes the most likely token.
        grammar: llama.cpp's grammar sampler; ``None`` is no grammar.
        computed: how many tokens have their KV.
        sequence: llama.cpp's sequence id; ``None`` while not open.
    """

    tokens: array[int]
    limit: int
    text: TextStream
    sampler: Any = None
    grammar: Any = None
    computed: int = 0
    sequence: int | None = None
    finished: bool = False

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    def free(self) -> None:
        for sampler in (self.sampler, self.grammar):
            if sampler is not None:
                llama_cpp.llama_sampler_free(sampler)
        self.sampler = self.grammar = None


class LlamaEngine:
    """The ``Engine`` on llama.cpp's low-level API.

    Raises:
        EngineError: the model cannot be loaded or the context cannot be made; the message says why and what to do.
    """

    def __init__(self, config: LlamaConfig) -> None:
        self._goals: dict[str, _Goal] = {}
        self._model, self._context = _load(config)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = _Vocabulary(self._model)
        self._chat = _Chat(self._model, self._vocabulary)
        n_ctx, n_batch = llama_cpp.llama_n_ctx(self._context), llama_cpp.llama_n_batch(self._context)
        self._info = EngineInfo(Path(config.model_path).name, _device(config), n_ctx, config.n_seq_max, n_batch)
        # Positions beyond those of its training make a model talk nonsense.
        self._trained: int = llama_cpp.llama_model_n_ctx_train(self._model)
        self._longest = min(n_ctx, self._trained)
        self._sequences = deque(range(config.n_seq_max))
        self._kv_used = 0
        self._batch = _Batch(n_batch, n_ctx)
        self._candidates = _Candidates(self._vocabulary.size)
        self._warm_up()

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def kv(self) -> KvUse:
        return KvUse(self._kv_used, self._info.context_tokens)

    def prepare(self, request: GoalRequest) -> int:
        if request.goal_id in self._goals:
            raise GoalError(ErrorCode.INVALID_GOAL, f"goal_id is {request.goal_id}, which is in use; it must be unique")
        prompt = self._chat.tokenize(request.messages) if request.messages else self._vocabulary.tokenize(request.prompt)
        if not prompt:
            raise GoalError(ErrorCode.INVALID_GOAL, "the prompt has no tokens; give at least one")
        limit = len(prompt) + request.max_tokens
        if limit > self._longest:
            raise GoalError(
                ErrorCode.CONTEXT_EXCEEDED,
                f"the prompt has {len(prompt)} tokens and max_tokens is {request.max_tokens}, together {limit}; at most {self._longest} "
                f"fit (n_ctx is {self._info.context_tokens}, the model was trained with {self._trained})",
            )
        goal = _Goal(prompt, limit, TextStream(request.stop))
        goal.grammar = self._grammar(request)
        goal.sampler = self._sampler(request.sampling, prompt)
        self._goals[request.goal_id] = goal
        return len(prompt)

    def open(self, goal_id: str) -> int:
        goal = self._goals[goal_id]
        if goal.sequence is not None:
            raise ValueError(f"goal {goal_id} is open already")
        if not self._sequences:
            raise ValueError(f"goal {goal_id} cannot be opened: all {self._info.max_sequences} sequences are taken; evict or close one")
        goal.sequence = self._sequences.popleft()
        # A prefix that another sequence holds would be copied here (llama_memory_seq_cp), and counted in goal.computed.
        return goal.computed

    def step(self, column: Column) -> list[Output]:
        goals = self._fill(column)
        if not goals:
            return []
        self._decode()
        self._kv_used += self._batch.size
        complete = []
        for goal_id, goal, count in goals:
            goal.computed += count
            if not goal.pending:
                complete.append((goal_id, goal))
        if not complete:
            return []
        logits = self._logits(len(complete))
        best = logits.argmax(axis=1).tolist()
        return [self._extend(goal_id, goal, self._sample(goal, best[i], logits[i])) for i, (goal_id, goal) in enumerate(complete)]

    def evict(self, goal_id: str) -> int:
        goal = self._goals[goal_id]
        self._release(goal)
        return goal.pending

    def close(self, goal_id: str) -> None:
        goal = self._goals.pop(goal_id, None)
        if goal is not None:
            self._release(goal)
            goal.free()

    def shutdown(self) -> None:
        for goal_id in list(self._goals):
            self.close(goal_id)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _fill(self, column: Column) -> list[tuple[str, _Goal, int]]:
        """Put the column into the batch; changes nothing else.

        Raises:
            ValueError: the column asks for something that cannot be: the caller's mistake.
        """
        batch = self._batch
        batch.clear()
        goals = []
        for goal_id, prompt_tokens in column:
            goal = self._goals[goal_id]
            count, pending = prompt_tokens or 1, goal.pending
            if goal.sequence is None or goal.finished:
                raise ValueError(f"goal {goal_id} is in a step but {'has finished' if goal.finished else 'is not open'}")
            if count > pending or (not prompt_tokens and pending > 1):
                cell = f"{prompt_tokens} prompt tokens" if prompt_tokens else "a decode"
                raise ValueError(f"goal {goal_id} is in a step with {cell}, but has {pending} tokens to compute")
            batch.add(goal.tokens, goal.computed, count, goal.sequence, wants_logits=count == pending)
            goals.append((goal_id, goal, count))
        if len({goal_id for goal_id, _, _ in goals}) < len(goals):
            raise ValueError("a goal is in the step twice")
        return goals

    def _decode(self) -> None:
        """Run llama.cpp over the batch.

        Raises:
            KvFullError: no cells for it; llama.cpp restored the state before the call.
            EngineError: what the context holds now is unknown.
        """
        status = llama_cpp.llama_decode(self._context, self._batch.struct)
        if status == 0:
            return
        if status == 1:
            raise KvFullError(
                f"a step of {self._batch.size} tokens finds no room: {self._kv_used} of {self._info.context_tokens} KV cells are taken; "
                "evict a goal, or raise n_ctx"
            )
        raise EngineError(f"llama_decode failed with status {status}, the log says why; restart the engine")

    def _logits(self, rows: int) -> npt.NDArray[np.float32]:
        """The logits of those tokens of the batch that asked for them, in order; valid until the next step."""
        logits = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (rows, self._vocabulary.size))

    def _sample(self, goal: _Goal, token: int, logits: npt.NDArray[np.float32]) -> int | None:
        """Draw a goal's next token, if it is not to be the most likely one, which is given; ``None`` if its grammar allows no token."""
        candidates = self._candidates
        if goal.sampler is not None:
            candidates.load(logits)
            token = candidates.draw(goal.sampler)
        if goal.grammar is not None:
            # To ask about one token is cheap, and mostly the one drawn first is right.
            if not candidates.allows(goal.grammar, token):
                allowed = self._sample_allowed(goal, logits)
                if allowed is None:
                    return None
                token = allowed
            # llama.cpp aborts the process when a token is accepted that the grammar does not allow.
            llama_cpp.llama_sampler_accept(goal.grammar, token)
        if goal.sampler is not None:
            llama_cpp.llama_sampler_accept(goal.sampler, token)
        return token

    def _sample_allowed(self, goal: _Goal, logits: npt.NDArray[np.float32]) -> int | None:
        """Draw among the tokens that a goal's grammar allows; ``None`` if it allows none."""
        candidates = self._candidates
        if goal.sampler is None:  # to ask about the whole vocabulary takes long, and the best one is mostly among the most likely
            likely = min(LIKELY_TOKENS, len(logits))
            candidates.load(logits, np.argpartition(logits, -likely)[-likely:])
            candidates.apply(goal.grammar)
            if candidates.any_left():
                return candidates.best()
        candidates.load(logits)
        candidates.apply(goal.grammar)
        if not candidates.any_left():
            return None
        return candidates.best() if goal.sampler is None else candidates.draw(goal.sampler)

    def _extend(self, goal_id: str, goal: _Goal, token: int | None) -> Output:
        """Add a sampled token to a goal."""
        if token is None or token in self._vocabulary.ending:
            text, finish = goal.text.flush(), FinishReason.STOP
        else:
            goal.tokens.append(token)
            text, stopped = goal.text.push(self._vocabulary.piece(token))
            if stopped:
                finish = FinishReason.STOP
            elif len(goal.tokens) == goal.limit:
                text, finish = text + goal.text.flush(), FinishReason.LENGTH
            else:
                return Output(goal_id, text)
        goal.finished = True
        return Output(goal_id, text, finish)

    def _release(self, goal: _Goal) -> None:
        """Take a goal's sequence and KV away, if it has any."""
        if goal.sequence is None:
            return
        llama_cpp.llama_memory_seq_rm(self._memory, goal.sequence, -1, -1)
        self._sequences.append(goal.sequence)
        self._kv_used -= goal.computed
        goal.sequence, goal.computed = None, 0

    def _sampler(self, sampling: Sampling, prompt: array[int]) -> Any:
        """A sampler chain in the order of llama.cpp's own tools; ``None`` if nothing is to be done but to take the best."""
        penalty = sampling.repeat_penalty not in (0.0, 1.0)
        if sampling.temperature == 0.0 and not penalty:
            return None
        sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

        def add(part: Any) -> None:
            llama_cpp.llama_sampler_chain_add(sampler, part)

        if penalty:
            add(llama_cpp.llama_sampler_init_penalties(self._vocabulary.size, PENALTY_TOKENS, sampling.repeat_penalty, 0.0, 0.0))
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

    def _grammar(self, request: GoalRequest) -> Any:
        """The grammar sampler of a request; ``None`` if it has no grammar.

        Raises:
            GoalError: INVALID_GRAMMAR, with the place where it is wrong.
        """
        if request.json_schema:
            return _init_grammar(self._vocabulary.pointer, _schema_to_grammar(request.json_schema), "json_schema")
        if request.grammar:
            return _init_grammar(self._vocabulary.pointer, request.grammar, "grammar")
        return None

    def _warm_up(self) -> None:
        """Compute one token, so that the first goal does not pay for page faults and lazy set-up."""
        self._batch.clear()
        self._batch.add(array("i", [0]), 0, 1, 0, wants_logits=True)
        try:
            self._decode()
        finally:
            llama_cpp.llama_memory_clear(self._memory, True)


class _Batch:
    """A ``llama_batch`` over preallocated arrays."""

    def __init__(self, capacity: int, positions: int) -> None:
        self._capacity = capacity
        self._positions = array("i", range(positions))
        tokens, positions_of, sequences, ones = (array("i", [value]) * capacity for value in (0, 0, 0, 1))
        logits = array("b", bytes(capacity))
        # llama.cpp wants a list of sequence ids for each token; each list has one id here.
        first, _ = sequences.buffer_info()
        lists = array("Q", range(first, first + capacity * sequences.itemsize, sequences.itemsize))
        self._token, self._position, self._sequence = memoryview(tokens), memoryview(positions_of), memoryview(sequences)
        self._wants_logits = memoryview(logits)
        self._arrays = {"token": tokens, "pos": positions_of, "n_seq_id": ones, "seq_id": lists, "logits": logits}
        self.struct = llama_cpp.llama_batch()
        for name, kind in llama_cpp.llama_batch._fields_:
            if name in self._arrays:
                setattr(self.struct, name, ctypes.cast(self._arrays[name].buffer_info()[0], kind))
        self.size = 0

    def clear(self) -> None:
        self.size = self.struct.n_tokens = 0

    def add(self, tokens: array[int], first: int, count: int, sequence: int, *, wants_logits: bool) -> None:
        """Add ``tokens[first:first + count]`` at those positions of a sequence; logits are for the last of them."""
        start, end = self.size, self.size + count
        if end > self._capacity:
            raise ValueError(f"a step has {end} tokens or more; at most {self._capacity} fit")
        if count == 1:  # a decode; slices would cost four times as much
            self._token[start], self._position[start], self._sequence[start] = tokens[first], first, sequence
        else:
            self._token[start:end] = tokens[first : first + count]
            self._position[start:end] = self._positions[first : first + count]
            self._sequence[start:end] = array("i", [sequence]) * count
            self._wants_logits[start:end] = array("b", bytes(count))
        self._wants_logits[end - 1] = wants_logits
        self.size = self.struct.n_tokens = end


class _Candidates:
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


class _Vocabulary:
    """Text to tokens and back."""

    def __init__(self, model: Any) -> None:
        self.pointer = llama_cpp.llama_model_get_vocab(model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self.pointer)
        self._pieces: list[bytes | None] = [None] * self.size
        self.ending = frozenset(token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(self.pointer, token))
        """Tokens that end generation."""
        control = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        texts = (self.text(token) for token in range(self.size) if llama_cpp.llama_vocab_get_attr(self.pointer, token) & control)
        longest_first = sorted((text for text in texts if text), key=len, reverse=True)
        self.special: re.Pattern[str] | None = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        """Matches the texts of the control tokens."""

    def text(self, token: int) -> str:
        """A token as the vocabulary writes it; empty for -1."""
        return "" if token < 0 else llama_cpp.llama_vocab_get_text(self.pointer, token).decode("utf-8", "replace")

    @property
    def bos(self) -> str:
        return self.text(llama_cpp.llama_vocab_bos(self.pointer))

    @property
    def eos(self) -> str:
        return self.text(llama_cpp.llama_vocab_eos(self.pointer))

    def piece(self, token: int) -> bytes:
        """A token's bytes in a text; none for control tokens."""
        piece = self._pieces[token]
        if piece is None:
            buffer = ctypes.create_string_buffer(256)
            length = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, False)
            if length < 0:  # the size it needs
                buffer = ctypes.create_string_buffer(-length)
                length = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, False)
            piece = self._pieces[token] = buffer.raw[:length]
        return piece

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> array[int]:
        """Tokens of a text.

        Args:
            add_special: put the tokens around it that the model wants (BOS, EOS).
            parse_special: take the texts of control tokens for these tokens.
        """
        data = text.encode("utf-8", "replace")  # a lone surrogate, which is no character, becomes "?"
        capacity = len(data) + 8
        while True:
            tokens = array("i", [0]) * capacity
            pointer = ctypes.cast(tokens.buffer_info()[0], llama_cpp.llama_token_p)
            count = llama_cpp.llama_tokenize(self.pointer, data, len(data), pointer, capacity, add_special, parse_special)
            if count >= 0:
                return tokens[:count]
            capacity = -count


class _Chat:
    """Messages to tokens, with the model's chat template."""

    def __init__(self, model: Any, vocabulary: _Vocabulary) -> None:
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


class _Log:
    """Where llama.cpp's log goes: its warnings and errors to Python's, or errors to whoever collects them to explain a failure."""

    _LEVELS: ClassVar = {3: logging.WARNING, 4: logging.ERROR}  # the others are noise
    _CONTINUED = 5

    def __init__(self) -> None:
        self._level: int | None = None
        self._collectors: dict[int, list[str]] = {}
        self._callback = llama_cpp.llama_log_callback(self._write)  # must live as long as llama.cpp may call it
        llama_cpp.llama_log_set(self._callback, None)

    @contextmanager
    def collect_errors(self) -> Iterator[list[str]]:
        """Errors of this thread go to the list and not into the log."""
        thread = threading.get_ident()
        errors = self._collectors[thread] = []
        try:
            yield errors
        finally:
            del self._collectors[thread]

    def _write(self, level: int, text: bytes, _user_data: object) -> None:
        if level != self._CONTINUED:
            self._level = self._LEVELS.get(level)
        line = text.decode("utf-8", "replace").strip()
        if self._level is None or not line:
            return
        collector = self._collectors.get(threading.get_ident())
        if collector is not None and self._level == logging.ERROR:
            collector.append(line)
        else:
            _logger.log(self._level, "llama.cpp: %s", line)


_log = _Log()
_grammar_lock = threading.Lock()


def _shares(text: str) -> tuple[float, ...]:
    """Numbers of a list like ``0.6,0.4``."""
    try:
        shares = tuple(float(number) for number in text.split(",")) if text.strip() else ()
    except ValueError:
        shares = (math.nan,)
    if not all(math.isfinite(share) and share >= 0.0 for share in shares):
        raise EngineError(f"tensor_split is {text!r}; it must be numbers of 0 or more, as in '0.6,0.4', or empty")
    return shares


def _load(config: LlamaConfig) -> tuple[Any, Any]:
    """Model and context."""
    path = Path(config.model_path).expanduser()
    _check_gguf(path)
    llama_cpp.llama_backend_init()
    with _log.collect_errors() as errors:
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), _model_params(config))
    if not model:
        raise EngineError(f"{path} cannot be loaded: {_reason(errors)}; get the file again, or take a model that this llama.cpp knows")
    if not llama_cpp.llama_model_has_decoder(model) or llama_cpp.llama_model_has_encoder(model):
        llama_cpp.llama_model_free(model)
        raise EngineError(f"{path} is not a text generation model; take a decoder-only one")
    with _log.collect_errors() as errors:
        context = llama_cpp.llama_init_from_model(model, _context_params(config))
    if not context:
        llama_cpp.llama_model_free(model)
        raise EngineError(f"no context of n_ctx = {config.n_ctx} can be made for {path}: {_reason(errors)}; lower n_ctx, or free memory")
    return model, context


def _reason(errors: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(errors)) or "no reason given"


def _check_gguf(path: Path) -> None:
    """Refuse what is no GGUF file with a sentence that says more than llama.cpp's."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error.strerror}); give the path of a GGUF file") from error
    if len(head) < 8 or head[:4] != b"GGUF":
        start = f"it starts with {head[:4]!r}" if head else "it is empty"
        raise EngineError(f"{path} is not a GGUF file ({start}); give the path of a GGUF file")
    version = struct.unpack("<I", head[4:])[0]
    if version not in (2, 3):
        raise EngineError(f"{path} is GGUF version {version}; versions 2 and 3 can be read, convert the model again")


def _model_params(config: LlamaConfig) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = config.n_gpu_layers
    params.main_gpu = config.main_gpu
    if config.tensor_split:
        params.tensor_split = (ctypes.c_float * llama_cpp.llama_max_devices())(*config.tensor_split)
    if config.use_mmap:
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK if config.use_mlock else llama_cpp.LLAMA_LOAD_MODE_MMAP
    else:
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MLOCK if config.use_mlock else llama_cpp.LLAMA_LOAD_MODE_NONE
    if _has_amx():
        _logger.warning(
            "this llama.cpp was built with AMX kernels, which crash on quantised models; they are off, and with them the other fast "
            "kernels: scripts/install.sh builds one without AMX"
        )
        params.use_extra_bufts = False
    return params


def _has_amx() -> bool:
    """Whether llama.cpp may compute with AMX, whose kernels end the process at the first step of a Q4_0 model."""
    return re.search(rb"AMX\w* = 1", llama_cpp.llama_print_system_info()) is not None


def _context_params(config: LlamaConfig) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = config.n_ctx
    params.n_batch = params.n_ubatch = config.n_batch  # a step is computed as a whole
    params.n_seq_max = config.n_seq_max
    params.n_threads = params.n_threads_batch = config.n_threads or physical_cores()
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO if config.flash_attn else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.type_k, params.type_v = KV_TYPES[config.type_k], KV_TYPES[config.type_v]
    params.kv_unified = True  # one pool of cells, so that a long sequence can take what short ones leave
    params.no_perf = True
    return params


def physical_cores() -> int:
    """Physical cores this process may use, after CPU affinity and the control group's quota."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 1) // 2)
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    try:
        group = Path("/proc/self/cgroup").read_text().partition("::")[2].strip()
        quota, period = Path(f"/sys/fs/cgroup{group}/cpu.max").read_text().split()
        return max(1, min(len(cores), int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return len(cores)


def _device(config: LlamaConfig) -> str:
    """What computes, as ggml describes it."""
    library = llama_cpp.llama_cpp._lib
    by_type, description = library.ggml_backend_dev_by_type, library.ggml_backend_dev_description
    by_type.restype, description.argtypes, description.restype = ctypes.c_void_p, [ctypes.c_void_p], ctypes.c_char_p
    gpu = by_type(1) if config.n_gpu_layers else None
    name = description(gpu or by_type(0)) or b"CPU"
    return str(name.decode("utf-8", "replace").strip()) + ("" if gpu else f", {config.n_threads or physical_cores()} threads")


def _schema_to_grammar(schema: str) -> str:
    """GBNF of a JSON schema.

    Raises:
        GoalError: INVALID_GRAMMAR.
    """
    try:
        parsed = json.loads(schema)
        if not isinstance(parsed, dict):
            raise GoalError(ErrorCode.INVALID_GRAMMAR, f"json_schema is {schema[:40]!r}; it must be a JSON object")
        return str(json_schema_to_gbnf(schema))
    except GoalError:
        raise
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise GoalError(ErrorCode.INVALID_GRAMMAR, f"json_schema is not JSON: {error.msg} at {where}") from error
    except Exception as error:  # the converter raises what it meets
        reason = f"{type(error).__name__}: {error}"[:200]
        raise GoalError(ErrorCode.INVALID_GRAMMAR, f"json_schema cannot be turned into a grammar ({reason})") from error


def _init_grammar(vocabulary: Any, grammar: str, source: str) -> Any:
    """llama.cpp's sampler for a GBNF grammar.

    Args:
        source: the goal's field it comes from.

    Raises:
        GoalError: INVALID_GRAMMAR, with the place where it is wrong.
    """
    check_grammar(grammar, source)
    data = grammar.encode("utf-8", "replace")
    with _grammar_lock, _log.collect_errors() as errors:
        # llama.cpp prints what its parser says, and logs only what it finds later.
        sampler, printed = _call_capturing_stderr(lambda: llama_cpp.llama_sampler_init_grammar(vocabulary, data, b"root"))
    before, _, rest = printed.partition("parse: error parsing grammar: ")
    complaint, _, after = rest.partition(f"\n\n{grammar}\n")
    if before or after:  # another thread's
        os.write(2, f"{before}{after}".encode())
    if sampler:
        return sampler
    raise GoalError(ErrorCode.INVALID_GRAMMAR, f"{source} is not valid: {locate(complaint, grammar) if complaint else _reason(errors)}")


def _call_capturing_stderr(function: Callable[[], Any]) -> tuple[Any, str]:
    """Call a function of a C library, and return its result and what it printed."""
    try:
        saved = os.dup(2)
    except OSError:  # closed: nobody reads it
        return function(), ""
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            result = function()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        return result, file.read().decode("utf-8", "replace")
