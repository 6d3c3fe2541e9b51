"""How the default policy fills a step, worked out by hand.

Unless said otherwise a row takes 10 ms, each further one 2 ms, a prompt 5 ms and 1 ms for each of its tokens.
"""

import math
from dataclasses import replace
from itertools import accumulate

import pytest
from builders import CONTROL, QA, a_task
from hypothesis import given
from hypothesis import strategies as st

from slice_ros.latency.model import LatencyModel
from slice_ros.mask import Cell
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies import Limits, slack
from slice_ros.scheduling.policies.promises import step_s_by_rows
from slice_ros.scheduling.policies.slack import (
    SHORTEST_CHUNK,
    _beside,
    _chunk,
    _Debt,
    _may_pay,
    _with_row,
    _worthwhile_s,
    best_width,
    build_columns,
    choose_rows,
)
from slice_ros.slo import ServiceClass

CHEAP_ROWS = LatencyModel("cheap rows", (0.010, 0.012, 0.014, 0.016), chunk_s=0.005, prompt_token_s=0.001)
FOUR = Limits(max_batch=4)


def a_job(name, *, real_time=False, promised=True, prompt=0, kv=0, due_s=math.inf, adapter="", order=0, **fields):
    task = a_task(name, CONTROL if real_time else QA, order=order)
    task.adapter = adapter
    return Outlook(
        task, 0, prompt, None, 0.010, prompt_s=CHEAP_ROWS.prompt_s(prompt) if prompt else 0.0, kv_tokens=kv, expected=10.0, short=10,
        due_s=due_s, is_real_time=real_time, is_promised=promised, **fields,
    )  # fmt: skip


def real_time(name, **fields):
    return a_job(name, real_time=True, **fields)


def spare(name, **fields):
    return a_job(name, promised=False, **fields)


def chosen(*jobs, laxity_s=math.inf, latency=CHEAP_ROWS, limits=FOUR, now=0.0):
    rows = choose_rows(jobs, now, laxity_s, step_s_by_rows(latency, limits), latency, limits)
    return [(job.task.goal_id, chunk) if chunk else job.task.goal_id for job, chunk in rows]


def rows_of(*second_and_more):
    return LatencyModel("rows", (0.010, *second_and_more))


# ---- how many


def test_rows_join_while_the_step_gives_more_for_its_time():
    assert chosen(*(a_job(name) for name in "abcdef")) == ["a", "b", "c", "d"], "and no more than a step holds"
    assert chosen(a_job("a"), a_job("b"), latency=rows_of(0.0199)) == ["a", "b"]
    assert chosen(a_job("a"), a_job("b"), latency=rows_of(0.0201)) == ["a"]


def test_of_two_widths_that_give_as_much_the_wider_is_chosen():
    latency = LatencyModel("a second row costs as much as the first", (0.5, 1.0))
    assert chosen(a_job("a"), a_job("b"), latency=latency) == ["a", "b"]
    assert best_width([1.0, 1.0], latency, FOUR) == 2


def test_a_real_time_row_is_worth_nine_tenths_of_the_one_before_it():
    jobs = [real_time(name) for name in "abc"]
    assert chosen(*jobs, latency=rows_of(0.0189, 0.0269)) == ["a", "b", "c"]  # 1, 1.9 and 2.71 in 10, 18.9 and 26.9 ms
    assert chosen(*jobs, latency=rows_of(0.0189, 0.0275)) == ["a", "b"]
    assert chosen(*jobs, latency=rows_of(0.0191, 0.0275)) == ["a"]


def test_a_promised_row_is_worth_half_of_a_real_time_one_and_a_spare_one_a_tenth():
    assert chosen(real_time("a"), a_job("b"), latency=rows_of(0.0149)) == ["a", "b"]
    assert chosen(real_time("a"), a_job("b"), latency=rows_of(0.0151)) == ["a"]
    assert chosen(real_time("a"), spare("b"), latency=rows_of(0.0109)) == ["a", "b"]
    assert chosen(real_time("a"), spare("b"), latency=rows_of(0.0111)) == ["a"]
    assert chosen(real_time("a", promised=False), spare("b"), latency=rows_of(0.0199)) == ["a", "b"], "what is late is spare, too"


