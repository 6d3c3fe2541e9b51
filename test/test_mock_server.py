"""The mock server, and what it is for: tests of planners."""

from __future__ import annotations

import time

import pytest
import rclpy
from by_path import module_at
from rclpy.executors import SingleThreadedExecutor

from slice_ros.client import Answer, Delta, Generation, GoalFailed, SliceClient
from slice_ros.goal import ChatMessage, ErrorCode, ToolCall, joined
from slice_ros.scheduling.task import SloReport
from slice_ros.slo import OnMiss, RealTime
from slice_ros.testing import MockServer, Script

ANSWERS = {
    "hello": "hello robot",
    "fast": Script(" ".join(map(str, range(40)))),
    "slow": Script("one two three four", after_s=0.4),
    "never": Script("", after_s=60.0),
    "fetch": Script("on my way", tool_calls=(ToolCall("a", "pick", '{"n": 1}'), ToolCall("b", "stop", "{}"))),
    "broken": Script("half", error=ErrorCode.ENGINE_DIED, error_msg="it is gone"),
}


@pytest.fixture(scope="module")
def server():
    rclpy.init(args=[])
    with MockServer(ANSWERS, default="what?") as mock:
        yield mock
    rclpy.try_shutdown()


class Asker:
    def __init__(self) -> None:
        self.node = rclpy.create_node("asker")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.client = SliceClient(self.node)
        self.client.wait_for_server(30.0)

    def run(self, coroutine):
        task = self.executor.create_task(coroutine)
        self.executor.spin_until_future_complete(task, timeout_sec=30.0)
        assert task.done()
        return task.result()


@pytest.fixture(scope="module")
def asker(server):
    asker = Asker()
    yield asker
    asker.client.destroy()
    asker.node.destroy_node()


def test_a_stream_is_the_whole_answer_also_where_feedback_was_dropped(asker):
    async def streamed(generation):
        return [piece async for piece in generation]

    report = SloReport()
    for heard, end in (
        ({1: "one", 2: " two"}, Answer("one two three", "stop", report)),
        ({}, Answer("one two three", "stop", report)),
        ({1: "one", 2: " two", 3: " three"}, Answer("one two three", "stop", report)),
        ({1: "one", 3: " three"}, Answer("one two three", "stop", report)),
        ({2: " two", 3: " three"}, Answer("one two three", "stop", report)),
    ):
        generation = Generation(asker.client, "00", 0.0)
        for step, piece in heard.items():
            generation._feedback(Delta(piece), step)
        generation._finish(end)
        assert "".join(asker.run(streamed(generation))) == end.text
    for _ in range(5):  # many pieces, and the result right behind them
        assert "".join(asker.run(streamed(asker.client.stream("fast")))) == ANSWERS["fast"].text


def test_it_says_what_it_was_told_to(asker, server):
    before = len(server.goals)
    assert asker.run(asker.client.generate("hello")).text == "hello robot"
    assert asker.run(asker.client.generate([ChatMessage("user", "hello")])).text == "hello robot"
    assert asker.run(asker.client.generate("?")).text == "what?"
    assert server.goals[before].prompt == "hello"


def test_calls_come_with_the_answer_and_what_of_them_was_not_heard_does_too(asker):
    async def called(generation):
        return [piece async for delta in generation.deltas() for piece in delta.calls]

    calls = (ToolCall("a", "pick", '{"n": 1}'), ToolCall("b", "stop", "{}"))
    end = Answer("", "tool_calls", SloReport(), tool_calls=calls)
    for heard in ([], [ToolCall("a", "pick", ""), ToolCall("", "", '{"n')], calls[:1], calls):
        generation = Generation(asker.client, "00", 0.0)
        for step, piece in enumerate(heard, 1):
            generation._feedback(Delta("", (piece,)), step)
        generation._finish(end)
        assert joined(asker.run(called(generation))) == calls
    answer = asker.run(asker.client.generate("fetch", tools=[{"name": "pick"}, {"name": "stop"}]))
    assert (answer.tool_calls, answer.finish_reason) == (calls, "tool_calls")
    assert answer.message == ChatMessage("assistant", "on my way", calls)


