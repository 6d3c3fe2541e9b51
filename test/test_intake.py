"""How large a goal may be, and how many may wait, in all and of one client."""

from __future__ import annotations

from collections import Counter

import pytest
import rclpy
from builders import a_goal
from hypothesis import given
from hypothesis import strategies as st
from serving import READY_S, Peer, serving

from slice_ros.client import GoalFailed
from slice_ros.goal import ChatMessage, ErrorCode, GoalError
from slice_ros.parameters.table import check_all
from slice_ros.ros import qos
from slice_ros.ros.interfaces import GoalEvent
from slice_ros.server.intake import LONGEST_NAME, MOST_ENTRIES, MOST_LABELS, Labels, Places, check_size, superseded
from slice_ros.slo import RealTime

LIMITS = check_all({"limits.max_tokens": 100, "limits.prompt_bytes": 1000, "limits.grammar_bytes": 50})
AT_THE_LIMIT = {"label": "l" * LONGEST_NAME, "stop": ("s",) * 500, "grammar": "g" * 50}


def refused(goal) -> GoalError:
    with pytest.raises(GoalError) as caught:
        check_size(goal, LIMITS)
    return caught.value


def test_a_goal_at_every_limit_is_taken():
    check_size(a_goal("a", max_tokens=100, prompt_tokens=125, **AT_THE_LIMIT), LIMITS)


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"max_tokens": 101}, ErrorCode.INVALID_GOAL, "max_tokens is 101; limits.max_tokens of this server is 100"),
        ({"prompt_tokens": 251}, ErrorCode.INVALID_GOAL, "have 1004 bytes; limits.prompt_bytes of this server is 1000"),
        ({"stop": ("ä" * 600,)}, ErrorCode.INVALID_GOAL, "have 1204 bytes"),
        ({"stop": ("s",) * (MOST_ENTRIES + 1)}, ErrorCode.INVALID_GOAL, "stop has 1025 entries"),
        ({"after": ("00",) * (MOST_ENTRIES + 1)}, ErrorCode.INVALID_GOAL, "after has 1025 entries"),
        ({"label": "l" * (LONGEST_NAME + 1)}, ErrorCode.INVALID_GOAL, "label has 257 bytes"),
        ({"model": "m" * (LONGEST_NAME + 1)}, ErrorCode.INVALID_GOAL, "model has 257 bytes"),
        ({"answer_prefix": "x" * 1000}, ErrorCode.INVALID_GOAL, "have 1004 bytes"),
        ({"client": "c" * (LONGEST_NAME + 1)}, ErrorCode.INVALID_GOAL, "client has 257 bytes"),
        ({"grammar": "g" * 51}, ErrorCode.INVALID_GRAMMAR, "grammar has 51 bytes; limits.grammar_bytes of this server is 50"),
        ({"json_schema": "{" * 51}, ErrorCode.INVALID_GRAMMAR, "json_schema has 51 bytes"),
    ],
)
def test_a_goal_beyond_a_limit_is_told_the_field_its_size_and_the_limit(fields, code, words):
    error = refused(a_goal("a", **fields))
    assert error.code is code
    assert words in error.message


def test_messages_count_as_the_prompt_does():
    goal = a_goal("a", prompt_tokens=0, messages=(ChatMessage("user", "x" * 997),))
    assert "1001 bytes" in refused(goal).message


def places(most: int) -> tuple[Places, dict[str, object]]:
    return Places("queued", "scheduler.max_queued"), check_all({"scheduler.max_queued": most, "scheduler.client_share": 0.5})


def test_the_bound_of_all_and_the_share_of_one_client():
    queue, limits = places(4)
    for i in range(2):
        queue.join(a_goal(f"a{i}", client="/a"), limits)
    with pytest.raises(GoalError, match="2 goals of client '/a' are queued; one client may have 2") as caught:
        queue.join(a_goal("a2", client="/a"), limits)
    assert caught.value.code is ErrorCode.OVERLOADED
    for i in range(2):
        queue.join(a_goal(f"n{i}"), limits)
    with pytest.raises(GoalError, match="4 goals are queued, as many as scheduler"):
        queue.join(a_goal("b", client="/b"), limits)
    queue.leave("a0")
    queue.leave("a0")
    with pytest.raises(GoalError, match="2 goals that name no client"):
        queue.join(a_goal("n2"), limits)
    queue.join(a_goal("a2", client="/a"), limits)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.sampled_from(["", "/a", "/b"])), max_size=200))