def test_a_step_further_on_may_give_more_than_the_ones_before():
    assert chosen(*(a_job(name) for name in "abcd"), latency=rows_of(0.030, 0.030, 0.030)) == ["a", "b", "c", "d"]


def test_part_of_a_prompt_is_worth_that_part_of_a_row():
    assert chosen(a_job("a"), a_job("b", prompt=100), laxity_s=0.0505) == ["a", ("b", 33)]  # 0.665 in 12 ms
    assert chosen(a_job("a"), a_job("b", prompt=1000), laxity_s=0.0505) == ["a"]  # 0.517 in 12 ms


def test_part_of_a_prompt_is_worth_a_row_where_to_decode_together_saves_more_than_the_prompt_takes():
    """Ten tokens beside another row save 20 ms: that many steps with two rows take 180, with one at a time 200."""
    latency = LatencyModel("steep", (0.010, 0.018, 0.026), prompt_token_s=0.0005)
    saves, costs = (replace(a_job("b", prompt=40), prompt_s=prompt_s) for prompt_s in (0.0199, 0.0201))
    assert chosen(a_job("a"), saves, laxity_s=0.0, latency=latency) == ["a", ("b", 30)]
    assert chosen(a_job("a"), costs, laxity_s=0.0, latency=latency) == ["a"]  # 0.875 in 18 ms is less than 0.5 in 10


# ---- what is not looked at


@st.composite
def steps(draw: st.DrawFn):
    """Tasks in order of urgency, spare ones last, and l(b)."""
    kinds = draw(st.lists(st.sampled_from(["real-time", "pressed", "best effort", "spare", "hopeless"]), min_size=1, max_size=8))
    order = ["real-time", "pressed", "best effort", "spare", "hopeless"]
    jobs = []
    for i, kind in enumerate(sorted(kinds, key=lambda kind: max(1, order.index(kind)))):
        fields = {
            "prompt": draw(st.sampled_from([0, 0, 40, 300])),
            "kv": draw(st.sampled_from([0, 500])),
            "adapter": draw(st.sampled_from(["", "", "x"])),
        }
        if kind == "real-time":
            jobs.append(real_time(str(i), **fields))
        else:
            promised = kind in ("pressed", "best effort")
            jobs.append(a_job(str(i), promised=promised, is_pressed=kind == "pressed", is_hopeless=kind == "hopeless", **fields))
    growth = draw(st.lists(st.floats(0.0, 0.015), min_size=7, max_size=7))
    return jobs, LatencyModel("drawn", tuple(accumulate([0.010, *growth])), chunk_s=0.001, prompt_token_s=0.0001, kv_token_s=1e-6)


@given(steps(), st.sampled_from([0.0, 0.02, math.inf]))
def test_rows_that_cannot_pay_are_not_looked_at_and_would_not_be_chosen(step, laxity_s):
    jobs, latency = step
    limits = Limits(max_batch=8)
    quick = chosen(*jobs, laxity_s=laxity_s, latency=latency, limits=limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slack, "_may_pay", lambda *_: True)
        assert chosen(*jobs, laxity_s=laxity_s, latency=latency, limits=limits) == quick


def test_rows_that_pay_as_much_are_looked_at():
    """1 in 10 ms, and with four spare ones 1.4 in 14: as much, but for the rounding of 1 + 0.1 + 0.1 + 0.1 + 0.1."""
    latency = rows_of(0.014, 0.014, 0.014, 0.014)
    assert len(chosen(real_time("a"), *(spare(name) for name in "bcde"), latency=latency, limits=Limits(max_batch=5))) == 5


