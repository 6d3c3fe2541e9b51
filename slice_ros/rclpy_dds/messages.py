"""Message, service and action classes built from interface definitions, for machines on which rosidl generated none.

They behave as rosidl's: keyword arguments, defaults, constants as class attributes, ``get_fields_and_field_types()``. Values are checked
when a message is sent, not when a field is set. Default values in .msg files are not supported.
"""

from __future__ import annotations

import array
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from slice_ros.rclpy_dds.cdr import FORMATS, Codec, Description, is_numeric

_SERVICES = {
    "action_msgs/srv/CancelGoal": """
GoalInfo goal_info
---
int8 ERROR_NONE=0
int8 ERROR_REJECTED=1
int8 ERROR_UNKNOWN_GOAL_ID=2
int8 ERROR_GOAL_TERMINATED=3
int8 return_code
GoalInfo[] goals_canceling""",
    "lifecycle_msgs/srv/ChangeState": "Transition transition\n---\nbool success",
    "lifecycle_msgs/srv/GetAvailableStates": "---\nState[] available_states",
    "lifecycle_msgs/srv/GetAvailableTransitions": "---\nTransitionDescription[] available_transitions",
    "lifecycle_msgs/srv/GetState": "---\nState current_state",
    "rcl_interfaces/srv/DescribeParameters": "string[] names\n---\nParameterDescriptor[] descriptors",
    "rcl_interfaces/srv/GetParameterTypes": "string[] names\n---\nuint8[] types",
    "rcl_interfaces/srv/GetParameters": "string[] names\n---\nParameterValue[] values",
    "rcl_interfaces/srv/ListParameters": """
uint64 DEPTH_RECURSIVE=0
string[] prefixes
uint64 depth
---
ListParametersResult result""",
    "rcl_interfaces/srv/SetParameters": "Parameter[] parameters\n---\nSetParametersResult[] results",
    "rcl_interfaces/srv/SetParametersAtomically": "Parameter[] parameters\n---\nSetParametersResult result",
    "std_srvs/srv/Empty": "---",
    "std_srvs/srv/SetBool": "bool data\n---\nbool success\nstring message",
    "std_srvs/srv/Trigger": "---\nbool success\nstring message",
}
"""Standard services, which rosbags' type store (messages only) lacks."""

_SEND_GOAL = ("unique_identifier_msgs/UUID goal_id\n{0}_Goal goal", "bool accepted\nbuiltin_interfaces/Time stamp")
_GET_RESULT = ("unique_identifier_msgs/UUID goal_id", "int8 status\n{0}_Result result")
_FEEDBACK = "unique_identifier_msgs/UUID goal_id\n{0}_Feedback feedback"

_store = get_typestore(Stores.ROS2_JAZZY)


def _without_char(description: Description) -> Description:
    """rosidl makes ``char`` a uint8; rosbags keeps it as a type of its own, which gives other type hashes than ROS 2's."""
    kind, detail = description
    if kind == Nodetype.BASE:
        return kind, ("uint8", detail[1]) if detail[0] == "char" else detail
    return (kind, (_without_char(detail[0]), detail[1])) if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE) else description


for _constants, _fields in _store.fielddefs.values():
    _fields[:] = [(_field, _without_char(_description)) for _field, _description in _fields]


class Message:
    """Base of all message classes."""

    __slots__: tuple[str, ...] = ()
    __msgtype__: ClassVar[str]
    """``package/msg/Name``."""
    __field_defaults__: ClassVar[dict[str, Callable[[], Any]]]
    __field_types__: ClassVar[dict[str, str]]

    def __init__(self, **fields: Any) -> None:
        for name, default in self.__field_defaults__.items():
            setattr(self, name, fields.pop(name) if name in fields else default())
        if fields:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(fields)}; it has {', '.join(self.__field_defaults__)}")

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        return dict(cls.__field_types__)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_equal(getattr(self, name), getattr(other, name)) for name in self.__field_defaults__)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__field_defaults__)
        return f"{type(self).__module__}.{type(self).__name__}({fields})"


