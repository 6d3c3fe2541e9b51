"""Policies decide which goals take part in the coming steps: functions of (tasks, now, latency model) and what they have learnt."""

from __future__ import annotations

from collections.abc import Callable

from slice_ros.scheduling.policies.base import Limits, Policy, PolicyError
from slice_ros.scheduling.policies.fastserve import FastServe
from slice_ros.scheduling.policies.jitserve import JitServe
from slice_ros.scheduling.policies.orca import Orca
from slice_ros.scheduling.policies.priority import Priority
from slice_ros.scheduling.policies.qoserve import QoServe
from slice_ros.scheduling.policies.slack import Slack
from slice_ros.scheduling.policies.slice import Slice
from slice_ros.scheduling.policies.slos_serve import SlosServe

POLICIES: dict[str, Callable[[], Policy]] = {
    "slack": Slack,
    "slice": Slice,
    "orca": Orca,
    "fastserve": FastServe,
    "priority": Priority,
    "qoserve": QoServe,
    "slos-serve": SlosServe,
    "jitserve": JitServe,
}
"""Every policy by the name that parameters and commands use."""

DEFAULT_POLICY = "slack"


def make_policy(name: str) -> Policy:
    """A fresh policy of that name.

    Raises:
        PolicyError: there is none.
    """
    if name not in POLICIES:
        raise PolicyError(f"there is no policy {name!r}; there are: {', '.join(POLICIES)}")
    return POLICIES[name]()


__all__ = ["DEFAULT_POLICY", "POLICIES", "Limits", "Policy", "PolicyError", "make_policy"]