def test_pieces_come_over_time(asker):
    async def pieces():
        return [piece async for piece in asker.client.send("slow")]

    began = time.monotonic()
    assert asker.run(pieces()) == ["one", " two", " three", " four"]
    assert time.monotonic() - began >= 0.4


def test_a_deadline_that_passes_is_reported_or_ends_the_goal(asker):
    late = asker.run(asker.client.generate("slow", slo=RealTime(deadline_s=0.2, on_miss=OnMiss.CONTINUE)))
    assert not late.report.attained
    assert asker.run(asker.client.generate("slow", slo=RealTime(deadline_s=30.0))).report.attained
    with pytest.raises(GoalFailed) as caught:
        asker.run(asker.client.generate("never", slo=RealTime(deadline_s=0.2)))
    assert caught.value.code is ErrorCode.SLO_MISSED


def test_a_scripted_error_is_an_error(asker):
    with pytest.raises(GoalFailed, match="it is gone") as caught:
        asker.run(asker.client.generate("broken"))
    assert (caught.value.code, caught.value.text) == (ErrorCode.ENGINE_DIED, "half")


def test_goals_can_be_canceled_superseded_and_rejected(asker, server):
    async def cancel():
        generation = asker.client.send("never")
        asker.node.create_timer(0.2, generation.cancel)
        return await generation.result()

    with pytest.raises(GoalFailed) as caught:
        asker.run(cancel())
    assert caught.value.code is ErrorCode.CANCELED
    void, other = (asker.client.send("never", label=label) for label in ("drive", "look"))
    assert asker.run(asker.client.generate("hello", label="drive", supersede=True)).text == "hello robot"
    with pytest.raises(GoalFailed) as caught:
        asker.run(void.result())
    assert caught.value.code is ErrorCode.SUPERSEDED
    assert not other.done
    other.cancel()
    server.is_active = False
    with pytest.raises(GoalFailed, match="not active"):
        asker.run(asker.client.generate("hello"))
    server.is_active = True


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"waypoint": "lab"}', ("lab", "model")),
        (Script(after_s=5.0), ("hall", "fallback: SLO_MISSED")),
        ("gibberish", ("hall", "fallback")),
    ],
)
def test_the_example_planner_falls_back_when_the_model_is_late_or_wrong(asker, answer, expected):
    module = module_at("examples/waypoint_planner.py")
    with MockServer(lambda goal: answer, name="planner_server"):
        planner = module.WaypointPlanner("/planner_server")
        asker.executor.add_node(planner)
        planner._client.wait_for_server(30.0)
        waypoint, source = asker.run(planner.plan("patrol", (1.0, 2.5)))
        asker.executor.remove_node(planner)
        planner.destroy_node()
    assert waypoint == expected[0]
    assert source.startswith(expected[1])


def test_the_behaviour_answers_fails_and_cancels(asker, server):
    py_trees = pytest.importorskip("py_trees")
    from slice_ros.behaviours import Ask

    def ticked(behaviour, for_s=20.0):
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            behaviour.tick_once()
            if behaviour.status is not py_trees.common.Status.RUNNING:
                break
            asker.executor.spin_once(timeout_sec=0.05)
        return behaviour.status

    good = Ask("good", "hello", "answer")
    good.setup(node=asker.node)
    assert ticked(good) is py_trees.common.Status.SUCCESS
    assert py_trees.blackboard.Blackboard.get("answer") == "hello robot"
    late = Ask("late", lambda: "slow", "answer", slo=RealTime(deadline_s=0.1, on_miss=OnMiss.CONTINUE))
    late.setup(node=asker.node)
    assert ticked(late) is py_trees.common.Status.FAILURE
    assert "missed its SLO" in late.feedback_message
    endless = Ask("endless", "never", "answer")
    endless.setup(node=asker.node)
    assert ticked(endless, for_s=0.5) is py_trees.common.Status.RUNNING
    endless.stop(py_trees.common.Status.INVALID)
    asker.executor.spin_once(timeout_sec=0.1)
    deadline = time.monotonic() + 10.0
    while not endless._generation.done and time.monotonic() < deadline:
        asker.executor.spin_once(timeout_sec=0.05)
    assert endless._generation.end.code is ErrorCode.CANCELED
    for behaviour in (good, late, endless):
        behaviour.shutdown()