def test_what_cannot_pay_is_not_looked_at():
    jobs = [real_time("a"), *(a_job(name) for name in "bcd")]
    steep, flat = (step_s_by_rows(rows_of(*second_and_more), FOUR) for second_and_more in ((0.0151, 0.0202, 0.0253), (0.010, 0.010, 0.010)))
    assert not _may_pay(0.5, 1.0, 1.0 / 0.010, 1, steep), "1.5 in 15.1 ms, 2 in 20.2, 2.5 in 25.3: less than 1 in 10"
    assert _may_pay(0.5, 1.0, 1.0 / 0.010, 1, flat)
    assert chosen(*jobs, latency=rows_of(0.0151, 0.0202, 0.0253)) == ["a"]


# ---- how long


def test_a_row_that_makes_the_step_too_long_is_left_out_but_for_real_time_ones():
    jobs = real_time("a"), a_job("b"), real_time("c"), a_job("d")
    assert chosen(*jobs, laxity_s=0.0019) == ["a", "c"]
    assert chosen(*jobs, laxity_s=0.0021) == ["a", "b", "c"]
    assert chosen(*jobs, laxity_s=0.0041) == ["a", "b", "c", "d"], "what the others take counts together"
    assert chosen(*jobs, laxity_s=-math.inf) == ["a", "c"]


def test_a_pressed_row_is_left_out_where_real_time_ones_cannot_wait_for_it():
    assert chosen(a_job("pressed"), real_time("a"), laxity_s=0.0101) == ["pressed", "a"]
    assert chosen(a_job("pressed"), real_time("a"), laxity_s=0.0099) == ["a"]
    assert chosen(a_job("pressed", prompt=50), real_time("a"), laxity_s=0.0099) == ["a"]


def test_without_real_time_tasks_steps_are_as_long_as_makes_them_worth_their_time_at_least():
    """10 ms for a row and 5 for a chunk are 0.3 of 50 ms."""
    jobs = [a_job(name) for name in "abcd"]
    assert len(chosen(*jobs, laxity_s=0.0, latency=LatencyModel("rows", (0.010, 0.012, 0.014, 0.016)))) == 4
    assert chosen(*jobs, laxity_s=0.0, latency=LatencyModel("steep", (0.010, 0.020, 0.030, 0.040))) == ["a", "b", "c"]
    assert chosen(*jobs, laxity_s=0.0405, latency=LatencyModel("steep", (0.010, 0.020, 0.030, 0.040))) == ["a", "b", "c", "d"]
    late = real_time("a", promised=False), real_time("b", promised=False)
    assert chosen(*late, laxity_s=0.0) == ["a", "b"], "what is late has the time that is left, like others"


def test_a_row_joins_where_it_makes_the_step_no_longer():
    latency = rows_of(0.012, 0.012, 0.012)
    assert chosen(real_time("a"), a_job("b"), real_time("c"), a_job("d"), laxity_s=0.001, latency=latency) == ["a", "c", "d"]


def test_no_step_is_longer_than_a_promised_row_in_it_can_wait():
    others = a_job("b"), a_job("c")
    assert chosen(real_time("a", latest_s=5.0045), *others, now=5.0) == ["a", "b", "c"]  # in time if it begins 4.5 ms later: 14 ms
    assert chosen(real_time("a", latest_s=5.0035), *others, now=5.0) == ["a", "b"]
    assert chosen(a_job("a", latest_s=5.0035), *others, now=5.0) == ["a", "b"]
    assert chosen(a_job("a", latest_s=0.0, last_s=5.0035), *others, now=5.0) == ["a", "b"], "it may still be a short one"
    assert chosen(a_job("a", hope_s=5.0035, latest_s=0.0, last_s=0.0), *others, now=5.0) == ["a", "b"], "there is hope for it"
    assert chosen(a_job("a", hope_s=5.0045, latest_s=0.0, last_s=0.0), *others, now=5.0) == ["a", "b", "c"]
    assert chosen(spare("a", latest_s=0.0, hope_s=0.0), *others, now=5.0) == ["a", "b", "c"]
    assert chosen(real_time("a", latest_s=5.1), real_time("b", latest_s=5.0005), *others, now=5.0) == ["a", "b"]