class _Numbers:
    """A field of numbers. Like rosidl's, it turns what is assigned into an ``array.array`` or, of fixed length, a ``numpy.ndarray``."""

    def __init__(self, name: str, slot: Any, code: str, length: int | None) -> None:
        self._name, self._slot, self._code, self._length = name, slot, code, length

    def __get__(self, message: Any, owner: type[Any]) -> Any:
        return self if message is None else self._slot.__get__(message, owner)

    def __set__(self, message: Any, values: Any) -> None:
        kind = array.array if self._length is None else np.ndarray
        if not isinstance(values, kind):
            try:
                numbers = array.array(self._code, values)
            except (TypeError, ValueError, OverflowError) as error:
                raise TypeError(f"{type(message).__name__}.{self._name}: {error}") from error
            values = numbers if self._length is None else np.array(numbers)
        if self._length is not None and len(values) != self._length:
            raise TypeError(f"{type(message).__name__}.{self._name}: {len(values)} elements; there must be {self._length}")
        self._slot.__set__(message, values)


@cache
def message(typename: str) -> Any:
    """The class of a message, ``package/msg/Name``.

    Raises:
        LookupError: no such message is known.
    """
    return codec(typename).cls


@cache
def service(typename: str) -> Any:
    """The class of a service, ``package/srv/Name``, with ``Request`` and ``Response``."""
    if f"{typename}_Request" not in _store.fielddefs:
        if typename not in _SERVICES:
            raise LookupError(f"no definition of {typename} is known")
        _register_service(typename, _SERVICES[typename])
    return _group(typename, Request=message(f"{typename}_Request"), Response=message(f"{typename}_Response"))


@cache
def action(typename: str) -> Any:
    """The class of an action, ``package/action/Name``, with ``Goal``, ``Result``, ``Feedback`` and, in ``Impl``, what carries them."""
    impl = {
        "SendGoalService": service(f"{typename}_SendGoal"),
        "GetResultService": service(f"{typename}_GetResult"),
        "FeedbackMessage": message(f"{typename}_FeedbackMessage"),
        "CancelGoalService": service("action_msgs/srv/CancelGoal"),
        "GoalStatusMessage": message("action_msgs/msg/GoalStatusArray"),
    }
    parts = {part: message(f"{typename}_{part}") for part in ("Goal", "Result", "Feedback")}
    return _group(typename, **parts, Impl=type("Impl", (), impl))


@cache
def codec(typename: str) -> Codec:
    """The codec of a message."""
    try:
        constants, fields = _store.fielddefs[typename]
    except KeyError:
        raise LookupError(f"no definition of {typename} is known") from None
    cls = _message_class(typename, constants, fields)
    return Codec(cls, fields, codec)


@cache
def type_hash(typename: str) -> str:
    """The message's hash (REP 2016), ``RIHS01_`` and 64 hex digits."""
    return _store.hash_rihs01(typename)


def fields(typename: str) -> list[tuple[str, Description]]:
    """Name and description of a message's fields."""
    return list(_store.fielddefs[typename][1])


def register(package: str, share: Path) -> None:
    """Make the interfaces of a package known: ``msg/*.msg``, ``srv/*.srv`` and ``action/*.action`` below ``share``."""
    for path in sorted((share / "msg").glob("*.msg")):
        _register(f"{package}/msg/{path.stem}", path.read_text())
    for path in sorted((share / "srv").glob("*.srv")):
        _register_service(f"{package}/srv/{path.stem}", path.read_text())
    for path in sorted((share / "action").glob("*.action")):
        _register_action(f"{package}/action/{path.stem}", path.read_text())


def _register(typename: str, text: str) -> None:
    """rosbags reads messages only, and looks for nested types beside them: a part of a service or action is read as one, then renamed."""
    package, kind, name = typename.split("/")
    parsed = get_types_from_msg(text, f"{package}/msg/{name}")
    constants, fields = parsed[f"{package}/msg/{name}"]
    own = re.compile(rf"{package}/msg/(\w+_(?:Goal|Result|Feedback))")

    def moved(description: Description) -> Description:
        if description[0] == Nodetype.NAME:
            return description[0], own.sub(rf"{package}/{kind}/\1", description[1])
        if description[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE):
            return description[0], (moved(description[1][0]), description[1][1])
        return description

    _store.register({typename: (constants, [(field, moved(_without_char(description))) for field, description in fields])})


