"""Names of nodes, topics and services.

Design: https://design.ros2.org/articles/topic_and_service_names.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from slice_ros.rclpy_dds.arguments import Remap
from slice_ros.rclpy_dds.exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidServiceNameException,
    InvalidTopicNameException,
)

LONGEST = 255
_TOKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SUBSTITUTION = re.compile(r"\{(\w+)\}")


def validate_node_name(name: str) -> None:
    """Raises:
    InvalidNodeNameException: it is no node name.
    """
    if not _TOKEN.fullmatch(name) or len(name) > LONGEST:
        raise InvalidNodeNameException(name, "it must be letters, digits and underscores, and must not begin with a digit")


def validate_namespace(namespace: str) -> None:
    """Raises:
    InvalidNamespaceException: it is no absolute namespace.
    """
    if namespace == "/":
        return
    if not namespace.startswith("/") or not all(_TOKEN.fullmatch(token) for token in namespace[1:].split("/")):
        raise InvalidNamespaceException(namespace, "it must be / or tokens of letters, digits and underscores, each after a /")


def join(namespace: str, name: str) -> str:
    """A name in a namespace."""
    return f"{namespace.rstrip('/')}/{name}"


def expand(name: str, node_name: str, namespace: str, *, is_service: bool = False) -> str:
    """The absolute name of a topic or service that a node calls ``name``: absolute, relative, or private (``~/…``).

    Raises:
        InvalidTopicNameException, InvalidServiceNameException: it is no such name.
    """
    wrong = InvalidServiceNameException if is_service else InvalidTopicNameException
    known = {"node": node_name, "ns": namespace.strip("/"), "namespace": namespace.strip("/")}

    def substituted(match: re.Match[str]) -> str:
        if match.group(1) not in known:
            raise wrong(name, f"{match.group(0)} is unknown; {{node}}, {{ns}} and {{namespace}} can be used")
        return known[match.group(1)]

    full = _SUBSTITUTION.sub(substituted, name)
    if full == "~" or full.startswith("~/"):
        full = join(namespace, node_name) + full[1:]
    elif not full.startswith("/"):
        full = join(namespace, full)
    if not all(_TOKEN.fullmatch(token) for token in full[1:].split("/")):
        raise wrong(name, "its parts must be letters, digits and underscores, not beginning with a digit, divided by single slashes")
    return full


def remap(full: str, rules: Sequence[Remap], node_name: str, namespace: str, *, is_service: bool = False) -> str:
    """The name that the first rule which holds for this node and name puts in its place."""
    for rule in rules:
        if rule.node not in ("", node_name) or rule.source.startswith("__"):
            continue
        scheme, divider, source = rule.source.partition("://")
        if divider and scheme != ("rosservice" if is_service else "rostopic"):
            continue
        if expand(source if divider else rule.source, node_name, namespace, is_service=is_service) == full:
            return expand(rule.target, node_name, namespace, is_service=is_service)
    return full


def demangled(dds_name: str) -> tuple[str, str] | None:
    """ROS name and kind ("topic", "request", "reply") of a DDS topic; ``None`` for what is not ROS's."""
    for prefix, suffix, kind in (("rt", "", "topic"), ("rq", "Request", "request"), ("rr", "Reply", "reply")):
        if dds_name.startswith(f"{prefix}/") and dds_name.endswith(suffix):
            return dds_name[len(prefix) : len(dds_name) - len(suffix)], kind
    return None


def ros_type(dds_type: str) -> str:
    """``p/msg/T`` of ``p::msg::dds_::T_``; a service's request or response gives the service."""
    if dds_type.count("::") < 3:
        return dds_type
    package, kind, name = dds_type.replace("::dds_::", "::").removesuffix("_").rsplit("::", 2)
    if kind == "srv" or name.endswith(("_SendGoal_Request", "_SendGoal_Response", "_GetResult_Request", "_GetResult_Response")):
        name = name.removesuffix("_Request").removesuffix("_Response")
    return f"{package.replace('::', '/')}/{kind}/{name}"