def test_a_best_effort_row_leaves_room_for_as_many_as_make_a_token_cheap():
    """A token takes 10, 6, 4.7 and 4 ms in steps with one row, two, three and four: no more than 6 is 1.5 times the best."""
    late = [a_job(name, due_s=0.010, latest_s=0.0) for name in "abcd"]
    assert chosen(*late) == ["a", "b"], "not each alone, so that the others wait"
    steep = LatencyModel("steep", (0.010, 0.018, 0.026, 0.034))
    assert chosen(*late, latency=steep) == ["a"], "where that costs little, each is brought to its end"
    tight = real_time("a", due_s=0.010, latest_s=0.0)
    assert chosen(tight, *late[1:]) == ["a"]


def test_a_real_time_row_keeps_time_for_steps_with_others_where_these_cost_little():
    """Two rows take 12 ms, three 1.4 times one row's 10 ms: for each step to go, 2 ms are kept. With a shortest chunk, two take 33 ms."""
    prompt = a_job("b", prompt=40)
    assert chosen(real_time("a", latest_s=0.0231, latest_steps=1.0), prompt) == ["a", ("b", SHORTEST_CHUNK)]
    assert chosen(real_time("a", latest_s=0.0229, latest_steps=1.0), prompt) == ["a"]
    assert chosen(real_time("a", latest_s=0.0411, latest_steps=10.0), prompt) == ["a", ("b", SHORTEST_CHUNK)]
    assert chosen(real_time("a", latest_s=0.0409, latest_steps=10.0), prompt) == ["a"]
    assert chosen(real_time("a", latest_s=0.0231, latest_steps=12.0), prompt) == ["a", ("b", SHORTEST_CHUNK)], "it has not so much time"
    assert chosen(a_job("a", latest_s=0.0231, latest_steps=10.0), prompt) == ["a", ("b", SHORTEST_CHUNK)], "others keep none"
    dear = rows_of(0.013, 0.016)
    assert chosen(real_time("a", latest_s=0.0031, latest_steps=10.0), a_job("b"), latency=dear) == ["a", "b"], "two rows cost too much"


def test_others_count_beside_real_time_rows_where_they_can_be_in_their_steps():
    jobs = real_time("a", adapter="x"), a_job("b", adapter="x"), spare("c", adapter="x"), a_job("d"), a_job("e", adapter="y")
    assert _beside(jobs[:1], jobs, FOUR) == 2
    assert _beside([], jobs, FOUR) == 4, "nobody knows with which adapter the next one comes"


def test_kv_tokens_of_every_row_make_a_step_longer():
    latency = LatencyModel("KV", (0.010, 0.012, 0.014, 0.016), kv_token_s=0.00001)
    jobs = [a_job(name, kv=500) for name in "abc"]  # 5 ms each
    urgent = real_time("u")
    assert chosen(urgent, *jobs, laxity_s=0.0071, latency=latency) == ["u", "a"]  # 2 ms for the row, 5 for its KV tokens
    assert chosen(urgent, *jobs, laxity_s=0.0069, latency=latency) == ["u"]
    assert chosen(urgent, *jobs, laxity_s=0.0141, latency=latency) == ["u", "a", "b"]
    first = real_time("a", kv=500, latest_s=0.0065)  # with its own KV tokens it may wait 10 + 5 + 6.5 ms
    assert chosen(first, a_job("b", kv=400), latency=latency) == ["a", "b"]
    assert chosen(first, a_job("b", kv=500), latency=latency) == ["a"]


