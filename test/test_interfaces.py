"""The message classes, whoever made them: rosidl or this package."""

from __future__ import annotations

import array
import copy

import pytest

from slice_ros.interfaces import (
    UUID,
    CheckSlo,
    DiagnosticStatus,
    Generate,
    GoalStatus,
    Log,
    MaskStatus,
    Slo,
    SloStatus,
)
from slice_ros.ros import LAYER

dds_only = pytest.mark.skipif(LAYER == "rclpy", reason="these classes are rosidl's here")


def test_fields_have_defaults_and_can_be_given_by_name():
    slo = Slo(service_class=Slo.REAL_TIME)
    assert (slo.service_class, slo.utility, slo.ttft.sec) == (1, 0.0, 0)
    goal = Generate.Goal(prompt="hi", slo=slo, stop=["."])
    assert goal.slo.service_class == Slo.REAL_TIME
    assert (goal.messages, goal.label, list(goal.stop)) == ([], "", ["."])


def test_two_messages_do_not_share_their_parts():
    one, other = Generate.Goal(), Generate.Goal()
    one.slo.ttft.sec = 3
    one.stop.append("x")
    assert other.slo.ttft.sec == 0
    assert other.stop == []


def test_constants_are_attributes_of_class_and_object():
    assert Generate.Result.INFEASIBLE == Generate.Result().INFEASIBLE == 5
    assert GoalStatus.STATUS_CANCELED == 5
    assert DiagnosticStatus.WARN == b"\x01"
    assert Log.INFO in (20, b"\x14")


def test_services_and_actions_have_their_parts():
    assert CheckSlo.Request(prompt_tokens=3).prompt_tokens == 3
    assert not CheckSlo.Response().feasible
    assert Generate.Feedback(text="a").text == "a"
    assert Generate.Impl.SendGoalService.Request().goal.prompt == ""
    assert Generate.Impl.FeedbackMessage().feedback.tokens == 0


def test_sequences_of_numbers_take_any_iterable_and_can_be_appended_to():
    mask = MaskStatus(cells=[1, -1], slack_ms=(0.5,))
    mask.cells.append(4)
    assert list(mask.cells) == [1, -1, 4]
    assert isinstance(mask.cells, array.array)
    assert list(mask.slack_ms) == [0.5]


def test_a_uuid_is_sixteen_bytes():
    assert bytes(UUID(uuid=list(range(16))).uuid) == bytes(range(16))
    assert len(UUID().uuid) == 16


def test_equality_is_by_value():
    assert Slo(on_miss=1) == Slo(on_miss=1) != Slo()
    assert UUID(uuid=list(range(16))) == UUID(uuid=list(range(16)))
    assert UUID(uuid=[1] * 16) != UUID()  # rosidl takes arrays for equal that share an element
    assert Slo() != "Slo"


def test_a_copy_is_independent():
    status = SloStatus(policy="slice")
    status.mask.goals = ["a"]
    twin = copy.deepcopy(status)
    assert twin == status
    twin.mask.goals.append("b")
    assert twin != status


def test_field_types_are_told():
    types = Slo.get_fields_and_field_types()
    assert types["service_class"] == "uint8"
    assert types["ttft"] == "builtin_interfaces/Duration"
    assert types["utility"] == "float"
    assert MaskStatus.get_fields_and_field_types()["cells"] == "sequence<int32>"
    assert UUID.get_fields_and_field_types()["uuid"] == "uint8[16]"


@pytest.mark.skipif(LAYER == "rclpy", reason="rosidl raises AssertionError")
def test_a_field_that_does_not_exist_is_a_type_error_that_names_those_that_do():
    with pytest.raises(TypeError, match=r"no field prmpt; it has prompt, messages"):
        Generate.Goal(prmpt="x")


def test_a_field_that_does_not_exist_cannot_be_set():
    with pytest.raises(AttributeError):
        Generate.Goal().prmpt = "x"


@dds_only
def test_a_wrong_array_is_a_type_error_at_once():
    with pytest.raises(TypeError, match=r"MaskStatus\.cells"):
        MaskStatus(cells=["a"])
    with pytest.raises(TypeError, match="there must be 16"):
        UUID(uuid=[1, 2])


@dds_only
def test_hashes_are_those_of_a_real_installation():
    """As ``ros2 topic info -v`` and the generated ``*.json`` of a Jazzy installation tell them."""
    from slice_ros.rclpy_dds import messages

    known = {
        "std_msgs/msg/String": "df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18",
        "rmw_dds_common/msg/ParticipantEntitiesInfo": "91a0593bacdcc50ea9bdcf849a938b128412cc1ea821245c663bcd26f83c295e",
        "std_msgs/msg/Char": "3ad2d04dd29ba19d04b16659afa3ccaedd691914b02a64e82e252f2fa6a586a9",
        "unique_identifier_msgs/msg/UUID": "1b8e8aca958cbea28fe6ef60bf6c19b683c97a9ef60bb34752067d0f2f7ab437",
    }
    for typename, digest in known.items():
        assert messages.type_hash(typename) == f"RIHS01_{digest}"


@dds_only
def test_an_unknown_type_is_a_lookup_error():
    from slice_ros.rclpy_dds import messages

    with pytest.raises(LookupError, match="nobody/msg/Nothing"):
        messages.message("nobody/msg/Nothing")
    with pytest.raises(LookupError, match="nobody/srv/Nothing"):
        messages.service("nobody/srv/Nothing")
