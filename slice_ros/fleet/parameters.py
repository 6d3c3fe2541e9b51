"""The dispatcher's parameters: those of a server that are about goals, clients and the node, and its own."""

from __future__ import annotations

from slice_ros.dispatch.policies import DISPATCH_POLICIES, Deadline
from slice_ros.parameters.table import PARAMETERS, Change, Parameter

OF_SERVERS = (
    "scheduler.admission",
    "scheduler.max_queued",
    "scheduler.max_in_hand",
    "scheduler.client_share",
    "limits.",
    "generation.",
    "status.",
    "lifecycle.",
    "diagnostics.",
    "slo.",
)
"""Begin of the names of those that it has in common with servers."""
MEMBERS = "members."
"""Begin of the names of the parameters of single members."""
QUALITY = "quality"

TABLE: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        *(parameter for name, parameter in PARAMETERS.items() if name.startswith(OF_SERVERS)),
        Parameter("scheduler.policy", Deadline.name, "where goals go", choices=tuple(DISPATCH_POLICIES), change=Change.LIVE),
        Parameter(
            "dispatch.members",
            "",
            "the servers that goals are passed on to, as in '/orin/slice_server,/workstation/slice_server'; empty = all that are found. "
            "members.NAME.quality, as in members.orin/slice_server.quality, ranks their models",
        ),
    )
}
