"""The byte format, against another implementation of it (rosbags) and against bytes that mean no good."""

from __future__ import annotations

import contextlib
import struct

import pytest

pytest.importorskip("rosbags")
pytest.importorskip("cyclonedds")

from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from slice_ros.client import INSTANCE
from slice_ros.rclpy_dds import messages
from slice_ros.rclpy_dds.cdr import DecodeError

ROSBAGS = get_typestore(Stores.ROS2_JAZZY)
STATUS = "diagnostic_msgs/msg/DiagnosticArray"
PARAMETER = "rcl_interfaces/msg/ParameterEvent"
TYPES = [STATUS, PARAMETER, "action_msgs/msg/GoalStatusArray", "rmw_dds_common/msg/ParticipantEntitiesInfo", "sensor_msgs/msg/JointState"]


def values(description) -> st.SearchStrategy:
    """Values of a field."""
    kind, detail = description
    if kind.name == "NAME":
        return message_of(detail)
    if kind.name == "BASE":
        name, bound = detail
        if name in ("int8", "int16", "int32", "int64"):
            bits = int(name[3:])
            return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if name.startswith("uint"):
            return st.integers(0, 2 ** int(name[4:]) - 1)
        special = {
            "bool": st.booleans(),
            "byte": st.binary(min_size=1, max_size=1),
            "float32": st.floats(width=32, allow_nan=False),
            "float64": st.floats(allow_nan=False),
            "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=bound or 8),
        }
        return special[name]
    element, length = detail
    if kind.name == "ARRAY":
        return st.lists(values(element), min_size=length, max_size=length)
    return st.lists(values(element), max_size=min(length or 4, 4))


def message_of(typename: str) -> st.SearchStrategy:
    return st.builds(messages.message(typename), **{name: values(description) for name, description in messages.fields(typename)})


@pytest.mark.parametrize("typename", TYPES)
def test_what_is_encoded_is_what_is_decoded(typename):
    @settings(max_examples=40, deadline=None)
    @given(message_of(typename))
    def check(message):
        codec = messages.codec(typename)
        assert codec.decode(codec.encode(message)) == message

    check()


@pytest.mark.parametrize("typename", ["action_msgs/msg/GoalStatusArray", "sensor_msgs/msg/JointState", "rcl_interfaces/msg/Log"])
def test_the_bytes_are_those_of_another_implementation(typename):
    @settings(max_examples=40, deadline=None)
    @given(message_of(typename))
    def check(message):
        data = messages.codec(typename).encode(message)
        other = bytes(ROSBAGS.serialize_cdr(ROSBAGS.deserialize_cdr(data, typename), typename))
        assert data[: len(other)] == other
        assert len(data) - len(other) < 4
        assert not any(data[len(other) :])

    check()


@pytest.mark.parametrize("typename", TYPES)
def test_any_bytes_give_a_message_or_a_decode_error(typename):
    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=200))
    def check(data):
        with contextlib.suppress(DecodeError):
            assert isinstance(messages.codec(typename).decode(data), messages.message(typename))

    check()


def test_clients_find_the_servers_instance_in_a_serialized_status():
    status = messages.message("slice_ros/msg/SloStatus")(instance=0x0123456789ABCDEF, policy="slack")
    assert messages.codec("slice_ros/msg/SloStatus").encode(status)[INSTANCE] == struct.pack("<Q", 0x0123456789ABCDEF)


def test_every_truncation_of_a_message_is_a_decode_error():
    codec = messages.codec(STATUS)
    pair = messages.message("diagnostic_msgs/msg/KeyValue")(key="k")
    status = messages.message("diagnostic_msgs/msg/DiagnosticStatus")(name="a", values=[pair])
    data = codec.encode(codec.cls(status=[status, status])).rstrip(b"\0")
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            codec.decode(data[:length])


def test_a_huge_announced_length_takes_no_memory():
    data = b"\x00\x01\x00\x00" + bytes(8) + struct.pack("<I", 0) + struct.pack("<I", 2**32 - 1)
    for typename in (STATUS, "sensor_msgs/msg/JointState"):
        with pytest.raises(DecodeError, match=r"announced|bytes"):
            messages.codec(typename).decode(data)


def test_the_other_byte_order_is_understood():
    codec = messages.codec("builtin_interfaces/msg/Time")
    assert codec.decode(b"\x00\x00\x00\x00" + struct.pack(">iI", -2, 7)) == codec.cls(sec=-2, nanosec=7)
    numbers = messages.codec("rcl_interfaces/msg/ParameterValue")
    body = struct.pack(">B7xqd I4xI", 7, 0, 0.0, 0, 0)
    with pytest.raises(DecodeError):
        numbers.decode(b"\x00\x00\x00\x00" + body)


def test_another_encapsulation_is_a_decode_error_that_names_it():
    with pytest.raises(DecodeError, match="0007"):
        messages.codec("builtin_interfaces/msg/Time").decode(b"\x00\x07\x00\x00" + bytes(8))


def test_text_that_is_no_utf8_is_replaced():
    data = b"\x00\x01\x00\x00" + struct.pack("<I", 3) + b"\xff\xfe\x00"
    assert messages.codec("std_msgs/msg/String").decode(data).data == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("typename", "fields", "says"),
    [
        ("std_msgs/msg/String", {"data": 3}, "String.data: 3 is not a str"),
        ("std_msgs/msg/Bool", {"data": 1}, "Bool.data: 1 is not a bool"),
        ("std_msgs/msg/UInt8", {"data": 256}, "UInt8.data"),
        ("std_msgs/msg/Int32", {"data": 1.5}, "Int32.data"),
        ("std_msgs/msg/Float32", {"data": 1e300}, "Float32.data"),
        ("std_msgs/msg/Header", {"stamp": 5}, "Header.stamp: 5 is a int; it must be a Time"),
        ("diagnostic_msgs/msg/DiagnosticArray", {"status": [None]}, "DiagnosticArray.status: None is a NoneType"),
        ("rcl_interfaces/msg/ListParametersResult", {"names": "abc"}, "names: 'abc' is not a sequence"),
        ("rcl_interfaces/msg/ParameterDescriptor", {"integer_range": [None, None]}, "there must be at most 1"),
    ],
)
def test_a_wrong_value_is_a_type_error_that_names_the_field(typename, fields, says):
    with pytest.raises(TypeError) as caught:
        messages.codec(typename).encode(messages.message(typename)(**fields))
    assert says in str(caught.value)


def test_the_way_to_a_wrong_value_deep_inside_is_told():
    message = messages.message("std_msgs/msg/Header")()
    message.stamp.sec = "now"
    with pytest.raises(TypeError, match=r"Header\.stamp: Time\.sec"):
        messages.codec("std_msgs/msg/Header").encode(message)
