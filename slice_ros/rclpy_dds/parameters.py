"""The parameters of a node: declared with a type and a description, overridden at start, set at run time, watched by callbacks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slice_ros.rclpy_dds import messages
from slice_ros.rclpy_dds.exceptions import (
    InvalidParameterException,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from slice_ros.rclpy_dds.parameter import PARAMETER_SEPARATOR_STRING, Parameter

Descriptor = messages.message("rcl_interfaces/msg/ParameterDescriptor")
SetParametersResult = messages.message("rcl_interfaces/msg/SetParametersResult")
_REL_TOL = 1e-6
"""Floating-point values this near to an edge or a step are on it, as in rclpy."""


class Parameters:
    """Mixed into ``Node``; the methods are rclpy's.

    Args:
        overrides: initial values by name, from the command line, parameter files or the constructor.
        announce: publishes new, changed and deleted parameters.
    """

    def _init_parameters(
        self,
        overrides: Mapping[str, Parameter],
        allow_undeclared: bool,
        announce: Callable[[Sequence[Parameter], Sequence[Parameter], Sequence[Parameter]], None],
    ) -> None:
        self.__parameter_overrides = dict(overrides)
        self.__allow_undeclared_parameters = allow_undeclared
        self.__announce = announce
        self.__parameters: dict[str, Parameter] = {}
        self.__descriptors: dict[str, Any] = {}
        self.__pre_set: list[Callable[[list[Parameter]], list[Parameter]]] = []
        self.__on_set: list[Callable[[list[Parameter]], Any]] = []
        self.__post_set: list[Callable[[list[Parameter]], None]] = []

    # ---- declaring

    def declare_parameter(self, name: str, value: Any = None, descriptor: Any = None, ignore_override: bool = False) -> Parameter:
        """Declare a parameter.

        Args:
            value: its default, or a ``Parameter.Type`` where there is none.
            descriptor: a ``ParameterDescriptor``: description, ranges, read_only, dynamic_typing.
            ignore_override: start with ``value`` whatever the command line says.

        Returns:
            The parameter with the value it starts with.

        Raises:
            ParameterAlreadyDeclaredException: there is one of this name.
            InvalidParameterException: it is no name.
            InvalidParameterTypeException: the override is of another type.
            InvalidParameterValueException: the value is out of range, or a callback rejects it.
        """
        if not name or not isinstance(name, str):
            raise InvalidParameterException(name)
        if name in self.__parameters:
            raise ParameterAlreadyDeclaredException(name)
        descriptor = Descriptor() if descriptor is None else copy.deepcopy(descriptor)
        if isinstance(value, Parameter.Type):
            if value is Parameter.Type.NOT_SET or descriptor.dynamic_typing:
                raise ValueError(f"parameter {name!r}: a declared type must not be NOT_SET, and excludes dynamic_typing")
            descriptor.type, value = value.value, None
        elif not descriptor.dynamic_typing:
            descriptor.type = Parameter(name, value=value).type_.value
            if descriptor.type == Parameter.Type.NOT_SET.value:
                raise ValueError(f"parameter {name!r} has neither a default value nor a type; give one of them, or dynamic_typing")
        parameter = Parameter(name, value=value)
        if not ignore_override and name in self.__parameter_overrides:
            parameter = self.__parameter_overrides[name]
            if parameter.value == []:  # an empty list is of every array type
                parameter = Parameter(name, Parameter.Type(descriptor.type), [])
        result = self.__set([parameter], {name: descriptor})
        if not result.successful:
            if result.reason.startswith("Wrong parameter type"):
                raise InvalidParameterTypeException(parameter, Parameter.Type(descriptor.type).name)
            raise InvalidParameterValueException(name, parameter.value, result.reason)
        return self.__parameters[name]

    def declare_parameters(self, namespace: str, parameters: Sequence[tuple[Any, ...]], ignore_override: bool = False) -> list[Parameter]:
        """Declare several: tuples (name, value or type[, descriptor]); names below ``namespace`` where it is not empty."""
        prefix = f"{namespace}{PARAMETER_SEPARATOR_STRING}" if namespace else ""
        declared = []
        for name, *rest in parameters:
            value, descriptor = (*rest, None, None)[:2]
            declared.append(self.declare_parameter(f"{prefix}{name}", value, descriptor, ignore_override))
        return declared

    def undeclare_parameter(self, name: str) -> None:
        """Raises:
        ParameterNotDeclaredException: there is none of this name.
        ParameterImmutableException: it is read-only.
        """
        if name not in self.__parameters:
            raise ParameterNotDeclaredException(name)
        if self.__descriptors[name].read_only:
            raise ParameterImmutableException(name)
        del self.__parameters[name], self.__descriptors[name]

    def has_parameter(self, name: str) -> bool:
        return name in self.__parameters

    # ---- reading

    def get_parameter(self, name: str) -> Parameter:
        """Raises:
        ParameterNotDeclaredException: there is none of this name, and undeclared ones are not allowed.
        ParameterUninitializedException: it was declared with a type only and has no value yet.
        """
        parameter = self.__parameters.get(name)
        if parameter is None:
            if self.__allow_undeclared_parameters:
                return Parameter(name)
            raise ParameterNotDeclaredException(name)
        if parameter.type_ is Parameter.Type.NOT_SET and not self.__descriptors[name].dynamic_typing:
            raise ParameterUninitializedException(name)
        return parameter

    def get_parameters(self, names: Sequence[str]) -> list[Parameter]:
        return [self.get_parameter(name) for name in names]

    def get_parameter_or(self, name: str, alternative_value: Parameter | None = None) -> Parameter:
        """The parameter, or another where it is not declared or has no value."""
        parameter = self.__parameters.get(name)
        if parameter is not None and parameter.type_ is not Parameter.Type.NOT_SET:
            return parameter
        return alternative_value or Parameter(name)

    def get_parameters_by_prefix(self, prefix: str) -> dict[str, Parameter]:
        """Parameters below a prefix, by the rest of their name."""
        start = f"{prefix}{PARAMETER_SEPARATOR_STRING}" if prefix else ""
        return {name[len(start) :]: parameter for name, parameter in self.__parameters.items() if name.startswith(start)}

    def get_parameter_type(self, name: str) -> Parameter.Type:
        if name in self.__parameters:
            return self.__parameters[name].type_
        if self.__allow_undeclared_parameters:
            return Parameter.Type.NOT_SET
        raise ParameterNotDeclaredException(name)

    def get_parameter_types(self, names: Sequence[str]) -> list[Parameter.Type]:
        return [self.get_parameter_type(name) for name in names]

    def describe_parameter(self, name: str) -> Any:
        if name in self.__descriptors:
            return self.__descriptors[name]
        if self.__allow_undeclared_parameters:
            return Descriptor()
        raise ParameterNotDeclaredException(name)

    def describe_parameters(self, names: Sequence[str]) -> list[Any]:
        return [self.describe_parameter(name) for name in names]

    def list_parameters(self, prefixes: Sequence[str], depth: int) -> Any:
        """Names at or below the prefixes, at most ``depth`` levels deep (0 = all); as ``rcl_interfaces/ListParametersResult``."""

        def listed(name: str) -> bool:
            if not prefixes:
                return depth == 0 or name.count(PARAMETER_SEPARATOR_STRING) < depth
            for prefix in prefixes:
                rest = name.removeprefix(f"{prefix}{PARAMETER_SEPARATOR_STRING}")
                if name == prefix or (rest != name and (depth == 0 or rest.count(PARAMETER_SEPARATOR_STRING) < depth)):
                    return True
            return False

        names = [name for name in self.__parameters if listed(name)]
        groups = [name.rpartition(PARAMETER_SEPARATOR_STRING)[0] for name in names]
        result = messages.message("rcl_interfaces/msg/ListParametersResult")
        return result(names=names, prefixes=list(dict.fromkeys(group for group in groups if group)))

    # ---- setting

    def set_parameters(self, parameter_list: Sequence[Parameter]) -> list[Any]:
        """Set each by itself; one ``SetParametersResult`` for each.

        Raises:
            ParameterNotDeclaredException: one is not declared, and undeclared ones are not allowed; those before it stay set.
        """
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: Sequence[Parameter]) -> Any:
        """Set all or none.

        Raises:
            ParameterNotDeclaredException: one is not declared, and undeclared ones are not allowed.
        """
        parameters = list(parameter_list)
        for pre_set in self.__pre_set:
            parameters = pre_set(parameters)
        if not parameters and self.__pre_set:
            return SetParametersResult(successful=False, reason="parameter list cannot be empty, a pre_set_parameters_callback made it so")
        unknown = [parameter.name for parameter in parameters if parameter.name not in self.__descriptors]
        if unknown and not self.__allow_undeclared_parameters:
            raise ParameterNotDeclaredException(*unknown)
        return self.__set(parameters)

    def add_pre_set_parameters_callback(self, callback: Callable[[list[Parameter]], list[Parameter]]) -> None:
        """``callback`` may change the list before it is checked. The one added last is called first."""
        self.__pre_set.insert(0, callback)

    def add_on_set_parameters_callback(self, callback: Callable[[list[Parameter]], Any]) -> None:
        """``callback`` answers with a ``SetParametersResult``: may these be set? The one added last is called first."""
        self.__on_set.insert(0, callback)

    def add_post_set_parameters_callback(self, callback: Callable[[list[Parameter]], None]) -> None:
        """``callback`` is told what was set. The one added last is called first."""
        self.__post_set.insert(0, callback)

    def remove_pre_set_parameters_callback(self, callback: Callable[[list[Parameter]], list[Parameter]]) -> None:
        self.__pre_set.remove(callback)

    def remove_on_set_parameters_callback(self, callback: Callable[[list[Parameter]], Any]) -> None:
        self.__on_set.remove(callback)

    def remove_post_set_parameters_callback(self, callback: Callable[[list[Parameter]], None]) -> None:
        self.__post_set.remove(callback)

    def __set(self, parameters: list[Parameter], declared: Mapping[str, Any] | None = None) -> Any:
        """Check and store; ``declared`` holds the descriptors of new parameters."""
        for parameter in parameters:
            reason = self.__objection(parameter, declared)
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        for callback in self.__on_set:
            result = callback(parameters)
            if not result.successful:
                return result
        new: list[Parameter] = []
        changed: list[Parameter] = []
        deleted: list[Parameter] = []
        for parameter in parameters:
            if declared is None and parameter.type_ is Parameter.Type.NOT_SET:
                deleted.append(parameter)
                self.__parameters.pop(parameter.name, None)
                self.__descriptors.pop(parameter.name, None)
                continue
            had_value = self.get_parameter_or(parameter.name).type_ is not Parameter.Type.NOT_SET
            (changed if had_value else new).append(parameter)
            if declared is not None:
                self.__descriptors[parameter.name] = declared[parameter.name]
            else:
                self.__descriptors.setdefault(parameter.name, Descriptor(name=parameter.name, dynamic_typing=True))
            self.__parameters[parameter.name] = parameter
        self.__announce(new, changed, deleted)
        for post_set in self.__post_set:
            post_set(parameters)
        return SetParametersResult(successful=True)

    def __objection(self, parameter: Parameter, declared: Mapping[str, Any] | None) -> str:
        """Why this parameter may not have this value; empty where it may."""
        descriptor = (self.__descriptors if declared is None else declared).get(parameter.name)
        if descriptor is None:
            return ""
        descriptor.name = parameter.name
        if declared is None and descriptor.read_only:
            return f"Trying to set a read-only parameter: {parameter.name}."
        if descriptor.dynamic_typing:
            descriptor.type = parameter.type_.value
        elif parameter.type_ is Parameter.Type.NOT_SET:
            return "" if declared is not None else "Static parameter cannot be undeclared"
        elif parameter.type_.value != descriptor.type:
            return f"Wrong parameter type, expected '{Parameter.Type(descriptor.type)}' got '{parameter.type_}'"
        ranges = {Parameter.Type.INTEGER: descriptor.integer_range, Parameter.Type.DOUBLE: descriptor.floating_point_range}
        return _out_of_range(parameter, ranges[parameter.type_][0]) if ranges.get(parameter.type_) else ""


def _out_of_range(parameter: Parameter, allowed: Any) -> str:
    """Why the value is not in the range or not on a step of it; empty where it is."""
    low, high, value = *sorted((allowed.from_value, allowed.to_value)), parameter.value
    if math.isclose(value, low, rel_tol=_REL_TOL) or math.isclose(value, high, rel_tol=_REL_TOL):
        return ""
    if not low < value < high:
        return f"Parameter {parameter.name} out of range. Min: {low}, Max: {high}, value: {value}"
    if allowed.step and not math.isclose(low + round((value - low) / allowed.step) * allowed.step, value, rel_tol=_REL_TOL):
        return f"The value for {parameter.name} is not a valid step. Min: {low}, max: {high}, value: {value}, step: {allowed.step}"
    return ""
