"""A goal that cannot be is refused where it is made, with the field, its value and what would be right."""

import pickle

import pytest

from slice_ros.goal import ChatMessage, ErrorCode, GoalError, GoalRequest, Sampling
from slice_ros.slo import BestEffort, RealTime


def make(**fields):
    return GoalRequest(**{"goal_id": "g", "slo": BestEffort(), "max_tokens": 8, "prompt": "hello"} | fields)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": ""}, "prompt and messages are both empty"),
        ({"messages": (ChatMessage("user", "hi"),)}, "prompt and messages are both given"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": -3}, "max_tokens is -3"),
        ({"stop": ("a", "")}, "stop holds an empty string"),
        ({"grammar": "root ::= x", "json_schema": "{}"}, "grammar and json_schema are both given"),
        ({"grammar": "root ::= x", "json_schema": "{}", "regex": "x"}, "grammar and json_schema and regex are all given"),
        ({"chain_deadline_s": 0.0}, "chain_deadline is 0.0 s"),
        ({"chain_deadline_s": float("nan")}, "chain_deadline is nan s"),
    ],
)
def test_a_contradictory_goal_is_refused(fields, sentence):
    with pytest.raises(GoalError, match=sentence) as caught:
        make(**fields)
    assert caught.value.code is ErrorCode.INVALID_GOAL


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("top_k", -1), ("top_p", 1.1), ("min_p", -0.5), ("repeat_penalty", -1.0)],
)
def test_a_sampling_value_out_of_range_is_refused_by_name_and_value(name, value):
    with pytest.raises(GoalError, match=f"sampling.{name} is {value}"):
        Sampling(**{name: value})


def test_kind_is_the_label_or_the_service_class():
    assert make(label="voice").kind == "voice"
    assert make().kind == "best_effort"
    assert make(slo=RealTime(deadline_s=1)).kind == "real_time"


def test_goal_and_error_survive_the_way_to_another_process():
    goal = make(messages=(ChatMessage("user", "hi"),), prompt="", sampling=Sampling(temperature=0.7))
    assert pickle.loads(pickle.dumps(goal)) == goal
    error = pickle.loads(pickle.dumps(GoalError(ErrorCode.INFEASIBLE, "too late")))
    assert (error.code, str(error)) == (ErrorCode.INFEASIBLE, "too late")
