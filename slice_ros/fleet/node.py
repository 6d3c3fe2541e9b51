"""The node ``slice_dispatcher``: a server without a model, which passes its goals on to other servers."""

from __future__ import annotations

from slice_ros.fleet.host import FleetHost
from slice_ros.fleet.parameters import MEMBERS, TABLE
from slice_ros.parameters.table import ParameterError
from slice_ros.process.protocol import Ready
from slice_ros.server.host import Host
from slice_ros.server.node import ServerError, SliceServer


class SliceDispatcher(SliceServer):
    """Serves what a ``SliceServer`` does, under the same names, with the same life cycle."""

    default_name = "slice_dispatcher"
    table = TABLE
    free_parameters = (MEMBERS,)

    def _make_host(self) -> Host:
        try:
            return FleetHost(self, self._parameters_now.values, self._receive)
        except ParameterError as error:
            raise ServerError(str(error)) from error

    def _describe(self, ready: Ready) -> str:  # noqa: ARG002
        named = str(self._parameters_now["dispatch.members"])
        policy = self._parameters_now["scheduler.policy"]
        return f"goals go to {named or 'all servers that are found'} with policy {policy}"
