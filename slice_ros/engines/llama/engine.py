"""Computes steps with llama.cpp: one context, a KV sequence for each open goal, a ``llama_decode`` for each column or each of its parts."""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from slice_ros.engines.llama.adapters import Adapters
from slice_ros.engines.llama.batch import Batch
from slice_ros.engines.llama.chat import Chat
from slice_ros.engines.llama.config import LlamaConfig
from slice_ros.engines.llama.grammar import Grammar, Grammars
from slice_ros.engines.llama.habits import Habits, common
from slice_ros.engines.llama.host_cache import HostCache
from slice_ros.engines.llama.keeping import most_unwanted
from slice_ros.engines.llama.kv_cache import KvCache, Worth
from slice_ros.engines.llama.loading import device_name, load
from slice_ros.engines.llama.memory import Memory
from slice_ros.engines.llama.parts import parts_of, tiles_of
from slice_ros.engines.llama.reasoning import Block
from slice_ros.engines.llama.sampler import Candidates, Sampler, logprob, make_chain, most_likely
from slice_ros.engines.llama.text import TextStream
from slice_ros.engines.llama.tools.reader import CallReader
from slice_ros.engines.llama.tools.tool import choose, parse
from slice_ros.engines.llama.vocabulary import Vocabulary
from slice_ros.goal import ErrorCode, FinishReason, GoalError, GoalRequest, TokenLogprob, ToolCall
from slice_ros.mask import Cell, Column
from slice_ros.scheduling.engine import EngineError, EngineInfo, KvFullError, KvUse, Output

NO_TOKENS = array("i")
MARK_TOKENS = 16
"""The mark with which a block begins is no longer, in tokens."""


@dataclass(slots=True)
class _Goal:
    """One goal's tokens and what turns logits into its next one.

    The token sampled last is not computed yet, nor are those that it forced: a decode computes them and samples the next. So a decode, a
    prompt chunk, and computing everything again after an eviction are the same thing: the next ``count`` of the ``pending`` tokens.

    Args:
        tokens: prompt and output so far; also the lead, which is output that is certain beforehand.
        prompt_tokens: how many of them are the prompt's.
        told: how many of them are the prompt's, or were given out.
        limit: ends by length when it has so many.
        text: the output as text.
        stops: control tokens that end it, as stop strings name them.
        block: parts it into reasoning and answer, where it may have some.
        reader: parts it into text and calls of tools, where it may have some.
        sampler: chooses its tokens; ``None`` takes the most likely ones.
        adapter: the number of its LoRA adapter; 0 is none.
        session: keeps its KV rather than others; empty is none.
        rated: where log-probabilities are wanted, how many of the tokens are the prompt's or have theirs; else ``None``.
        ratings: those that were not given out yet.
        ending: how the answer ended, once it has and only log-probabilities are missing.
        computed: how many tokens have their KV.
        sequence: llama.cpp's sequence id; ``None`` while not open.
        found: how many tokens the KV cache has of it while it is not open, and the cache's version that this is true of.
        kind: goals of its kind may answer alike.
        draft: guesses at the tokens that follow.
    """

    tokens: array[int]
    prompt_tokens: int
    told: int
    limit: int
    text: TextStream
    sampler: Sampler | None
    adapter: int = 0
    session: str = ""
    rated: int | None = None
    ratings: list[TokenLogprob] = field(default_factory=list)
    ending: FinishReason | None = None
    computed: int = 0
    sequence: int | None = None
    found: tuple[int, int] = (0, -1)
    kind: str = ""
    draft: array[int] = field(default_factory=lambda: NO_TOKENS)
    finished: bool = False
    stops: frozenset[int] = frozenset()
    reader: CallReader | None = None
    block: Block | None = None

    @property
    def grammar(self) -> Grammar | None:
        return None if self.sampler is None else self.sampler.grammar

    @property
    def is_reasoning(self) -> bool:
        return self.block is not None and self.block.is_open

    @property
    def pending(self) -> int:
        """Tokens to compute before the next can be drawn."""
        return len(self.tokens) - self.computed

    def wanted(self, count: int) -> int:
        """Of how many of the next so many tokens' successors the logits are wanted: of those that are not known, or not rated."""
        end = self.computed + count
        if self.rated is None:
            return int(end == len(self.tokens))
        return max(0, end - max(self.computed, self.rated - 1))