def test_what_a_hopeless_row_takes_for_itself_counts_against_it():
    latency = LatencyModel("KV", (0.010, 0.0101), kv_token_s=0.00001)
    late = replace(spare("late", kv=100), is_hopeless=True)  # 1 ms
    assert chosen(a_job("a"), spare("b", kv=100), latency=latency) == ["a", "b"]
    assert chosen(a_job("a"), late, latency=latency) == ["a", "late"]  # 0.6 in 11.1 ms, 0.5 in 10
    assert chosen(a_job("a"), replace(late, kv_tokens=200), latency=latency) == ["a"]  # 12.1 ms
    assert chosen(replace(late, kv_tokens=2000), latency=latency) == ["late"], "alone it waits for nobody"


# ---- prompts


@pytest.mark.parametrize(
    ("tokens", "room_s", "must", "computed"),
    [
        (50, 0.0501, False, 50),
        (50, 0.0495, False, 49),
        (50, 0.0165, False, 16),
        (50, 0.0155, False, 0),
        (50, 0.0155, True, 16),
        (50, -1.0, True, 16),
        (50, -1.0, False, 0),
        (10, 0.0095, True, 10),
        (10, 0.0095, False, 0),
        (10, 0.0101, False, 10),
    ],
)
def test_a_prompt_is_cut_to_the_room_but_not_to_crumbs(tokens, room_s, must, computed):
    assert SHORTEST_CHUNK == 16
    assert _chunk(a_job("a", prompt=tokens), 512, room_s, CHEAP_ROWS, must=must) == computed


def test_where_looking_back_takes_time_a_cut_prompt_fills_the_step_to_what_attention_computes_at_once():
    latency = LatencyModel("looking back", (0.010,), prompt_token_s=0.001, prompt_kv_token_s=1e-9)
    job = a_job("a", prompt=500)
    assert [_chunk(job, 512, room_s, latency, must=False) for room_s in (0.0505, 0.0645, 0.1275, 0.1285)] == [50, 64, 64, 128]
    assert _chunk(job, 509, 0.0705, latency, must=False, before=3) == 61
    assert _chunk(job, 452, 0.0705, latency, must=False, before=60) == 68, "too short a piece would be left"
    assert _chunk(a_job("a", prompt=70), 512, 0.0705, latency, must=False) == 70, "all of it"
    assert _chunk(job, 512, 0.0705, CHEAP_ROWS, must=False) == 70


def test_what_a_chunk_takes_however_short_makes_longer_ones_worthwhile():
    """Ten times what a step takes without the prompt: 10 ms for a row, and of 64 tokens behind 1000 others 64."""
    latency = LatencyModel("looking back", (0.010,), prompt_token_s=0.001, prompt_kv_token_s=1e-6)
    row_s = step_s_by_rows(latency, FOUR)
    assert _worthwhile_s(a_job("a", prompt=500), row_s, latency) == pytest.approx(0.100)
    assert _worthwhile_s(a_job("a", prompt=500, kv=1000), row_s, latency) == pytest.approx(0.740)


def test_a_prompt_that_just_fits_is_computed_whole():
    latency = LatencyModel("a sixteenth of a second", (0.5,), prompt_token_s=0.0625)
    assert _chunk(a_job("a", prompt=8), 512, 0.5, latency, must=False) == 8


def test_a_prompt_of_flat_cost_is_computed_whole_or_not_at_all():
    flat = LatencyModel("flat", (0.010,), chunk_s=0.030)
    job = a_job("a", prompt=50)
    assert [_chunk(job, 512, room_s, flat, must=must) for room_s in (0.001, -0.001) for must in (False, True)] == [50, 50, 0, 50]


def test_the_end_of_a_long_prompt_is_cut_shorter_than_its_beginning():
    latency = LatencyModel("looking back", (0.010, 0.012), prompt_token_s=0.001, prompt_kv_token_s=1e-6)
    cuts = [chosen(a_job("a", prompt=500, kv=kv), laxity_s=0.0605, latency=latency)[0] for kv in (0, 1000, 4000)]
    assert cuts == [("a", 49), ("a", 25), ("a", 16)]  # 50.5 ms, of which 1, 2 and 5 ms a token


