"""The story of a goal: its steps, and what it was lost to."""

import argparse
from dataclasses import replace

import pytest

from slice_ros.bench import command
from slice_ros.bench.explain import chains_due_s, explain, moments
from slice_ros.bench.simulate import simulate
from slice_ros.bench.workload import Arrival
from slice_ros.engines.simulated import Lengths
from slice_ros.goal import GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.policies import make_policy
from slice_ros.slo import BestEffort, OnMiss, RealTime

LATENCY = LatencyModel("a row costs a step", (0.010, 0.020), prompt_token_s=0.001)


def an_arrival(name, time_s, slo, prompt_tokens, output_tokens):
    request = GoalRequest(name, slo, 50, prompt=" ", submitted_s=time_s, label=name)
    return Arrival(time_s, request, Lengths(prompt_tokens, output_tokens))


CONTROL = an_arrival("control", 0.0, RealTime(deadline_s=0.100, on_miss=OnMiss.CONTINUE), 1, 5)
CHAT = an_arrival("chat", 0.015, BestEffort(), 60, 3)


def served():
    steps = []
    outcomes = simulate([CONTROL, CHAT], make_policy("orca"), LATENCY, steps=steps)
    return outcomes, steps


def test_slack_is_what_a_goal_could_wait_with_the_length_that_it_really_has():
    _, steps = served()
    story = moments(CONTROL, steps, LATENCY)
    assert [moment.own_tokens for moment in story] == [1, 0, 0, 0, 0]
    assert story[0].slack_s == pytest.approx(0.100 - 0.051)
    assert story[1].lost_s == pytest.approx(0.0), "alone in its step it loses nothing"
    assert story[2].lost_s == pytest.approx(0.010 + 0.060), "another one's row, and its prompt"
    assert story[3].slack_s < 0.0


def test_the_story_names_the_step_and_those_it_was_lost_to():
    outcomes, steps = served()
    text = explain(outcomes[0], outcomes, steps, LATENCY)
    assert "control: real-time, deadline 100 ms; 1 prompt tokens, 5 of output, sent at 0.000 s" in text
    assert "missed: " in text
    assert "BE chat (+60 of its prompt)" in text
    assert "lost in the step that began 21 ms after it was sent" in text
    assert "its slack went to steps beside best-effort prompts 70 ms" in text


def test_a_goal_in_time_is_told_of_as_well():
    outcomes, steps = served()
    text = explain(outcomes[1], outcomes, steps, LATENCY)
    assert "chat: best-effort, no bound" in text
    assert "in time" in text
    assert "lost" not in text


def test_the_story_of_a_goal_that_was_given_up_ends_where_it_was_lost():
    slo = RealTime(deadline_s=0.060, on_miss=OnMiss.ABORT)
    steps = []
    arrivals = [CHAT, an_arrival("late", 0.016, slo, 1, 3), an_arrival("after", 0.5, BestEffort(), 1, 5)]
    outcomes = simulate(arrivals, make_policy("orca"), LATENCY, steps=steps)
    story = moments(arrivals[1], steps, LATENCY)
    assert not outcomes[1].completed
    assert [moment.own_tokens for moment in story] == [None, None], "of dozens that follow"
    assert "lost in the step that began" in explain(outcomes[1], outcomes, steps, LATENCY)


def bench(*options):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(options)))


def test_the_command_tells_the_story_of_the_goal_that_is_named(capsys):
    quick = ("--rates", "3", "--policies", "orca", "--duration", "20")
    assert bench("--explain", "missed", *quick) == 0
    name = capsys.readouterr().out.split(":")[0]
    assert bench("--explain", name, *quick) == 0
    assert "lost in the step" in capsys.readouterr().out
    assert bench("--explain", "nobody", *quick) == 2
    error = capsys.readouterr().err
    assert "--explain is 'nobody'; there is no such goal" in error
    assert name in error


def test_only_simulated_steps_are_known(capsys):
    assert bench("--explain", "missed", "--engine", "paced") == 2
    assert "--explain is for --engine simulated" in capsys.readouterr().err


def test_a_long_story_is_told_from_both_ends():
    chats = [an_arrival(f"chat-{k}", 0.001 + 0.05 * k, BestEffort(), 5, 2) for k in range(60)]
    steps = []
    long = an_arrival("long", 0.0, RealTime(deadline_s=9.0), 1, 50)
    outcomes = simulate([long, *chats], make_policy("orca"), LATENCY, steps=steps)
    text = explain(outcomes[0], outcomes, steps, LATENCY)
    assert "lines …" in text
    assert len(text.splitlines()) < 50


def test_slack_of_a_goal_in_a_chain_is_that_of_the_chain():
    first = an_arrival("look", 0.0, RealTime(deadline_s=1.0, on_miss=OnMiss.CONTINUE), 1, 3)
    first = replace(first, request=replace(first.request, chain_deadline_s=0.080))
    last = an_arrival("plan", 0.040, RealTime(deadline_s=1.0, on_miss=OnMiss.CONTINUE), 1, 5)
    last = replace(last, request=replace(last.request, after=("look",)))
    steps = []
    outcomes = simulate([first, last], make_policy("orca"), LATENCY, steps=steps)
    assert not outcomes[1].report.attained
    assert chains_due_s([first, last]) == {"look": 0.080, "plan": 0.080}
    text = explain(outcomes[1], outcomes, steps, LATENCY)
    assert "deadline 1000 ms, its chain due 40 ms after it was sent" in text
    assert "it was out of reach when it was sent" in text
    assert "its chain due 80 ms after it was sent" in explain(outcomes[0], outcomes, steps, LATENCY)
