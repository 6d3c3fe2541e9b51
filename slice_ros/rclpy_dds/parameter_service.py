"""The services behind ``ros2 param``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slice_ros.rclpy_dds import messages
from slice_ros.rclpy_dds.exceptions import ParameterNotDeclaredException, ParameterUninitializedException
from slice_ros.rclpy_dds.parameter import Parameter
from slice_ros.rclpy_dds.qos import qos_profile_parameters

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.node import Node


class ParameterService:
    """Offers a node's parameters to others."""

    def __init__(self, node: Node) -> None:
        self._node = node
        for name, answer in {
            "DescribeParameters": self._describe,
            "GetParameters": self._get,
            "GetParameterTypes": self._types,
            "ListParameters": self._list,
            "SetParameters": self._set,
            "SetParametersAtomically": self._set_atomically,
        }.items():
            snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]
            node.create_service(messages.service(f"rcl_interfaces/srv/{name}"), f"~/{snake}", answer, qos_profile=qos_profile_parameters)

    def _describe(self, request: Any, response: Any) -> Any:
        # Like rclpy, nothing at all where one name is unknown.
        try:
            response.descriptors = self._node.describe_parameters(list(request.names))
        except ParameterNotDeclaredException:
            response.descriptors = []
        return response

    def _get(self, request: Any, response: Any) -> Any:
        for name in request.names:
            try:
                value = self._node.get_parameter(name).get_parameter_value()
            except (ParameterNotDeclaredException, ParameterUninitializedException):
                value = messages.message("rcl_interfaces/msg/ParameterValue")()
            response.values.append(value)
        return response

    def _types(self, request: Any, response: Any) -> Any:
        try:
            response.types = [self._node.get_parameter_type(name).value for name in request.names]
        except ParameterNotDeclaredException:
            response.types = []
        return response

    def _list(self, request: Any, response: Any) -> Any:
        response.result = self._node.list_parameters(list(request.prefixes), request.depth)
        return response

    def _set(self, request: Any, response: Any) -> Any:
        for msg in request.parameters:
            response.results.append(self._set_one(msg))
        return response

    def _set_atomically(self, request: Any, response: Any) -> Any:
        try:
            response.result = self._node.set_parameters_atomically([Parameter.from_parameter_msg(msg) for msg in request.parameters])
        except (ParameterNotDeclaredException, ValueError) as error:
            response.result = messages.message("rcl_interfaces/msg/SetParametersResult")(successful=False, reason=str(error))
        return response

    def _set_one(self, msg: Any) -> Any:
        try:
            return self._node.set_parameters([Parameter.from_parameter_msg(msg)])[0]
        except (ParameterNotDeclaredException, ValueError) as error:
            return messages.message("rcl_interfaces/msg/SetParametersResult")(successful=False, reason=str(error))