def test_the_first_prompt_is_cut_to_the_step_and_the_next_to_what_it_leaves():
    assert chosen(a_job("a", prompt=100), laxity_s=0.0605) == [("a", 45)]  # 10 + 5 ms beside it
    assert chosen(a_job("a", prompt=100), laxity_s=0.001) == [("a", 35)], "0.3 of 50 ms are overhead"
    assert chosen(a_job("a", prompt=500), laxity_s=9.0) == [("a", 150)], "0.1 of 150 ms"
    assert chosen(a_job("a", prompt=20), a_job("b", prompt=20), laxity_s=0.0605) == [("a", 20), ("b", 18)]  # 12 + 25 + 5 ms
    assert chosen(a_job("a", prompt=20), a_job("b", prompt=20), laxity_s=0.0575) == [("a", 20)]


def test_kv_tokens_leave_a_prompt_less_room():
    latency = LatencyModel("KV", (0.010, 0.012), prompt_token_s=0.001, kv_token_s=0.00001)
    assert chosen(a_job("a", prompt=100, kv=1000), laxity_s=0.0505, latency=latency, limits=Limits(2)) == [("a", 30)]


def test_a_step_holds_so_many_tokens():
    assert chosen(a_job("a", prompt=20), a_job("b", prompt=20), a_job("c"), limits=Limits(4, 30)) == [("a", 20), ("b", 10)]
    assert chosen(a_job("a"), a_job("b", prompt=20), a_job("c"), limits=Limits(4, 11)) == ["a", ("b", 10)]
    assert chosen(a_job("a"), a_job("b"), a_job("c"), limits=Limits(4, 2)) == ["a", "b"]


def test_a_step_has_one_adapter():
    jobs = a_job("a", adapter="x"), a_job("b", adapter="y"), a_job("c", adapter="x"), a_job("d")
    assert chosen(*jobs) == ["a", "c"]


# ---- one that is owed a step


def with_row(rows, job, *, laxity_s=math.inf, limits=FOUR):
    return [(row.task.goal_id, chunk) for row, chunk in _with_row(rows, job, 5.0, laxity_s, CHEAP_ROWS, limits)]


def test_who_is_owed_a_step_joins_it_or_takes_the_last_place():
    a, b, owed = a_job("a"), a_job("b"), a_job("owed")
    assert with_row([(a, 0), (b, 0)], owed) == [("a", 0), ("b", 0), ("owed", 0)]
    assert with_row([(a, 0), (b, 0)], owed, limits=Limits(2)) == [("a", 0), ("owed", 0)]
    assert with_row([(a, 0), (owed, 0)], owed) == [("a", 0), ("owed", 0)]
    assert with_row([(a, 20)], owed, limits=Limits(4, 20)) == [("a", 20)], "no token is left for it"
    assert with_row([(a, 20)], owed, limits=Limits(4, 21)) == [("a", 20), ("owed", 0)]


def test_the_prompt_of_who_is_owed_a_step_is_cut_to_what_the_others_can_wait():
    owed = a_job("owed", prompt=100)
    assert with_row([(a_job("a"), 0)], owed) == [("a", 0), ("owed", 100)]
    long = a_job("owed", prompt=200)  # 10 ms for a row and 5 for a chunk are a tenth of 150
    assert with_row([(a_job("a"), 0)], long) == [("a", 0), ("owed", 150)]
    assert with_row([(a_job("a"), 0)], owed, limits=Limits(4, 51)) == [("a", 0), ("owed", 50)]
    assert with_row([(a_job("a"), 0)], owed, laxity_s=0.0475) == [("a", 0), ("owed", 30)]  # 12 + 5 ms beside it
    assert with_row([(a_job("a", prompt=20), 20)], owed, laxity_s=0.0725) == [("a", 20), ("owed", 30)]  # 12 + 20 + 5 + 5 ms
    assert with_row([(real_time("a", latest_s=5.0475), 0)], owed) == [("a", 0), ("owed", 30)]
    assert with_row([(real_time("a", latest_s=5.0475), 0)], owed, laxity_s=0.0375) == [("a", 0), ("owed", 20)]
    assert with_row([(real_time("a", latest_s=5.001), 0)], owed) == [("a", 0), ("owed", 16)]
    assert with_row([(a_job("a", latest_s=5.001), 0)], owed) == [("a", 0), ("owed", 100)], "only real-time rows are waited for"
    assert with_row([(real_time("a", latest_s=5.001, promised=False), 0)], owed) == [("a", 0), ("owed", 100)]


