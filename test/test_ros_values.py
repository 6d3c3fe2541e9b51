"""Times, durations and a node's parameters, as rclpy has them, on whichever layer is in use."""

from __future__ import annotations

from array import array

import pytest

from slice_ros.interfaces import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from slice_ros.ros import ClockType, Duration, Node, Parameter, ParameterException, ParameterNotDeclaredException, Time

pytestmark = pytest.mark.usefixtures("ros")


@pytest.fixture
def node():
    node = Node("values")
    yield node
    node.destroy_node()


# ---- times


def test_times_and_durations_are_sums_of_nanoseconds():
    start = Time(seconds=10, nanoseconds=5)
    assert (start + Duration(seconds=1.5)).nanoseconds == 11_500_000_005
    assert (start - Duration(seconds=1)).seconds_nanoseconds() == (9, 5)
    assert (start - Time(seconds=12)) == Duration(nanoseconds=-1_999_999_995)
    assert Duration(seconds=1) > Duration(nanoseconds=999_999_999)
    assert Time(seconds=1) < Time(seconds=2) <= Time(seconds=2) != Time(seconds=3)
    assert Time(seconds=3) > Time(seconds=2) >= Time(seconds=2)


@pytest.mark.parametrize("nanoseconds", [0, 1, 1_500_000_000, 2**31 * 1_000_000_000 - 1])
def test_they_pass_through_messages_unchanged(nanoseconds):
    assert Duration.from_msg(Duration(nanoseconds=nanoseconds).to_msg()).nanoseconds == nanoseconds
    time = Time(nanoseconds=nanoseconds, clock_type=ClockType.STEADY_TIME)
    assert Time.from_msg(time.to_msg(), ClockType.STEADY_TIME) == time


def test_a_negative_duration_has_a_positive_fraction_as_a_message():
    message = Duration(seconds=-0.25).to_msg()
    assert (message.sec, message.nanosec) == (-1, 750_000_000)
    assert Duration.from_msg(message) == Duration(seconds=-0.25)


def test_times_of_different_clocks_are_not_compared():
    steady, system = Time(seconds=1, clock_type=ClockType.STEADY_TIME), Time(seconds=1, clock_type=ClockType.SYSTEM_TIME)
    for compare in (lambda: steady < system, lambda: steady == system, lambda: steady - system):
        with pytest.raises(TypeError):
            compare()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError):  # noqa: PT011 - rclpy words it otherwise
        Time(nanoseconds=-1)
    with pytest.raises(OverflowError):
        Duration(nanoseconds=1 << 63)


# ---- parameters


def test_a_parameter_is_declared_once_with_a_value_or_a_type(node):
    assert node.declare_parameter("speed", 1.5).value == 1.5
    with pytest.raises(ParameterException):
        node.declare_parameter("speed", 2.0)
    node.declare_parameter("later", Parameter.Type.STRING)
    with pytest.raises(ParameterException):
        node.get_parameter("later")
    assert node.get_parameter_or("later", Parameter("other", value=3)).value == 3
    assert node.set_parameters([Parameter("later", value="now")])[0].successful
    assert node.get_parameter("later").value == "now"


def test_several_are_declared_and_read_below_a_prefix(node):
    node.declare_parameters("arm", [("reach", 0.8), ("joints", 6)])
    assert {name: parameter.value for name, parameter in node.get_parameters_by_prefix("arm").items()} == {"reach": 0.8, "joints": 6}
    assert [parameter.value for parameter in node.get_parameters(["arm.joints", "arm.reach"])] == [6, 0.8]
    assert node.has_parameter("arm.reach")
    assert not node.has_parameter("reach")


def test_an_unknown_parameter_is_an_error_unless_the_node_allows_it(node):
    for ask in (node.get_parameter, node.undeclare_parameter, node.describe_parameter):
        with pytest.raises(ParameterNotDeclaredException):
            ask("unheard_of")
    with pytest.raises(ParameterNotDeclaredException):
        node.set_parameters([Parameter("unheard_of", value=1)])
    lenient = Node("lenient", allow_undeclared_parameters=True)
    assert lenient.set_parameters([Parameter("unheard_of", value=1)])[0].successful
    assert lenient.get_parameter("unheard_of").value == 1
    assert lenient.get_parameter("never_set").type_ is Parameter.Type.NOT_SET
    lenient.destroy_node()


def test_a_parameter_can_be_undeclared_unless_it_is_read_only(node):
    node.declare_parameter("free", 1)
    node.declare_parameter("fixed", 1, ParameterDescriptor(read_only=True))
    node.undeclare_parameter("free")
    assert not node.has_parameter("free")
    with pytest.raises(ParameterException):
        node.undeclare_parameter("fixed")
    assert "read-only" in node.set_parameters([Parameter("fixed", value=2)])[0].reason