def test_the_queue_never_holds_more_than_it_may_of_anyone(moves):
    (queue, limits), held = places(8), {}
    for joins, number, client in moves:
        goal_id = str(number)
        if joins and goal_id not in held:
            fits = len(held) < 8 and Counter(held.values())[client] < 4
            try:
                queue.join(a_goal(goal_id, client=client), limits)
            except GoalError:
                assert not fits
            else:
                assert fits
                held[goal_id] = client
        elif not joins:
            queue.leave(goal_id)
            held.pop(goal_id, None)
        assert len(queue) == len(held)


def test_labels_beyond_the_most_count_as_their_service_class():
    labels = Labels()
    for i in range(MOST_LABELS):
        assert labels.known(a_goal("a", label=f"l{i}")).kind == f"l{i}"
    assert labels.known(a_goal("a", label="one more")).kind == "best_effort"
    assert labels.known(a_goal("a", label="l0")).kind == "l0"
    with pytest.raises(GoalError, match="one more than the 256 that this server tells apart"):
        labels.known(a_goal("a", label="one more", supersede=True))


def test_a_goal_makes_void_what_its_client_asked_under_its_label_but_not_what_it_waits_for():
    goals = [
        a_goal("old", label="drive", client="/a"),
        a_goal("first", label="drive", client="/a"),
        a_goal("between", label="look", client="/a", after=("first",)),
        a_goal("other label", label="look", client="/a"),
        a_goal("other client", label="drive", client="/b"),
        a_goal("nobody's", label="drive"),
    ]
    in_hand = {goal.goal_id: goal for goal in goals}
    assert superseded(a_goal("new", label="drive", client="/a", supersede=True), in_hand) == ["old", "first"]
    after = a_goal("new", label="drive", client="/a", supersede=True, after=("between", "long gone"))
    assert superseded(after, in_hand) == ["old"]
    with pytest.raises(GoalError, match="supersede is set and label is empty"):
        a_goal("new", supersede=True)


def test_a_greedy_client_is_refused_and_the_other_is_served():
    rclpy.init(args=[])
    try:
        settings = ("scheduler.max_queued:=20", "scheduler.max_batch:=1", "limits.max_tokens:=4000")
        with serving("bounded", "--engine", "simulated", *(argument for setting in settings for argument in ("-p", setting))):
            greedy, modest = Peer("bounded"), Peer("bounded", "modest")
            greedy.client.wait_for_server(READY_S)
            modest.client.wait_for_server(READY_S)

            generations = [greedy.client.send(f"goal {i}", max_tokens=4000) for i in range(15)]  # none ends meanwhile
            greedy.spin_until(lambda: sum(generation.done for generation in generations) >= 4)  # ten may wait, and one may run
            refusals = [generation.end for generation in generations if generation.done]
            assert {error.code for error in refusals} == {ErrorCode.OVERLOADED}
            assert "one client may have 10" in refusals[0].message
            greedy.client.cancel_all()
            assert modest.run(modest.client.generate("me too", max_tokens=2)).report.output_tokens == 2
            assert modest.fails("too much", max_tokens=4001).code is ErrorCode.INVALID_GOAL
            greedy.close()
            modest.close()
    finally:
        rclpy.try_shutdown()


def test_goals_that_have_begun_are_bounded_and_the_refused_count_as_missed():
    rclpy.init(args=[])
    try:
        with serving("in_hand", "--engine", "simulated", "-p", "scheduler.max_in_hand:=6"):
            peer, events = Peer("in_hand"), []
            peer.client.wait_for_server(READY_S)
            peer.node.create_subscription(GoalEvent, "/in_hand/goal_events", events.append, qos.GOAL_EVENTS)
            peer.spin_until(lambda: peer.node.count_publishers("/in_hand/goal_events") == 1)
            begun = [peer.client.send(f"goal {i}", max_tokens=2000) for i in range(3)]
            peer.spin_until(lambda: all(generation._pieces for generation in begun))
            error = peer.fails("one more", slo=RealTime(deadline_s=60.0), label="late")
            assert error.code is ErrorCode.OVERLOADED
            assert "3 goals of client '/peer_of_in_hand' are in hand; one client may have 3 (scheduler.max_in_hand x" in error.message
            peer.spin_until(lambda: [event.event for event in events if event.label == "late"] == [GoalEvent.ACCEPTED, GoalEvent.FINISHED])
            status = peer.status()
            assert (status.missed_rt, status.attainment_rt) == (1, 0.0)
            (late,) = (figures for figures in status.classes if figures.label == "late")
            assert (late.submitted, late.failed, late.queued, late.running) == (1, 1, 0, 0)
            peer.client.cancel_all()
            for generation in begun:
                with pytest.raises(GoalFailed):
                    peer.run(generation.result())
            assert peer.run(peer.client.generate("again", max_tokens=2)).report.output_tokens == 2
            peer.close()
    finally:
        rclpy.try_shutdown()