def compute(debt, job, prompt_tokens, *, beside=None):
    """The step that was planned for a creditor, in which so much of it is computed."""
    others = () if beside is None else (Cell(beside.task.goal_id),)
    debt.note((*others, Cell(job.task.goal_id, prompt_tokens)))
    job.task.computed_tokens += max(1, prompt_tokens)


def test_the_oldest_spare_task_of_a_class_is_owed_a_fiftieth_of_the_time():
    debt = _Debt(ServiceClass.BEST_EFFORT)
    tasks = [spare("young", order=2), spare("old", order=1), a_job("urgent", real_time=True, promised=False, order=0)]
    old = tasks[1]
    assert debt.creditor(tasks, 100.0, CHEAP_ROWS) is None
    assert debt.creditor(tasks, 100.4, CHEAP_ROWS) is None  # 8 ms are no step
    assert debt.creditor(tasks, 100.6, CHEAP_ROWS) is old  # 12 ms
    compute(debt, old, 0, beside=tasks[0])  # 10 of them
    assert debt.creditor(tasks, 100.9, CHEAP_ROWS) is None  # 8 ms again
    assert debt.creditor(tasks, 101.1, CHEAP_ROWS) is old
    debt.note((Cell("young"),))  # it is not served
    assert debt.creditor(tasks, 101.1, CHEAP_ROWS) is old
    assert debt.creditor([tasks[2]], 101.2, CHEAP_ROWS) is None
    assert debt.creditor(tasks, 101.3, CHEAP_ROWS) is None, "nothing is owed any more once there was none"


def test_what_is_owed_can_be_put_off_until_it_is_ten_steps():
    debt, old = _Debt(ServiceClass.BEST_EFFORT), spare("old")
    debt.creditor([old], 100.0, CHEAP_ROWS)
    assert debt.creditor([old], 104.9, CHEAP_ROWS, put_off=True) is None  # 98 ms
    assert debt.creditor([old], 105.1, CHEAP_ROWS, put_off=True) is old
    compute(debt, old, 0)
    assert debt.creditor([old], 105.1, CHEAP_ROWS, put_off=True) is None
    assert debt.creditor([old], 105.1, CHEAP_ROWS) is old, "what was put off is still owed"


def test_a_long_prompt_takes_long_to_pay_for():
    debt = _Debt(ServiceClass.BEST_EFFORT)
    tasks = [spare("a", prompt=35)]
    debt.creditor(tasks, 100.0, CHEAP_ROWS)
    assert debt.creditor(tasks, 101.0, CHEAP_ROWS) is tasks[0]  # 20 ms
    compute(debt, tasks[0], 35)  # 10 + 5 + 35 ms: 30 too many
    assert debt.creditor(tasks, 102.9, CHEAP_ROWS) is None
    assert debt.creditor(tasks, 103.1, CHEAP_ROWS) is tasks[0]


def test_time_before_a_task_arrived_is_not_owed_to_it():
    debt = _Debt(ServiceClass.BEST_EFFORT)
    late = spare("late")
    late.task.arrival_s = 100.9
    debt.creditor([], 100.0, CHEAP_ROWS)
    assert debt.creditor([late], 101.0, CHEAP_ROWS) is None
    assert debt.creditor([late], 101.3, CHEAP_ROWS) is None  # 8 ms
    assert debt.creditor([late], 101.5, CHEAP_ROWS) is late


# ---- columns