def test_values_keep_their_type_unless_it_may_change(node):
    node.declare_parameter("count", 1)
    result = node.set_parameters([Parameter("count", value="many")])[0]
    assert not result.successful
    assert node.get_parameter("count").value == 1
    node.declare_parameter("any", 1, ParameterDescriptor(dynamic_typing=True))
    assert node.set_parameters([Parameter("any", value="many")])[0].successful
    assert node.get_parameter("any").type_ is Parameter.Type.STRING


@pytest.mark.parametrize(("value", "fits"), [(0, True), (9, True), (12, True), (3, True), (4, False), (-3, False), (15, False)])
def test_whole_numbers_stay_on_the_steps_of_their_range(node, value, fits):
    node.declare_parameter("n", 6, ParameterDescriptor(integer_range=[IntegerRange(from_value=0, to_value=12, step=3)]))
    assert node.set_parameters([Parameter("n", value=value)])[0].successful is fits
    assert node.get_parameter("n").value == (value if fits else 6)


@pytest.mark.parametrize(("value", "fits"), [(0.0, True), (0.75, True), (1.0, True), (0.6, False), (1.01, False), (-0.01, False)])
def test_numbers_stay_on_the_steps_of_their_range(node, value, fits):
    ranged = ParameterDescriptor(floating_point_range=[FloatingPointRange(from_value=0.0, to_value=1.0, step=0.25)])
    node.declare_parameter("x", 0.5, ranged)
    assert node.set_parameters([Parameter("x", value=value)])[0].successful is fits
    with pytest.raises(ParameterException):
        node.declare_parameter("y", 7.0, ranged)


def test_all_or_none_are_set_at_once(node):
    node.declare_parameters("", [("a", 1), ("b", 2)])
    assert not node.set_parameters_atomically([Parameter("a", value=10), Parameter("b", value="no number")]).successful
    assert [node.get_parameter(name).value for name in "ab"] == [1, 2]
    assert node.set_parameters_atomically([Parameter("a", value=10), Parameter("b", value=20)]).successful
    assert [node.get_parameter(name).value for name in "ab"] == [10, 20]


def test_callbacks_may_refuse_what_is_to_be_set_until_they_are_removed(node):
    node.declare_parameter("speed", 1.0)

    def at_most_two(parameters):
        return SetParametersResult(successful=all(parameter.value <= 2.0 for parameter in parameters), reason="too fast")

    node.add_on_set_parameters_callback(at_most_two)
    result = node.set_parameters([Parameter("speed", value=3.0)])[0]
    assert (result.successful, result.reason, node.get_parameter("speed").value) == (False, "too fast", 1.0)
    node.remove_on_set_parameters_callback(at_most_two)
    assert node.set_parameters([Parameter("speed", value=3.0)])[0].successful


@pytest.mark.skipif(not hasattr(Node, "add_pre_set_parameters_callback"), reason="Humble has no such callbacks")
def test_callbacks_before_and_after_may_change_the_list_and_are_told(node):
    node.declare_parameters("", [("mode", "slow"), ("speed", 1.0)])
    told = []
    node.add_pre_set_parameters_callback(lambda given: [*given, Parameter("speed", value=9.0)])
    node.add_post_set_parameters_callback(lambda given: told.append([parameter.name for parameter in given]))
    node.set_parameters([Parameter("mode", value="fast")])
    assert (node.get_parameter("mode").value, node.get_parameter("speed").value) == ("fast", 9.0)
    assert told == [["mode", "speed"]]


def test_parameters_are_listed_by_prefix_and_depth(node):
    node.declare_parameters("", [("a", 1), ("b.c", 1), ("b.d.e", 1)])
    own = {"a", "b.c", "b.d.e"}
    listed = node.list_parameters([], 0)
    assert own <= set(listed.names)
    assert {"b", "b.d"} <= set(listed.prefixes)
    assert own & set(node.list_parameters([], 1).names) == {"a"}
    assert own & set(node.list_parameters(["b"], 0).names) == {"b.c", "b.d.e"}
    assert own & set(node.list_parameters(["b"], 1).names) == {"b.c"}


@pytest.mark.parametrize("value", [True, 7, 1.5, "text", [True, False], [1, 2], [1.5], ["a", ""], [b"\x01", b"\xff"]], ids=repr)
def test_values_of_every_type_pass_through_messages_unchanged(value):
    parameter = Parameter("p", value=value)
    found = Parameter.from_parameter_msg(parameter.to_parameter_msg()).value
    assert (found.tolist() if isinstance(found, array) else found) == value  # rclpy gives arrays of numbers as they come


@pytest.mark.parametrize("value", [{"a": 1}, [1, "mixed"], object()], ids=["dict", "mixed", "object"])
def test_a_value_that_no_parameter_can_have_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        Parameter("p", value=value)
