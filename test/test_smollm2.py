"""A real, trained model: SmolLM2-135M-Instruct says through this engine what it says through llama-cpp-python's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import llama_cpp
import pytest
from jsonschema import validate
from smollm2 import SMOLLM2, needs_smollm2, serve

from slice_ros import schemas
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.log import log
from slice_ros.goal import ChatMessage, FinishReason, GoalRequest, Sampling
from slice_ros.scheduling.engine import Output
from slice_ros.slo import Slo

pytestmark = needs_smollm2

QUESTIONS = ("What is the capital of Germany?", "What is the capital of Japan?", "What is the capital of Italy?")
"""In the answers, no other token is nearly as likely as the one taken: there, the order in which a step adds up would decide."""
OTHERS = ("Hello!", "What is a robot?", "Count to five.", "Where is Paris?", "What is 2 + 2?")
MOST = 16


@pytest.fixture(scope="module")
def smollm2() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(LlamaConfig(SMOLLM2, n_ctx=4096, n_threads=1, flash_attn=False))
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def conversation() -> tuple[ChatMessage, ...]:
    """Questions, and what llama-cpp-python answers to them."""
    with log.collect_errors(quiet=True):
        own = llama_cpp.Llama(str(SMOLLM2), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    llama_cpp.llama_log_set(log._callback, None)  # it takes the log
    said: list[ChatMessage] = []
    for question in QUESTIONS:
        said.append(ChatMessage("user", question))
        messages = [{"role": message.role, "content": message.content} for message in said]
        answer = own.create_chat_completion(messages, temperature=0.0, max_tokens=MOST)
        said.append(ChatMessage("assistant", answer["choices"][0]["message"]["content"]))
    own.close()
    return tuple(said)


def asks(goal_id: str, *messages: ChatMessage, max_tokens: int = MOST, **fields: object) -> GoalRequest:
    return GoalRequest(goal_id, Slo(), max_tokens, messages=messages, **fields)  # type: ignore[arg-type]


def text_of(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs)


def test_greedy_answers_of_a_conversation_are_llama_cpp_pythons_own_alone_and_in_a_batch_of_eight(
    smollm2: LlamaEngine, conversation: tuple[ChatMessage, ...]
) -> None:
    turns = [asks(f"turn {i}", *conversation[: 2 * i + 1]) for i in range(len(QUESTIONS))]
    own = [message.content for message in conversation[1::2]]
    assert len(set(own)) == len(own)
    assert [text_of(serve(smollm2, [turn])[turn.goal_id]) for turn in turns] == own
    smollm2.forget()
    beside = [asks(question, ChatMessage("user", question)) for question in OTHERS]
    together = serve(smollm2, [*turns, *beside])
    assert len(together) == 8
    assert [text_of(together[turn.goal_id]) for turn in turns] == own


def test_a_session_goes_on_from_what_it_has_computed(smollm2: LlamaEngine, conversation: tuple[ChatMessage, ...]) -> None:
    smollm2.forget()
    (first,) = serve(smollm2, [asks("first", *conversation[:1], session_id="talk")]).values()
    second = asks("second", *conversation[:3], session_id="talk")
    tokens = smollm2.prepare(second)
    known = smollm2.cached("second")
    smollm2.close("second")
    computed = sum(output.tokens for output in first)
    assert known > computed + 20
    assert tokens - known < 30  # the end of the answer, the next question, and the beginning of the next answer
    assert text_of(serve(smollm2, [second])["second"]) == conversation[3].content


def test_answers_follow_their_schemas(smollm2: LlamaEngine) -> None:
    forms = {"velocity": schemas.velocity(), "navigation": schemas.navigation(["hall", "lab"]), "gripper": schemas.gripper()}
    asked = [asks(name, ChatMessage("user", "Drive slowly."), max_tokens=60, json_schema=json.dumps(form)) for name, form in forms.items()]
    for name, outputs in serve(smollm2, asked).items():
        assert outputs[-1].finish is FinishReason.STOP
        validate(json.loads(text_of(outputs)), forms[name])
        assert len(outputs) < sum(output.tokens for output in outputs)  # what the form makes certain takes no step


def test_a_stop_string_ends_an_answer_before_it(smollm2: LlamaEngine) -> None:
    question = ChatMessage("user", "Count from one to ten in words.")
    (whole,) = serve(smollm2, [asks("whole", question)]).values()
    word = re.findall(r"\w+", text_of(whole))[3]
    (cut,) = serve(smollm2, [asks("cut", question, stop=(word,))]).values()
    assert text_of(cut) == text_of(whole).partition(word)[0]
    assert cut[-1].finish is FinishReason.STOP
    (ended,) = serve(smollm2, [asks("ended", question, stop=("<|im_end|>",), max_tokens=8)]).values()
    assert "<|im_end|>" not in text_of(ended)


def test_emoji_and_chinese_stream_in_whole_characters(smollm2: LlamaEngine) -> None:
    pattern = "(🤖|👩‍🚀|🦾)+ (你好|世界|機器人)+!"
    asked = [
        asks(str(seed), ChatMessage("user", "Hi"), regex=pattern, sampling=Sampling(1.0, seed=seed), max_tokens=80) for seed in (1, 2, 3)
    ]
    for outputs in serve(smollm2, asked).values():
        assert all("\ufffd" not in output.text for output in outputs)
        if outputs[-1].finish is FinishReason.STOP:
            assert re.fullmatch(pattern, text_of(outputs))
        assert sum(output.tokens for output in outputs) > len(text_of(outputs))  # a character takes several tokens


def test_a_seed_repeats_its_answer_and_another_gives_another(smollm2: LlamaEngine) -> None:
    texts = []
    for seed in (7, 7, 8):
        smollm2.forget()
        asked = asks("drawn", ChatMessage("user", "Tell me a story."), sampling=Sampling(1.0, seed=seed))
        texts.append(text_of(serve(smollm2, [asked])["drawn"]))
    assert texts[0] == texts[1] != texts[2]