def columns(promised=(), others=(), owed=(), *, latency=CHEAP_ROWS, limits=FOUR, laxity_s=math.inf, now=5.0):
    built = build_columns(list(promised), list(others), list(owed), laxity_s, now, latency, limits)
    return [[(cell.goal_id, cell.prompt_tokens) if cell.prompt_tokens else cell.goal_id for cell in column] for column in built]


def test_a_matrix_has_six_columns_or_as_many_as_begin_within_300_ms():
    assert len(columns([a_job("a")])) == 6
    assert len(columns([a_job("a")], latency=LatencyModel("slow", (0.110,)))) == 3
    assert len(columns([a_job("a")], latency=LatencyModel("slower", (0.400,)))) == 1


def test_a_prompt_goes_on_in_the_next_column():
    assert columns([a_job("a", prompt=100)], limits=Limits(4, 64))[:3] == [[("a", 64)], [("a", 36)], ["a"]]


def test_who_is_owed_a_step_is_in_the_first_column_only():
    built = columns([real_time("a")], [spare("owed")], [spare("owed")], latency=rows_of(0.019, 0.028, 0.037))
    assert built[:2] == [["a", "owed"], ["a"]]


def test_who_is_owed_a_step_has_one_of_its_own_where_it_would_cost_the_others_more():
    built = columns([real_time("a")], [spare("owed")], [spare("owed")], latency=rows_of(0.021, 0.032, 0.043))
    assert built[:2] == [["owed"], ["a"]]


def test_real_time_rows_come_first_in_order_of_due_time():
    def jobs():
        return a_job("soon", due_s=5.1), real_time("later", due_s=9.0), real_time("sooner", due_s=8.0)

    assert columns(jobs(), latency=rows_of(0.100))[0] == ["sooner"]
    assert columns(jobs())[0] == ["sooner", "later", "soon"]


def test_a_real_time_decode_makes_no_more_urgent_row_late():
    latency = rows_of(0.0117)
    assert chosen(real_time("a", latest_s=5.0018), real_time("b"), latency=latency, now=5.0) == ["a", "b"]
    assert chosen(real_time("a", latest_s=5.0016), real_time("b"), latency=latency, now=5.0) == ["a"]
    late = real_time("a", latest_s=4.9, hope_s=5.0018)  # late already, unless its answer is longer than it may be
    assert chosen(late, real_time("b"), latency=latency, now=5.0) == ["a", "b"]


def test_real_time_decodes_join_beyond_what_goals_to_come_could_wait():
    assert chosen(real_time("a"), real_time("b"), laxity_s=0.001, latency=rows_of(0.0117)) == ["a", "b"]
    assert chosen(real_time("a"), a_job("b"), laxity_s=0.001, latency=rows_of(0.0117)) == ["a"]


def test_a_row_that_makes_a_step_with_a_prompt_no_longer_is_never_left_out():
    """However the sum of its parts is rounded."""
    latency = LatencyModel("flat", (0.02, 0.02), prompt_token_s=0.0001)
    for tokens in range(1, 200):
        urgent = a_job("urgent", real_time=True, prompt=tokens, latest_s=5.0)
        urgent.prompt_s = latency.prompt_s(tokens)
        assert chosen(urgent, real_time("b"), latency=latency, now=5.0) == [("urgent", tokens), "b"]


def test_a_pressed_row_goes_by_its_due_time_beside_real_time_ones():
    pressed = a_job("pressed", due_s=5.1)
    pressed.is_pressed = True
    jobs = real_time("later", due_s=9.0), a_job("soon", due_s=1.0), pressed, real_time("sooner", due_s=5.0)
    assert columns(jobs)[0] == ["sooner", "pressed", "later", "soon"]


def test_spare_tasks_of_several_adapters_take_turns():
    others = [spare(name, adapter=name[0]) for name in ("x1", "x2", "y1", "z1")]
    assert columns((), others) == [["x1", "x2"], ["y1"], ["z1"], ["x1", "x2"], ["y1"], ["z1"]]
