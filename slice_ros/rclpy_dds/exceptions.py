"""Errors of this layer, named as rclpy's."""

from __future__ import annotations


class NotInitializedException(Exception):
    """The context is not initialized, or was shut down."""


class RCLError(RuntimeError):
    """An operation that ROS 2 does not allow now; rclpy raises ``rclpy._rclpy_pybind11.RCLError`` there."""


class InvalidHandle(Exception):
    """The entity was destroyed."""


class NameValidationException(ValueError):
    """A node, namespace, topic or service name breaks a naming rule."""

    def __init__(self, name_type: str, name: str, reason: str) -> None:
        super().__init__(f"Invalid {name_type}: {reason}: {name!r}")


class InvalidNamespaceException(NameValidationException):
    def __init__(self, name: str, reason: str) -> None:
        super().__init__("namespace", name, reason)


class InvalidNodeNameException(NameValidationException):
    def __init__(self, name: str, reason: str) -> None:
        super().__init__("node name", name, reason)


class InvalidTopicNameException(NameValidationException):
    def __init__(self, name: str, reason: str) -> None:
        super().__init__("topic name", name, reason)


class InvalidServiceNameException(NameValidationException):
    def __init__(self, name: str, reason: str) -> None:
        super().__init__("service name", name, reason)


class UnknownROSArgsError(ValueError):
    """``--ros-args`` holds something that is no ROS argument."""


class ParameterException(Exception):
    """Base of parameter errors."""


class ParameterNotDeclaredException(ParameterException):
    def __init__(self, *names: str) -> None:
        super().__init__(f"Invalid access to undeclared parameter(s): {', '.join(names)}")


class ParameterAlreadyDeclaredException(ParameterException):
    def __init__(self, *names: str) -> None:
        super().__init__(f"Parameter(s) already declared: {', '.join(names)}")


class ParameterUninitializedException(ParameterException):
    def __init__(self, name: str) -> None:
        super().__init__(f"The parameter {name!r} is not initialized")


class ParameterImmutableException(ParameterException):
    def __init__(self, name: str) -> None:
        super().__init__(f"Attempted to modify read-only parameter: {name!r}")


class InvalidParameterException(ParameterException):
    def __init__(self, name: str) -> None:
        super().__init__(f"Invalid parameter name: {name!r}")


class InvalidParameterTypeException(ParameterException):
    def __init__(self, parameter: object, expected: str) -> None:
        super().__init__(f"Trying to set parameter {parameter} to a value of another type than {expected}")


class InvalidParameterValueException(ParameterException):
    def __init__(self, name: str, value: object, reason: str) -> None:
        super().__init__(f"Invalid parameter value ({value!r}) for parameter {name!r}: {reason}")
