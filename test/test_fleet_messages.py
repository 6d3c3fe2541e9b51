"""What a server tells a dispatcher of itself comes out of its messages as it went in, and predicts the same."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from builders import CONTROL, PAPER, VOICE, Bench, a_goal

from slice_ros.goal import ChatMessage, GoalRequest, Sampling, ToolCall
from slice_ros.ros.conversions import fill_status, goal_msg, load_msg, member_report_of, request_of
from slice_ros.ros.interfaces import SloStatus
from slice_ros.scheduling.admission import predict
from slice_ros.scheduling.events import Snapshot
from slice_ros.scheduling.experience import Experience
from slice_ros.scheduling.task import Task
from slice_ros.slo import BestEffort, RealTime


def told(bench: Bench) -> SloStatus:
    """The status of a server with that scheduler."""
    bench.clock.advance(1.0)
    bench.turn()
    snapshot = [event for event in bench.events if isinstance(event, Snapshot)][-1]
    status = fill_status(SloStatus(device="d", model="m.gguf", engine_state="ready", active=True), snapshot)
    status.load = load_msg(snapshot, 4096)
    return status


def test_a_dispatcher_predicts_from_a_status_what_the_server_predicts_itself():
    bench = Bench("slack", PAPER)
    bench.submit(a_goal("aa", CONTROL, max_tokens=25), a_goal("bb", VOICE, max_tokens=80, prompt_tokens=200))
    bench.turn(5)
    status = told(bench)
    report = member_report_of(status)
    assert report is not None
    assert report.is_serving
    now = bench.clock.now()
    newcomer = Task.of(a_goal("cc", CONTROL, max_tokens=25, submitted_s=now), 10, 9)
    here = predict(newcomer, [Task.from_state(state, now) for state in report.in_hand], now, report.latency, report.limits, Experience())
    there = predict(newcomer, bench.scheduler.tasks, now, bench.scheduler._pace.latency, bench.scheduler._limits, Experience())
    assert here.e2e_s == pytest.approx(there.e2e_s, rel=1e-3)
    assert here.ttft_s == pytest.approx(there.ttft_s, rel=1e-3)


def test_a_server_without_an_engine_tells_nothing_to_predict_from():
    assert member_report_of(SloStatus()) is None


def test_impossible_numbers_are_refused():
    status = told(Bench("slack", PAPER))
    status.load.decode_ms = [-1.0]
    with pytest.raises(ValueError, match="l\\(1\\)"):
        member_report_of(status)


def test_a_goal_that_is_passed_on_is_the_same_goal_in_every_field():
    text = GoalRequest(
        "00" * 16,
        RealTime(ttft_ms=250, deadline_s=1.5, utility=7.0),
        12,
        prompt="go",
        label="control",
        sampling=Sampling(temperature=0.5, seed=3),
        stop=("\n",),
        regex="[a-z]+",
        session_id="s",
        client="/planner",
        model="m.gguf",
        answer_prefix="to the",
        hedge=True,
        supersede=True,
        logprobs=True,
        adapter="polite",
        after=("11" * 16,),
        chain_deadline_s=3.0,
    )
    chat = GoalRequest(
        "22" * 16,
        BestEffort(deadline_s=9.0, utility=2.0),
        13,
        messages=(
            ChatMessage("user", "go"),
            ChatMessage("assistant", "", (ToolCall("abc", "stop", "{}"),)),
            ChatMessage("tool", "ok", (), "abc"),
        ),
        label="chat",
        tools='[{"name":"stop"}]',
        tool_choice="required",
        reasoning="deadline",
    )
    grammar = replace(text, regex="", grammar="{}")
    requests = [text, chat, grammar, replace(grammar, grammar="", json_schema="{}")]
    for request in requests:
        assert request_of(request.goal_id, goal_msg(request), submitted_s=0.0, default_max_tokens=1) == request
    untried = {field.name for field in fields(GoalRequest) if len({repr(getattr(request, field.name)) for request in requests}) == 1}
    assert untried == {"submitted_s", "is_default"}, "each other field differs somewhere"


def test_how_many_tokens_fit_is_the_members_to_say_where_the_goal_names_none():
    goal = goal_msg(GoalRequest("00" * 16, BestEffort(), 256, prompt="go", is_default=True))
    assert request_of("00" * 16, goal, submitted_s=0.0, default_max_tokens=100).is_default


def test_a_goal_without_bounds_takes_no_preset_of_the_member():
    goal = goal_msg(GoalRequest("00" * 16, BestEffort(), 12, prompt="go", label="control"))
    passed_on = request_of("00" * 16, goal, submitted_s=0.0, default_max_tokens=1, presets={"control": CONTROL})
    assert not passed_on.slo.is_real_time
    assert not passed_on.slo.has_bound
    assert math.isclose(passed_on.slo.weight, 1.0)
