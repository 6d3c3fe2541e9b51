"""The robot's language: seeded, split into training and held-out combinations, and checked by its own rules."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from itertools import islice, pairwise

import pytest

from slice_ros.demo.language import CONTROL_PHRASES, NAMES, SIDES, TASKS, Example, velocity
from slice_ros.engines.llama.shapes import SPECIAL_TOKENS
from training.corpus import held_out_examples, is_held_out, training_examples
from training.tokenizer import Tokenizer


def some(task: str, count: int = 300, seed: int = 1) -> list[Example]:
    return list(islice(training_examples(task, random.Random(seed)), count))


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_examples_and_another_seed_others(task: str) -> None:
    assert some(task) == some(task)
    assert some(task) != some(task, seed=2)
    assert list(islice(held_out_examples(task, 0), 50)) == list(islice(held_out_examples(task, 0), 50))


@pytest.mark.parametrize("task", TASKS)
def test_training_shares_no_deciding_combination_and_no_prompt_with_the_held_out_set(task: str) -> None:
    trained = some(task, 2000)
    held_out = list(islice(held_out_examples(task, 0), 300))
    seen = {combination for example in trained for combination in example.combinations}
    assert not seen & {example.combinations[0] for example in held_out}
    assert not {example.prompt for example in trained} & {example.prompt for example in held_out}


def test_a_tenth_of_all_velocities_is_held_out_in_every_phrasing() -> None:
    every = {f"obstacle at {d} on the {side}, speed {s}" for d in range(2, 31) for side in SIDES for s in range(1, 13)}
    held_out = {combination for combination in every if is_held_out(combination)}
    assert 0.08 < len(held_out) / len(every) < 0.12
    trained = some("control", 3000)
    assert {example.combinations[0] for example in trained} <= every - held_out
    assert len({re.sub(r"[\d.]+|left|right|front", "_", example.prompt) for example in trained}) == len(CONTROL_PHRASES)


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_is_accepted_and_a_changed_one_is_not(task: str) -> None:
    for example, other in zip(some(task), some(task, seed=2), strict=True):
        assert example.accepts(example.answer)
        assert not example.accepts(example.answer[:-1])
        assert not example.accepts(example.answer + " ")
        assert example.accepts(other.answer) == (example.answer == other.answer)


@pytest.mark.parametrize(
    ("distance", "side", "speed", "expected"),
    [
        (4, "left", 8, (0, -8)),  # near: stop, and turn right, away from it
        (4, "right", 8, (0, 8)),
        (5, "front", 8, (2, 6)),
        (9, "front", 1, (1, 6)),  # never faster than now
        (10, "left", 8, (5, -3)),
        (19, "right", 3, (3, 3)),
        (20, "front", 12, (12, 0)),  # far: go on
    ],
)
def test_the_nearer_the_obstacle_the_slower_and_sharper(distance: int, side: str, speed: int, expected: tuple[int, int]) -> None:
    assert velocity(distance, side, speed) == expected


def test_a_route_walks_from_room_to_neighbouring_room_and_a_low_battery_goes_to_the_charger() -> None:
    charged = 0
    for example in some("navigation", 500):
        told = re.search(r"I am in the (\w+)\. Ahead: (\S+)\. Behind: (\S+)\.", example.prompt)
        battery = re.search(r"Battery (\d+) %, charger in the (\w+)\.", example.prompt)
        goal = re.search(r"(?:to the|at the|stop: the) (?:\w+ in the )?(\w+)\.", example.prompt)
        assert told
        assert battery
        assert goal
        names = [*json.loads(told[3])[::-1], told[1], *json.loads(told[2])]
        answer = json.loads(example.answer)
        stations = [told[1], *answer["waypoints"]]
        assert len(stations) > 1
        assert all(abs(names.index(a) - names.index(b)) == 1 for a, b in pairwise(stations))
        assert len(set(stations)) == len(stations)
        low = int(battery[1]) < 20
        charged += low
        assert answer["action"] == ("charge" if low else "navigate")
        assert stations[-1] == (battery[2] if low else goal[1])
    assert charged > 50


def test_a_person_hears_where_a_thing_is_only_if_it_was_seen() -> None:
    unseen = 0
    for example in some("dialogue", 500):
        if asked := re.search(r"Person: [^?.]*the (\w+)(?: is)?[?.]", example.prompt):
            seen = dict(re.findall(r"the (\w+) in the (\w+)", example.prompt.split("Seen: ")[1].split(". ")[0]))
            place = seen.get(asked[1])
            unseen += place is None
            found = f"I saw the {asked[1]} in the {place}." if place else f"I have not seen the {asked[1]}."
            assert example.answer.startswith(found)
    assert unseen > 10


def test_every_word_of_the_language_is_a_token_and_so_is_every_number() -> None:
    examples = [example for task in TASKS for example in some(task, 600)]
    texts = [text for example in examples for text in (example.prompt, example.answer)]
    tokenizer = Tokenizer.train(texts, 1024, NAMES)
    assert tokenizer.size <= 1024
    assert [tokenizer.decode([token]) for token in tokenizer.encode('{"linear":0.4')] == ['{"', "linear", '":', "0", ".", "4"]
    assert [tokenizer.decode([token]) for token in tokenizer.encode(" 75 % charger")] == [" ", "75", " %", " ", "charger"]
    for text in (*texts[:200], "Grüße, 你好 🤖\t\r\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("".join(SPECIAL_TOKENS)) == list(tokenizer.special.values())
    lengths = {task: [len(tokenizer.encode(example.answer)) + 1 for example in some(task)] for task in TASKS}
    assert max(*lengths["control"], *lengths["navigation"]) <= 25
    assert max(lengths["dialogue"]) <= 120
    assert max(lengths["qa"]) <= 200


def test_what_training_needs_of_the_package_loads_without_llama_cpp():
    script = "import sys; sys.modules['llama_cpp'] = None; import training.corpus, training.tokenizer"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
