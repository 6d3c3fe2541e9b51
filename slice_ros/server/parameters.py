"""The server's parameters as its node has them: declared with their descriptions and ranges, checked, changed while goals run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from slice_ros.parameters.presets import DEFAULTS, PREFIX, preset_parameter, presets_of
from slice_ros.parameters.table import PARAMETERS, Change, Parameter, ParameterError, Value, check_all, known
from slice_ros.slo import Slo

FOREIGN = ("use_sim_time", "bond_disable_heartbeat_timeout", "start_type_description_service", "qos_overrides.")
"""Begin of the names that ROS 2 itself and bondpy declare on a node."""


class ServerParameters:
    """Declares every parameter of a table and the SLO presets on a node, which must allow undeclared parameters.

    Args:
        node: made with ``automatically_declare_parameters_from_overrides`` and ``allow_undeclared_parameters``.
        is_configured: whether only live parameters may be changed now.
        on_change: told the new values of live parameters, after they are in ``values``.
        table: the parameters.
        free: begin of further names that may be set, which somebody else checks.

    Raises:
        ParameterError: an initial value is wrong, or a name in one of this server's groups is unknown.
    """

    def __init__(
        self,
        node: Node,
        is_configured: Callable[[], bool],
        on_change: Callable[[dict[str, Value]], None],
        table: Mapping[str, Parameter] = PARAMETERS,
        free: tuple[str, ...] = (),
    ) -> None:
        self._table = table
        self._foreign = FOREIGN + free
        groups = {name.split(".")[0] for name in table}
        self._is_configured = is_configured
        self._on_change = on_change
        given = {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()}
        for name in given:
            if name.split(".")[0] in groups:
                known(name, table)
            elif not name.startswith((PREFIX, *self._foreign)):
                node.get_logger().warning(f"there is no parameter {name!r}; it has no effect")
        self._preset_values = DEFAULTS | {name: value for name, value in given.items() if name.startswith(PREFIX)}
        self.presets: Mapping[str, Slo] = presets_of(self._preset_values)
        self.values = check_all({name: value for name, value in given.items() if name in table}, table)
        for name, value in (self.values | self._preset_values).items():
            if node.has_parameter(name):
                node.undeclare_parameter(name)
            try:
                node.declare_parameter(name, value, _descriptor(name, table), ignore_override=True)
            except ParameterException as error:
                raise ParameterError(str(error)) from error
        node.add_on_set_parameters_callback(self._set)

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def _set(self, changes: list[Any]) -> Any:
        try:
            presets = {change.name: change.value for change in changes if change.name.startswith(PREFIX)}
            checked = {change.name: self._checked(change.name, change.value) for change in changes if change.name not in presets}
            preset_values = {name: value for name, value in (self._preset_values | presets).items() if value is not None}  # None: deleted
            self.presets = presets_of(preset_values)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._preset_values = preset_values
        own = {name: value for name, value in checked.items() if name in self._table}
        self.values |= own
        self._on_change(own)
        return SetParametersResult(successful=True)

    def _checked(self, name: str, value: Any) -> Any:
        if name.startswith(self._foreign):
            return value
        parameter = known(name, self._table)
        if parameter.change is Change.NEVER:
            raise ParameterError(f"parameter {name} is fixed at start; start the server with another value")
        if parameter.change is Change.UNCONFIGURED and self._is_configured():
            raise ParameterError(
                f"parameter {name} can be changed only while the node is unconfigured: deactivate it and clean it up first"
            )
        return parameter.check(value)


def _descriptor(name: str, table: Mapping[str, Parameter]) -> Any:
    # Dynamic typing leaves the check to Parameter.check, which says in a sentence what would be right.
    parameter: Parameter = preset_parameter(name) if name.startswith(PREFIX) else table[name]
    descriptor = ParameterDescriptor(
        name=name, description=parameter.description, read_only=parameter.change is Change.NEVER, dynamic_typing=True
    )
    descriptor.additional_constraints = parameter.change.value
    if parameter.choices:
        descriptor.additional_constraints += f"; one of: {', '.join(parameter.choices)}"
    if parameter.minimum is not None and parameter.maximum is not None:
        low, high = parameter.minimum, parameter.maximum
        if isinstance(parameter.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    return descriptor