_Filled = tuple[str, _Goal, int, int, int]
"""Of a cell its goal, how many of its tokens are computed, how many drafted ones, and of how many of them logits are wanted."""


class LlamaEngine:
    """The ``Engine`` on llama.cpp's low-level API.

    Raises:
        EngineError: the model cannot be loaded or the context cannot be made; the message says why and what to do.
    """

    def __init__(self, config: LlamaConfig) -> None:
        self._goals: dict[str, _Goal] = {}
        self._model, adapters, self._context = load(config)
        self._adapters = Adapters(self._context, adapters)
        self._vocabulary = Vocabulary(self._model)
        self._grammars = Grammars(self._vocabulary)
        self._chat = Chat(self._model, self._vocabulary, config.chat_template)
        n_ctx, n_batch = llama_cpp.llama_n_ctx(self._context), llama_cpp.llama_n_batch(self._context)
        # Positions beyond those of its training make a model talk nonsense.
        self._trained: int = llama_cpp.llama_model_n_ctx_train(self._model)
        name, longest = Path(config.model_path).name, min(n_ctx, self._trained)
        memory = Memory.of(self._model, swa_full=config.swa_full)
        names = tuple(name for name, _ in config.adapters)
        device, can_draft, template = device_name(config), not memory.is_state, self._chat.source
        self._info = EngineInfo(name, device, n_ctx, config.n_seq_max, n_batch, longest, can_draft, names, template, memory.window)
        marks = self._chat.reasoning
        self._block_end = array("i") if marks is None else self._vocabulary.tokenize(f"\n{marks.end}\n\n", add_special=False)
        self._marks = {token: name.encode() for name, token in self._vocabulary.control.items() if marks is not None and name in marks}
        self._batch = Batch(n_batch, n_ctx)
        self._tiles = tiles_of(config, self._model, memory)
        self._beside = ThreadPoolExecutor(1, "masks")
        self._candidates = Candidates(self._vocabulary.size)
        self._habits = Habits()
        self._logits_at, self._latest_logits = (0, 0), np.empty((0, self._vocabulary.size), np.float32)
        unwanted = most_unwanted(config, self._model, memory)
        self._cache = KvCache(self._context, config.n_seq_max, config.prefix_cache, unwanted, memory, config.checkpoint_tokens)
        self._host = HostCache(self._context, self._cache, config.n_seq_max, config.host_cache_mib << 20, memory)
        self._warm_up()

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def kv(self) -> KvUse:
        return KvUse(self._cache.used, self._cache.total, self._cache.kept, self._host.used)

    @property
    def copy_token_s(self) -> float:
        return self._host.token_s

    def held(self, goal_ids: Collection[str]) -> int:
        return self._cache.held({sequence for goal_id in goal_ids if (sequence := self._goals[goal_id].sequence) is not None})

    def prepare(self, request: GoalRequest) -> int:
        if request.goal_id in self._goals:
            raise GoalError(ErrorCode.INVALID_GOAL, f"goal_id is {request.goal_id}, which is in use; it must be unique")
        tools = () if request.tool_choice == "none" else parse(request.tools)
        choice = choose(tools, request.tool_choice)
        messages = request.messages
        thinks = None if not request.reasoning else request.reasoning != "off" and not request.answer_prefix
        prompt = self._chat.tokenize(messages, tools, thinks=thinks) if messages else self._vocabulary.tokenize(request.prompt)
        has_form = bool(request.grammar or request.json_schema or request.regex)
        block = None if request.answer_prefix else self._block(request, prompt, has_form=has_form)
        begun = self._vocabulary.tokenize(request.answer_prefix, add_special=False, parse_special=False)
        prompt += begun
        if not prompt:
            raise GoalError(ErrorCode.INVALID_GOAL, "the prompt has no tokens; give at least one")
        request = request.fitted(len(prompt), self._info.goal_tokens)
        limit = len(prompt) + request.max_tokens
        if limit > self._info.goal_tokens:
            raise GoalError(
                ErrorCode.CONTEXT_EXCEEDED,
                f"the prompt has {len(prompt)} tokens and max_tokens is {request.max_tokens}, together {limit}; "
                f"at most {self._info.goal_tokens} fit (n_ctx is {self._info.context_tokens}, the model was trained with {self._trained})",
            )
        adapter = self._adapters.number(request.adapter)
        grammar = self._grammars.of_calls(choice, self._chat.form) if choice.tools else self._grammars.make(request)
        if begun and grammar is not None and not grammar.follows(begun):
            what = f"answer_prefix is {request.answer_prefix[:40]!r}; no answer that is allowed begins like this"
            raise GoalError(ErrorCode.INVALID_GRAMMAR, what)
        chain = make_chain(request.sampling, prompt, self._vocabulary.size)
        sampler = None if chain is None and grammar is None else Sampler(chain, grammar)
        if sampler is not None and block is not None:
            sampler.is_bound = not block.is_open
        prompt_tokens = len(prompt)
        stop = (*request.stop, *(self._chat.stop if messages else ()))
        tokens = prompt
        if sampler is not None:
            tokens = prompt + array("i", sampler.forced())[: request.max_tokens]
            if grammar is not None and (complaint := grammar.complaint):
                sampler.free()
                raise GoalError(ErrorCode.INVALID_GRAMMAR, complaint)
        self._goals[request.goal_id] = _Goal(
            tokens,
            prompt_tokens,
            prompt_tokens,
            limit,
            TextStream(stop),
            sampler,
            adapter,
            request.session_id,
            prompt_tokens if request.logprobs else None,
            stops=frozenset(token for text in stop if (token := self._vocabulary.control.get(text)) is not None),
            reader=CallReader(self._chat.form, choice.tools) if choice.tools else None,
            kind=request.kind,
            block=block,
        )
        return prompt_tokens

    def _block(self, request: GoalRequest, prompt: array[int], *, has_form: bool) -> Block | None:
        """Where a goal may reason; its prompt gets the block's beginning, where it must.

        Raises:
            GoalError: INVALID_GOAL, the model does not reason.
        """
        marks = self._chat.reasoning
        if request.reasoning in ("", "off"):
            if marks is None or request.reasoning or has_form:
                return None
            is_begun = self._vocabulary.spelt(prompt[-MARK_TOKENS:]).rstrip().endswith(marks.begin)
            return Block(marks, is_begun=is_begun) if request.messages else None
        if marks is None:
            raise GoalError(
                ErrorCode.INVALID_GOAL,
                f"reasoning is {request.reasoning!r}, but this model's chat template has no block for it",
            )
        if not self._vocabulary.spelt(prompt[-MARK_TOKENS:]).rstrip().endswith(marks.begin):
            prompt += self._vocabulary.tokenize(f"{marks.begin}\n", add_special=False)
        return Block(marks, is_begun=True, budget=request.reasoning_budget)

    def lead(self, goal_id: str) -> int:
        goal = self._goals[goal_id]
        return len(goal.tokens) - goal.told

    def open(self, goal_id: str, copy_s: float = math.inf) -> int:
        goal = self._goals[goal_id]
        if goal.sequence is not None:
            raise ValueError(f"goal {goal_id} is open already")
        row = self._shareable(goal)
        goal.sequence = self._cache.acquire(row)
        if goal.sequence is None:
            raise ValueError(f"goal {goal_id} cannot be opened: all {self._info.max_sequences} sequences are taken; evict or close one")
        goal.computed = self._cache.adopt(goal.sequence, row)
        self._cache.forget(f"goal {goal_id}")
        goal.computed = self._host.restore(goal_id, goal.sequence, goal.computed, copy_s)
        return goal.computed

    def cached(self, goal_id: str) -> int:
        goal = self._goals[goal_id]
        if goal.sequence is not None:
            return goal.computed
        if goal.found[1] != self._cache.version:
            found = max(self._cache.longest(self._shareable(goal)), self._host.tokens(goal_id))
            goal.found = found, self._cache.version
        return goal.found[0]

    def reuse(self, goal_id: str) -> int:
        goal = self._goals[goal_id]
        if goal.sequence is None:
            raise ValueError(f"goal {goal_id} is not open")
        before, goal.computed = goal.computed, self._cache.adopt(goal.sequence, self._shareable(goal))
        return goal.computed - before

    def stride(self, goal_id: str, count: int) -> int:
        goal = self._goals[goal_id]
        return count if goal.sequence is None or count < 2 else self._cache.stride(goal.sequence, self._row(goal), count)

    def draft(self, goal_id: str, most: int) -> int:
        goal = self._goals[goal_id]
        goal.draft = NO_TOKENS
        most = min(most, goal.limit - len(goal.tokens) - 1)  # after a draft one more token is drawn
        if most > 0 and goal.ending is None and self._info.can_draft:
            draft = self._habits.guess(goal.kind, goal.tokens, most)
            goal.draft = draft if goal.grammar is None else draft[: goal.grammar.agrees(draft)]
        return len(goal.draft)

    def step(self, column: Column) -> list[Output]:
        goals = self._fill(column if self._tiles is None else sorted(column, key=_is_decode))
        if not goals:
            return []
        self._adapters.use(goals[0][1].adapter)
        self._cache.make_room(self._batch.size)
        grammars = [grammar for _, goal, count, *_ in goals if goal.sampler and count == goal.pending and (grammar := goal.grammar)]
        look = self._beside.submit(_look_ahead, grammars) if grammars else None
        try:
            early = self._decode(goals, column)
        finally:
            if look is not None:
                wait((look,))
        wanting = -sum([len(logits) for logits in early])
        for _, goal, count, drafted, wanted in goals:  # a GPU has only begun to compute: this costs nothing there
            assert goal.sequence is not None
            goal.computed += count
            self._cache.grow(goal.sequence, count + drafted)
            if count > 1 and not drafted:
                self._offer(goal, at_end=not goal.pending)
            wanting += wanted
        if not wanting:
            llama_cpp.llama_synchronize(self._context)  # the next step would seem to take this one's time
        logits = np.concatenate([*early, self._logits(wanting)]) if early else self._logits(wanting)
        best = most_likely(logits)
        outputs, row = [], 0
        for goal_id, goal, count, drafted, wanted in goals:
            if wanted and goal.rated is not None:
                self._rate(goal, logits[row : row + wanted - drafted])
            row += wanted
            if not goal.pending:
                draft = goal.draft[:drafted] if drafted else NO_TOKENS
                output = self._next(goal_id, goal, draft, best, logits, row - drafted - 1)
                outputs.append(output)
                if drafted:
                    assert goal.sequence is not None
                    self._cache.retract(goal.sequence, drafted - output.right)
                    if count + output.right > 1:
                        self._offer(goal, at_end=True)
        return outputs

    def conclude(self, goal_id: str) -> None:
        goal = self._goals[goal_id]
        if goal.block is not None:
            goal.block.is_concluded = True

    def evict(self, goal_id: str, copy_s: float = math.inf) -> int:
        goal = self._goals[goal_id]
        if goal.sequence is not None:
            self._host.save(goal_id, goal.sequence, goal.computed, copy_s)
        self._leave(goal, f"goal {goal_id}", Worth.PAUSED)
        return len(goal.tokens)

    def close(self, goal_id: str) -> None:
        goal = self._goals.pop(goal_id, None)
        if goal is not None:
            self._host.drop(goal_id)
            self._cache.forget(f"goal {goal_id}")
            if goal.ending is not None:
                self._habits.learn(goal.kind, goal.tokens[: goal.told], goal.prompt_tokens)
            if goal.session:
                self._leave(goal, f"session {goal.session}", Worth.SESSION)
            else:
                self._leave(goal, "", Worth.PREFIX)
            if goal.sampler is not None:
                goal.sampler.free()

    def forget(self) -> None:
        """Give up what is kept of goals that have ended."""
        self._cache.forget_all()

    def shutdown(self) -> None:
        for goal_id in list(self._goals):
            self.close(goal_id)
        self._beside.shutdown()
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _fill(self, column: Sequence[Cell]) -> list[_Filled]:
        """Put the column into the batch; changes nothing else.

        Raises:
            ValueError: the column asks for something that cannot be: the caller's mistake.
        """
        batch = self._batch
        batch.clear()
        goals = []
        for goal_id, prompt_tokens, _, drafted in column:
            goal = self._goals[goal_id]
            count, pending = prompt_tokens or 1, goal.pending
            if goal.sequence is None or goal.finished:
                raise ValueError(f"goal {goal_id} is in a step but {'has finished' if goal.finished else 'is not open'}")
            if count > pending or (not prompt_tokens and pending > 1):
                cell = f"{prompt_tokens} prompt tokens" if prompt_tokens else "a decode"
                raise ValueError(f"goal {goal_id} is in a step with {cell}, but has {pending} tokens to compute")
            if drafted and (count < pending or drafted > len(goal.draft)):
                raise ValueError(
                    f"goal {goal_id} is in a step with {drafted} drafted tokens, but has {len(goal.draft)} after {pending} others"
                )
            tokens = goal.tokens + goal.draft if drafted else goal.tokens
            wanted = goal.wanted(count) + drafted
            batch.add(tokens, goal.computed, count + drafted, goal.sequence, wanted)
            goals.append((goal_id, goal, count, drafted, wanted))
        if len({goal_id for goal_id, *_ in goals}) < len(goals):
            raise ValueError("a goal is in the step twice")
        if len({goal.adapter for _, goal, *_ in goals}) > 1:
            raise ValueError("the goals in the step have different adapters")
        return goals

    def _decode(self, goals: Sequence[_Filled], column: Column) -> list[npt.NDArray[np.float32]]:
        """Run llama.cpp over the batch, in parts where that is quicker.

        Returns:
            The logits of each part but the last.

        Raises:
            KvFullError: no cells for it; nothing of it was computed.
            EngineError: what the context holds now is unknown.
        """
        early: list[npt.NDArray[np.float32]] = []
        if self._tiles is None or self._batch.size < self._tiles.tokens:
            self._compute(0, self._batch.size)
            return early
        prompts = sum([not _is_decode(cell) for cell in column])
        tokens = [count + drafted for _, _, count, drafted, _ in goals]
        first, parts = 0, parts_of(prompts, tokens, [goal.computed for _, goal, *_ in goals], self._tiles)
        for part in parts:
            end = first + sum(tokens[part])
            try:
                self._compute(first, end)
            except KvFullError:
                for _, goal, *_ in goals[: part.start]:
                    assert goal.sequence is not None
                    self._cache.undo(goal.sequence)
                raise
            if part != parts[-1]:
                early.append(self._logits(sum([wanted for *_, wanted in goals[part]])).copy())
            first = end
        return early

    def _compute(self, first: int, end: int) -> None:
        """Run llama.cpp over these tokens of the batch.

        Raises:
            KvFullError: no cells for it; llama.cpp restored the state before the call.
            EngineError: what the context holds now is unknown.
        """
        status = llama_cpp.llama_decode(self._context, self._batch.filled(first, end))
        while status == 1 and self._cache.forget_one():  # layers with a window count their own cells
            status = llama_cpp.llama_decode(self._context, self._batch.filled(first, end))
        if status == 0:
            return
        if status == 1:
            raise KvFullError(
                f"a step of {self._batch.size} tokens finds no room: {self._cache.used} of {self._cache.total} KV cells are taken; "
                "raise n_ctx, or lower max_tokens"
            )
        raise EngineError(f"llama_decode failed with status {status}, the log says why; restart the engine")

    def _logits(self, rows: int) -> npt.NDArray[np.float32]:
        """The logits of those tokens of the batch that asked for them, in order; valid until the next step."""
        if not rows:
            return self._latest_logits[:0]
        pointer = llama_cpp.llama_get_logits(self._context)
        address = ctypes.addressof(pointer.contents)
        if (address, rows) != self._logits_at:  # mostly they are where they were
            self._logits_at, self._latest_logits = (address, rows), np.ctypeslib.as_array(pointer, (rows, self._vocabulary.size))
        return self._latest_logits

    def _next(self, goal_id: str, goal: _Goal, draft: array[int], best: Sequence[int], logits: npt.NDArray[np.float32], row: int) -> Output:
        """What a goal gets when nothing of it is pending: what follows its tokens, and what follows its draft as far as that is right.

        Args:
            draft: guesses at what follows; their KV is computed.
            best: the most likely token of each row.
            logits: those that ``best`` is of.
            row: the one after its tokens; those after each of the draft's follow.
        """
        text, reasoning, count, right, drawn, known = "", "", 0, 0, 0, len(goal.tokens)
        calls: tuple[ToolCall, ...] = ()
        goal.draft = NO_TOKENS
        try:
            while goal.ending is None and known + right == len(goal.tokens):
                drawn += 1
                piece, thought, tokens = self._take(goal, best, logits, row + right)
                if (reader := goal.reader) is not None and (grammar := goal.grammar) is not None:
                    piece, new_calls = self._parted(goal, reader, grammar, piece)
                    calls += new_calls
                text, reasoning, count = text + piece, reasoning + thought, count + tokens
                if draft:
                    right += common(draft[right:], goal.tokens[known + right :])
                    if goal.rated is not None:
                        self._rate(goal, logits[row + goal.rated - known : row + right + 1])
        except GoalError as error:
            goal.finished = True
            goal.computed += right
            return Output(goal_id, "", error=error, right=right)
        goal.computed += right
        goal.finished = goal.ending is not None and (goal.rated is None or goal.rated >= goal.told)
        saved = max(0, drawn - 1)
        told: tuple[TokenLogprob, ...] = ()
        if goal.rated is not None:
            # The lead goes on where a stop string or the limit ended the answer.
            beyond = max(0, goal.rated - goal.told) if goal.finished else 0
            told, goal.ratings = tuple(goal.ratings[: -beyond or None]), []
        ending = goal.ending if goal.finished else None
        return Output(goal_id, text, count, goal.pending, ending, told, None, calls, right, saved, reasoning, goal.is_reasoning)

    def _take(self, goal: _Goal, best: Sequence[int], logits: npt.NDArray[np.float32], row: int) -> tuple[str, str, int]:
        """Give a goal the tokens that follow with one draw, from a row of the logits.

        Returns:
            The text of the answer and of the reasoning that became certain, and how many tokens they are, the end of generation being one.
        """
        text, reasoning, count = "", "", 0
        is_plain = goal.sampler is None and goal.rated is None and not goal.is_reasoning  # as nearly always
        for token in (best[row],) if is_plain else self._coming(goal, best[row], logits[row]):
            count += 1
            if token is None or self._ends(goal, token):
                goal.ending = FinishReason.STOP
                break
            if goal.told == len(goal.tokens):
                goal.tokens.append(token)
            goal.told += 1
            data = self._piece(goal, token)
            if goal.block is not None:
                thought, data = goal.block.push(data)
                reasoning += thought
                if goal.sampler is not None:
                    goal.sampler.is_bound = not goal.block.is_open
            piece, stopped = goal.text.push(data)
            text += piece
            if stopped:
                goal.ending = FinishReason.STOP
                return text, reasoning, count
            if goal.told == goal.limit:
                goal.ending = FinishReason.LENGTH
                break
        if goal.ending is not None:  # what was held back
            if goal.block is not None:
                thought, data = goal.block.flush()
                reasoning += thought
                text += goal.text.push(data)[0]
            text += goal.text.flush()
        return text, reasoning, count

    def _ends(self, goal: _Goal, token: int) -> bool:
        return token in self._vocabulary.ending or token in goal.stops

    def _piece(self, goal: _Goal, token: int) -> bytes:
        """A token's bytes in a goal's text; where calls are looked for, also the names of control tokens that begin or end them."""
        if goal.reader is not None and (name := self._chat.call_marks.get(token)):
            return name
        if goal.block is not None and (name := self._marks.get(token)):
            return name
        return self._vocabulary.piece(token)

    def _parted(self, goal: _Goal, reader: CallReader, grammar: Grammar, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """What of a new piece of a goal's output is text, and what is calls of tools."""
        parted = reader.push(text, is_calling=grammar.is_awake, is_end=goal.ending is not None)
        if goal.ending is FinishReason.STOP and reader.has_calls:
            goal.ending = FinishReason.TOOL_CALLS
        return parted

    def _coming(self, goal: _Goal, best: int, logits: npt.NDArray[np.float32]) -> Iterator[int | None]:
        """The tokens that follow: those that are certain beforehand, one that is drawn, and those that it forces; ``None`` is the end.

        Raises:
            GoalError: nobody knows what the grammar allows.
        """
        yield from goal.tokens[goal.told :]
        sampler, grammar = goal.sampler, goal.grammar
        if grammar is None or not grammar.is_complete:
            token = best if sampler is None else sampler.draw(best, logits, self._candidates)
            is_end = token is None or self._ends(goal, token)
            if goal.block is not None and (goal.block.must_end or (goal.is_reasoning and is_end)):
                yield from self._concluded(goal, logits)
                return
            if grammar is not None and (complaint := grammar.complaint):
                raise GoalError(ErrorCode.INVALID_GRAMMAR, complaint)
            if goal.rated is not None:
                goal.ratings.append(self._rating(token, logits))
                goal.rated += not is_end
            if token is not None and not is_end and sampler is not None:
                sampler.accept(token)  # before it ends a block, after which the grammar counts
            yield token
            if is_end or sampler is None:
                return
            yield from sampler.forced()
            if grammar is not None and (complaint := grammar.complaint):
                raise GoalError(ErrorCode.INVALID_GRAMMAR, complaint)
            if goal.rated is not None:
                return  # its end is rated when what it follows is computed
        elif goal.rated is not None:
            goal.ratings.append(self._rating(max(self._vocabulary.ending, key=logits.__getitem__, default=None), logits))
        if grammar is not None and grammar.is_complete:
            yield None

    def _concluded(self, goal: _Goal, logits: npt.NDArray[np.float32]) -> Iterator[int]:
        """The end of a goal's block, in place of what was drawn, and what its grammar then forces."""
        if goal.rated is not None:  # the others are rated when they are computed
            goal.ratings.append(self._rating(self._block_end[0], logits))
            goal.rated += 1
        if goal.sampler is not None:
            for token in self._block_end:
                goal.sampler.accept(token)
        yield from self._block_end
        if goal.sampler is not None and goal.rated is None:
            yield from goal.sampler.forced()

    def _rate(self, goal: _Goal, rows: npt.NDArray[np.float32]) -> None:
        """Give known tokens that had none their log-probabilities, from the logits at those before them."""
        assert goal.rated is not None
        for logits in rows[: len(goal.tokens) - goal.rated]:
            goal.ratings.append(self._rating(goal.tokens[goal.rated], logits))
            goal.rated += 1

    def _rating(self, token: int | None, logits: npt.NDArray[np.float32]) -> TokenLogprob:
        if token is None:
            return TokenLogprob("", -math.inf)
        return TokenLogprob(self._vocabulary.name(token), logprob(logits, token), self._vocabulary.piece(token))

    def _shareable(self, goal: _Goal) -> array[int]:
        """The tokens whose KV may come from another goal: all, or those before the first that has no log-probability yet."""
        return self._row(goal, goal.rated)

    def _row(self, goal: _Goal, count: int | None = None) -> array[int]:
        """A goal's tokens, or so many of them, as the KV cache knows them: others where another adapter computes them."""
        row = goal.tokens[:count]
        if row and goal.adapter:
            row[0] += goal.adapter * self._vocabulary.size
        return row

    def _offer(self, goal: _Goal, *, at_end: bool) -> None:
        """Let others share what is computed of an open goal."""
        assert goal.sequence is not None
        row = self._row(goal, goal.computed)
        self._cache.offer(goal.sequence, row)
        self._cache.checkpoint(goal.sequence, row, at_end=at_end)

    def _leave(self, goal: _Goal, owner: str, worth: Worth) -> None:
        """Leave a goal's sequence and KV to the cache, if it has any."""
        if goal.sequence is not None:
            self._cache.keep(goal.sequence, self._row(goal, goal.computed), owner, worth)
            goal.sequence, goal.computed = None, 0

    def _warm_up(self) -> None:
        """Compute one token, so that the first goal does not pay for page faults and lazy set-up."""
        self._batch.clear()
        self._batch.add(array("i", [0]), 0, 1, 0, wanted=1)
        try:
            self._compute(0, 1)
            llama_cpp.llama_synchronize(self._context)
        finally:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)


def _is_decode(cell: Cell) -> bool:
    """Whether nothing of a cell is a prompt's, or one token, which looks back as a decode does."""
    return cell.is_decode or cell.prompt_tokens < 2


def _look_ahead(grammars: Sequence[Grammar]) -> None:
    """Find out what each allows next."""
    for grammar in grammars:
        grammar.look_ahead()
