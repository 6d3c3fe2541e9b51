"""Parameters of nodes."""

from __future__ import annotations

import array
from enum import Enum
from typing import Any

from slice_ros.rclpy_dds import messages

PARAMETER_SEPARATOR_STRING = "."


class Parameter:
    """A name and a value.

    Args:
        type_: the value's type; found out where none is given.

    Raises:
        ValueError: the value is not of the type, or of no type that ROS 2 parameters have.
    """

    class Type(Enum):
        """Numbered as in ``rcl_interfaces/ParameterType``."""

        NOT_SET = 0
        BOOL = 1
        INTEGER = 2
        DOUBLE = 3
        STRING = 4
        BYTE_ARRAY = 5
        BOOL_ARRAY = 6
        INTEGER_ARRAY = 7
        DOUBLE_ARRAY = 8
        STRING_ARRAY = 9

        @classmethod
        def from_parameter_value(cls, value: Any) -> Parameter.Type:
            """The type of a Python value; of an empty list, BYTE_ARRAY (as rclpy has it).

            Raises:
                TypeError: no parameter type can hold it.
            """
            if value is None:
                return cls.NOT_SET
            for scalar, kind in ((bool, cls.BOOL), (int, cls.INTEGER), (float, cls.DOUBLE), (str, cls.STRING)):
                if isinstance(value, scalar):
                    return kind
            if isinstance(value, (list, tuple, array.array)):
                if all(isinstance(element, bytes) for element in value):
                    return cls.BYTE_ARRAY
                kinds = {type(element) for element in value}
                if len(kinds) == 1 and (array_kind := _ARRAYS.get(kinds.pop())):
                    return array_kind
            raise TypeError(f"{value!r} is no value a parameter can have (bool, int, float, str, or a list of one of these or of bytes)")

        def check(self, value: Any) -> bool:
            """Can this type hold the value?"""
            empty = isinstance(value, (list, tuple, array.array)) and not value
            if empty:
                return self.value >= Parameter.Type.BYTE_ARRAY.value
            try:
                return Parameter.Type.from_parameter_value(value) is self
            except TypeError:
                return False

    def __init__(self, name: str, type_: Parameter.Type | None = None, value: Any = None) -> None:
        try:
            self._type = Parameter.Type.from_parameter_value(value) if type_ is None else Parameter.Type(type_)
        except TypeError as error:
            raise ValueError(f"parameter {name!r}: {error}") from error
        if not self._type.check(value) and not (value is None and self._type is Parameter.Type.NOT_SET):
            raise ValueError(f"Type {self._type.name!r} and value {value!r} of parameter {name!r} do not agree")
        self._name, self._value = name, value

    @property
    def name(self) -> str:
        return self._name

    @property
    def type_(self) -> Parameter.Type:
        return self._type

    @property
    def value(self) -> Any:
        return self._value

    @classmethod
    def from_parameter_msg(cls, msg: Any) -> Parameter:
        """Of ``rcl_interfaces/Parameter``."""
        return cls(msg.name, cls.Type(msg.value.type), parameter_value_to_python(msg.value))

    def to_parameter_msg(self) -> Any:
        return messages.message("rcl_interfaces/msg/Parameter")(name=self.name, value=self.get_parameter_value())

    def get_parameter_value(self) -> Any:
        """As ``rcl_interfaces/ParameterValue``."""
        msg = messages.message("rcl_interfaces/msg/ParameterValue")(type=self._type.value)
        if self._type is not Parameter.Type.NOT_SET:
            value = self._value
            setattr(msg, _FIELDS[self._type], list(value) if isinstance(value, (list, tuple, array.array)) else value)
        return msg

    def __repr__(self) -> str:
        return f"Parameter(name={self._name!r}, type_={self._type}, value={self._value!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Parameter):
            return NotImplemented
        return (self._name, self._type, self._value) == (other._name, other._type, other._value)

    __hash__ = None  # type: ignore[assignment]  # a value may be a list


_ARRAYS = {
    bool: Parameter.Type.BOOL_ARRAY,
    int: Parameter.Type.INTEGER_ARRAY,
    float: Parameter.Type.DOUBLE_ARRAY,
    str: Parameter.Type.STRING_ARRAY,
}
_FIELDS = {kind: f"{kind.name.lower()}_value" for kind in Parameter.Type if kind is not Parameter.Type.NOT_SET}


def parameter_value_to_python(msg: Any) -> Any:
    """The Python value in a ``rcl_interfaces/ParameterValue``; arrays as lists.

    Raises:
        ValueError: its type is not one of ``Parameter.Type``.
    """
    kind = Parameter.Type(msg.type)
    if kind is Parameter.Type.NOT_SET:
        return None
    value = getattr(msg, _FIELDS[kind])
    return list(value) if kind.value >= Parameter.Type.BYTE_ARRAY.value else value
