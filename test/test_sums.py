"""What the toy that reasons is trained on: sums that are right at each step, in blocks that end as the engine ends them."""

from __future__ import annotations

import random
import re
from itertools import accumulate

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from slice_ros.engines.llama.reasoning import Block, marks_of
from training.sums import BLOCK_BEGIN, BLOCK_END, FEWEST, LARGEST, MARKS, MOST, SPECIAL, TEMPLATE, Sum, draw, draw_cut
from training.tokenizer import Tokenizer
from training.wrapping import END, wrap

OF = Sum((3, 5, 4))
SUMS = [draw(rng) for rng in [random.Random(1)] for _ in range(300)]


def rendered(**wish: bool) -> str:
    formatter = Jinja2ChatFormatter(TEMPLATE, eos_token=END, bos_token="")
    return formatter(messages=[{"role": "user", "content": OF.question}], **wish).prompt


def test_a_sum_reads_as_the_docs_say():
    assert (OF.question, OF.thoughts, OF.answer) == ("A3, B5, C4", "A303B508C412", "12")


def test_thoughts_add_one_number_after_the_other_and_the_answer_is_the_sum():
    for of in SUMS:
        numbers = [int(number) for number in re.findall(r"\d+", of.question)]
        steps = re.findall(r"([A-Z])(\d)(\d\d)", of.thoughts)
        assert "".join(map("".join, steps)) == of.thoughts
        assert [f"{letter}{number}" for letter, number, _ in steps] == of.question.split(", ")
        assert [int(so_far) for _, _, so_far in steps] == list(accumulate(numbers))
        assert int(of.answer) == sum(numbers)


def test_sums_are_of_every_length_and_all_have_two_digits():
    assert {len(of.numbers) for of in SUMS} == set(range(FEWEST, MOST + 1))
    assert {number for of in SUMS for number in of.numbers} == set(range(1, LARGEST + 1))
    assert {len(of.answer) for of in SUMS} == {2}
    assert len(Sum((LARGEST,) * MOST).answer) == 2
    assert draw(random.Random(1)) == SUMS[0]


@pytest.mark.parametrize("cut", range(len(OF.thoughts) + 1))
def test_a_block_may_be_cut_anywhere_and_the_answer_follows(cut):
    (prompt, *_), (thoughts, *_), (end, *_), (answer, *_) = told = OF.told(cut)
    assert [is_said for _, is_said in told] == [False, True, False, True]
    assert prompt == rendered() + BLOCK_BEGIN
    assert OF.thoughts.startswith(thoughts)
    assert len(thoughts) == cut
    assert (end, answer) == (BLOCK_END, f"12{END}")


@pytest.mark.parametrize("cut", [None, 0, 5, len(OF.thoughts)])
def test_the_engine_parts_an_output_into_thoughts_and_answer(cut):
    output = "".join(text for text, _ in OF.told(cut)).removeprefix(wrap(OF.question, chat=True)).removesuffix(END)
    block, thoughts, answer = Block(MARKS, is_begun=False), "", b""
    for character in output:
        more, new = block.push(character.encode())
        thoughts, answer = thoughts + more, answer + new
    assert (thoughts.strip(), answer.decode()) == (OF.thoughts[:cut], "12")


def test_a_block_that_is_not_cut_is_begun_and_ended_by_the_model():
    assert OF.told() == [(rendered(), False), (f"{BLOCK_BEGIN}{OF.thoughts}{BLOCK_END}12{END}", True)]
    assert "".join(text for text, _ in OF.told()) == "".join(text for text, _ in OF.told(len(OF.thoughts)))


def test_the_template_is_one_of_a_model_that_reasons_and_off_is_a_block_cut_at_once():
    assert marks_of(TEMPLATE) == MARKS
    assert rendered(enable_thinking=True) == rendered() == wrap(OF.question, chat=True)
    assert rendered(enable_thinking=False) == "".join(text for text, is_said in OF.told(0) if not is_said)


def test_examples_are_whole_cut_anywhere_or_without_thoughts():
    rng = random.Random(2)
    cuts = [draw_cut(rng, OF) for _ in range(2000)]
    assert 0.3 < cuts.count(None) / len(cuts) < 0.4
    assert 0.1 < cuts.count(0) / len(cuts) < 0.2
    assert set(cuts) == {None, *range(len(OF.thoughts) + 1)}


def test_a_budget_of_tokens_is_one_of_characters():
    tokenizer = Tokenizer(Tokenizer.train((), 1024, ("user", "assistant")).merges, SPECIAL)
    assert len(tokenizer.encode(OF.thoughts)) == len(OF.thoughts)
    assert tokenizer.encode("".join(text for text, _ in OF.told(5))) == [
        token for text, _ in OF.told(5) for token in tokenizer.encode(text)
    ]
    assert tokenizer.encode("".join(MARKS)) == [tokenizer.special[mark] for mark in MARKS]
    assert tokenizer.gguf_tokens()[-len(SPECIAL) :] == list(SPECIAL)