def _register_service(typename: str, text: str) -> None:
    request, response = _sections(text, 2)
    _register(f"{typename}_Request", request)
    _register(f"{typename}_Response", response)


def _register_action(typename: str, text: str) -> None:
    name = typename.rpartition("/")[2]
    for part, section in zip(("Goal", "Result", "Feedback"), _sections(text, 3), strict=True):
        _register(f"{typename}_{part}", section)
    for service_name, parts in (("SendGoal", _SEND_GOAL), ("GetResult", _GET_RESULT)):
        _register_service(f"{typename}_{service_name}", "\n---\n".join(parts).format(name))
    _register(f"{typename}_FeedbackMessage", _FEEDBACK.format(name))


def _sections(text: str, count: int) -> list[str]:
    sections = re.split(r"^---\s*$", text, flags=re.MULTILINE)
    if len(sections) != count:
        raise ValueError(f"an interface has {len(sections)} sections; it must have {count}, divided by ---")
    return sections


def _group(typename: str, **members: Any) -> Any:
    package, kind, name = typename.split("/")
    return type(name, (), {"__module__": f"{package}.{kind}", "__doc__": typename, "__msgtype__": typename, **members})


def _message_class(typename: str, constants: list[Any], fields: list[tuple[str, Description]]) -> type[Message]:
    package, kind, name = typename.split("/")
    numbers = {field: found for field, description in fields if (found := _numbers_of(description))}
    namespace: dict[str, Any] = {
        "__module__": f"{package}.{kind}",
        "__doc__": typename,
        "__msgtype__": typename,
        "__slots__": tuple(f"_{field}" if field in numbers else field for field, _ in fields),
        "__field_defaults__": {field: _default(description) for field, description in fields},
        "__field_types__": {field: _type_text(description) for field, description in fields},
        **{constant: bytes((value,)) if primitive == "byte" else value for constant, primitive, value in constants},
    }
    cls = type(name, (Message,), namespace)
    for field, (code, length) in numbers.items():
        setattr(cls, field, _Numbers(field, getattr(cls, f"_{field}"), code, length))
    return cls


def _numbers_of(description: Description) -> tuple[str, int | None] | None:
    """Type code and fixed length of an array or sequence of numbers, ``None`` for any other field."""
    kind, detail = description
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE) and detail[0][0] == Nodetype.BASE and is_numeric(detail[0][1][0]):
        return FORMATS[detail[0][1][0]], detail[1] if kind == Nodetype.ARRAY else None
    return None


def _default(description: Description) -> Callable[[], Any]:
    """What makes a field's default value: zero, empty, or the nested message's own defaults."""
    kind, detail = description
    if kind == Nodetype.NAME:
        nested: Callable[[], Any] = message(detail)
        return nested
    if kind == Nodetype.BASE:
        value = {"string": "", "bool": False, "byte": b"\x00", "float32": 0.0, "float64": 0.0}.get(detail[0], 0)
        return lambda: value
    if kind == Nodetype.SEQUENCE:
        return list
    make, length = _default(detail[0]), detail[1]
    return lambda: [make() for _ in range(length)]


def _type_text(description: Description) -> str:
    """As rosidl writes it: ``double``, ``string<10>``, ``sequence<slice_ros/ClassStatus>``, ``uint8[16]``."""
    kind, detail = description
    if kind == Nodetype.NAME:
        package, _, name = detail.split("/")
        return f"{package}/{name}"
    if kind == Nodetype.BASE:
        name = {"float32": "float", "float64": "double", "bool": "boolean", "byte": "octet"}.get(detail[0], detail[0])
        return f"{name}<{detail[1]}>" if detail[1] else name
    element = _type_text(detail[0])
    if kind == Nodetype.ARRAY:
        return f"{element}[{detail[1]}]"
    return f"sequence<{element}, {detail[1]}>" if detail[1] else f"sequence<{element}>"


def _equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else a == b
