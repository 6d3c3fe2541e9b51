"""What a server tells others, and what they may change while goals run."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from serving import READY_S, Peer, serving

from slice_ros.goal import ErrorCode
from slice_ros.monitor.feed import Feed
from slice_ros.ros.conversions import slo_msg
from slice_ros.ros.interfaces import CheckSlo, GoalEvent, SloStatus
from slice_ros.slo import BestEffort, RealTime

LAUNCH = Path(__file__).parent.parent / "launch"
EASY = slo_msg(RealTime(deadline_s=9.0))


@pytest.fixture(scope="module")
def peer():
    rclpy.init(args=[])
    with serving(
        "citizen",
        "--engine",
        "simulated",
        "-p",
        "slo_presets.patrol.deadline_s:=30.0",
        "-p",
        "diagnostics.step_ratio_warn:=100.0",
        "-p",
        "limits.max_tokens:=1048576",
    ) as process:
        peer = Peer("citizen")
        peer.client.wait_for_server(READY_S)
        yield peer
        assert process.poll() is None
        peer.close()
    rclpy.try_shutdown()


def set_parameter(peer, name: str, value):
    parameter = Parameter(name, value=value) if value is not None else Parameter(name)
    (result,) = peer.call(SetParameters, "/citizen/set_parameters", parameters=[parameter.to_parameter_msg()]).results
    return result


def events_of(peer, *sent):
    """The events of these goals, whose ends are waited for."""
    got = []
    subscription = peer.node.create_subscription(GoalEvent, "/citizen/goal_events", got.append, 100)
    peer.spin_until(lambda: peer.node.count_publishers("/citizen/goal_events"))
    peer.status()
    generations = [peer.client.send(prompt, **options) for prompt, options in sent]
    ids = [generation.goal_id for generation in generations]

    def of(goal_id):
        return [event for event in got if bytes(event.goal_id.uuid).hex() == goal_id]

    peer.spin_until(lambda: all(any(e.event == GoalEvent.FINISHED for e in of(goal_id)) for goal_id in ids))
    peer.node.destroy_subscription(subscription)
    return [of(goal_id) for goal_id in ids]


def test_a_goals_life_is_told_event_by_event(peer):
    good, bad = events_of(
        peer,
        ("hello", {"max_tokens": 5, "label": "greeting", "slo": RealTime(deadline_s=9.0)}),
        ("hello", {"max_tokens": 1_000_000}),
    )
    assert [event.event for event in good] == [GoalEvent.ACCEPTED, GoalEvent.FIRST_TOKEN, GoalEvent.FINISHED]
    end = good[-1]
    assert (end.label, end.finish_reason, end.error_code) == ("greeting", "length", 0)
    assert end.slo.deadline.sec == 9
    assert end.report.attained
    assert end.report.output_tokens == 5
    assert end.policy == "slack"
    assert [event.event for event in bad] == [GoalEvent.ACCEPTED, GoalEvent.FINISHED]
    assert bad[-1].error_code == ErrorCode.CONTEXT_EXCEEDED
    assert "1000000" in bad[-1].error_msg


def test_a_preset_of_a_parameter_file_holds_for_goals_that_name_it(peer):
    patrol, control = events_of(peer, ("go", {"max_tokens": 2, "preset": "patrol"}), ("go", {"max_tokens": 2, "label": "control"}))
    assert patrol[0].slo.deadline.sec == 30
    assert patrol[0].slo.preset == "patrol"
    assert control[0].slo.service_class == 1


def test_an_unknown_preset_ends_the_goal_with_those_that_exist(peer):
    error = peer.fails("go", preset="dance")
    assert error.code is ErrorCode.INVALID_SLO
    assert "patrol" in error.message


def test_a_preset_is_changed_live_and_judged_as_a_whole(peer):
    assert set_parameter(peer, "slo_presets.arm.deadline_s", 2.5).successful
    assert set_parameter(peer, "slo_presets.arm.service_class", "real_time").successful
    (events,) = events_of(peer, ("go", {"max_tokens": 2, "preset": "arm"}))
    assert (events[0].slo.service_class, events[0].slo.deadline.sec) == (1, 2)
    refused = set_parameter(peer, "slo_presets.arm.deadline_s", 0.0)
    assert not refused.successful
    assert "no bound" in refused.reason


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("scheduler.polcy", "orca", "is 'scheduler.policy' meant?"),
        ("scheduler.policy", "fifo", "must be one of"),
        ("scheduler.max_batch", 0, "256"),
        ("scheduler.admission", "never", "one of always, strict"),
        ("context.n_ctx", 4096, "unconfigured"),
        ("engine.kind", None, "unconfigured"),
        ("slo_presets.arm.colour", 1.0, "FIELD is one of"),
    ],
)
def test_a_wrong_change_is_refused_with_a_sentence(peer, name, value, says):
    result = set_parameter(peer, name, value)
    assert not result.successful
    assert says in result.reason


def test_parameters_change_while_goals_run_and_no_goal_is_lost(peer):
    generations = [peer.client.send("a story", max_tokens=150) for _ in range(3)]
    for name, value in (
        ("scheduler.policy", "orca"), ("scheduler.max_batch", 1), ("scheduler.admission", "strict"),
        ("scheduler.policy", "slice"), ("scheduler.max_batch", 16), ("scheduler.policy", "slack"), ("generation.max_tokens", 7),
    ):  # fmt: skip
        assert set_parameter(peer, name, value).successful
    for generation in generations:
        assert peer.run(generation.result()).report.output_tokens == 150
    assert peer.run(peer.client.generate("default length")).report.output_tokens == 7
    error = peer.fails("too late", slo=RealTime(deadline_s=0.001), max_tokens=100)
    assert error.code is ErrorCode.INFEASIBLE
    assert set_parameter(peer, "scheduler.admission", "always").successful


def test_the_status_holds_plain_numbers_to_plot(peer):
    peer.run(peer.client.generate("go", slo=RealTime(deadline_s=30.0), max_tokens=2))
    peer.run(peer.client.generate("go", slo=BestEffort(tpot_ms=0.001), max_tokens=5))
    running = peer.client.send("go on", max_tokens=150)  # an idle server has no steps to tell of
    status = peer.latest(
        SloStatus, "/citizen/slo_status", satisfies=lambda s: s.attainment_rt > 0.0 and s.missed_be > 0 and s.step_ratio > 0.0
    )
    assert 0.0 <= status.attainment_be < 1.0
    peer.run(running.result())


def test_diagnostics_tell_of_the_engine_and_of_the_slo(peer):
    message = peer.latest(DiagnosticArray, "/diagnostics", satisfies=lambda m: m.status[0].name.startswith("citizen"))
    assert [status.name for status in message.status] == ["citizen: engine", "citizen: SLO"]
    values = {pair.key: pair.value for pair in message.status[0].values}
    assert message.status[0].level == b"\x00"
    assert int(values["KV cells"]) > 0


def test_too_many_missed_goals_are_a_warning_above_the_threshold_of_the_parameter(peer):
    assert peer.fails("go", slo=RealTime(deadline_s=0.001), max_tokens=20).code is ErrorCode.SLO_MISSED
    peer.latest(DiagnosticArray, "/diagnostics", satisfies=lambda m: m.status[1].name == "citizen: SLO" and m.status[1].level == b"\x01")
    assert set_parameter(peer, "diagnostics.attainment_warn", 0.0).successful
    peer.latest(DiagnosticArray, "/diagnostics", satisfies=lambda m: m.status[1].name == "citizen: SLO" and m.status[1].level == b"\x00")


def test_check_slo_counts_what_the_server_has_in_hand(peer):
    alone = peer.call(CheckSlo, "/citizen/check_slo", prompt_tokens=32, max_tokens=20, slo=EASY)
    crowd = [peer.client.send("go", slo=RealTime(deadline_s=8.0), max_tokens=40) for _ in range(8)]
    peer.spin_until(lambda: (s := peer.status()).running + s.queued == 8)
    beside = peer.call(CheckSlo, "/citizen/check_slo", prompt_tokens=32, max_tokens=20, slo=EASY)
    assert alone.feasible
    assert beside.e2e_ms > alone.e2e_ms
    for generation in crowd:
        generation.cancel()
    for generation in crowd:
        peer.spin_until(lambda g=generation: g.done)


def test_two_monitors_see_the_same_and_each_may_switch_the_policy(peer):
    feeds = [Feed(peer.node), Feed(peer.node)]
    try:
        peer.spin_until(lambda: all("/citizen" in feed.servers() for feed in feeds))
        for feed in feeds:
            feed.choose("/citizen")
        for chooser, policy in zip(feeds, ("orca", "slack"), strict=True):
            chooser.set_policy(policy)
            seen = [[], []]

            def all_see(policy=policy, seen=seen):
                for statuses, feed in zip(seen, feeds, strict=True):
                    statuses.extend(feed.take())
                return all(statuses and statuses[-1].policy == policy for statuses in seen)

            peer.spin_until(all_see)
        feeds[0].close()
        feeds[1].take()
        peer.spin_until(feeds[1].take)
        assert feeds[0].take() == []
    finally:
        for feed in feeds:
            feed.close()


def test_a_subscriber_with_incompatible_qos_gets_nothing_and_disturbs_nobody(peer):
    wrong = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)
    got = []
    subscription = peer.node.create_subscription(SloStatus, "/citizen/slo_status", got.append, wrong)
    try:
        peer.status()
        peer.status()
        assert got == []
    finally:
        peer.node.destroy_subscription(subscription)


def test_the_launch_file_in_xml_leaves_to_the_other_what_is_not_given():
    root = ET.parse(LAUNCH / "slice.launch.xml").getroot()
    assert {child.tag for child in root} == {"arg", "include"}  # no parameter of its own, which would replace the file's
    defaults = {argument.get("name"): argument.get("default") for argument in root.iter("arg") if argument.get("default") is not None}
    (include,) = root.iter("include")
    assert include.get("file") == "$(find-pkg-share slice_ros)/launch/slice.launch.py"
    assert {argument.get("name"): argument.get("value") for argument in include} == {name: f"$(var {name})" for name in defaults}
    optional = re.findall(r'^    "(\w+)": \("[\w.]+", ', (LAUNCH / "slice.launch.py").read_text(), re.MULTILINE)
    assert {"model", "engine", "policy"} <= set(optional) & defaults.keys()
    assert {defaults[name] for name in optional if name in defaults} == {""}
