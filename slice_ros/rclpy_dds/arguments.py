"""What ``--ros-args`` says: names to remap, parameters, log levels.

Design: https://design.ros2.org/articles/ros_command_line_arguments.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from slice_ros.rclpy_dds.exceptions import UnknownROSArgsError

_BEGIN, _END = "--ros-args", "--"
_IGNORED_FLAGS = {f"--{verb}-{what}" for verb in ("enable", "disable") for what in ("rosout-logs", "stdout-logs", "external-lib-logs")}
_IGNORED_OPTIONS = {"--log-config-file", "--log-file-name", "--enclave", "-e"}


@dataclass(frozen=True, slots=True)
class Remap:
    """One rule ``[node:]from:=to``; without a node it holds for all."""

    node: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Override:
    """A parameter's value for the nodes whose full name matches ``nodes`` (``/**``, ``/ns/node``, ``node``)."""

    nodes: str
    name: str
    value: Any

    def holds_for(self, full_name: str) -> bool:
        pattern = re.escape(self.nodes if self.nodes.startswith("/") else f"/{self.nodes}")
        pattern = pattern.replace(re.escape("/**"), r"(/\w+)*").replace(re.escape("/*"), r"(/\w+)")
        return re.fullmatch(pattern, full_name) is not None or (self.nodes.count("/") == 0 and full_name == f"/{self.nodes}")


@dataclass(slots=True)
class Arguments:
    """ROS arguments of a process or of one node."""

    remaps: list[Remap] = field(default_factory=list)
    overrides: list[Override] = field(default_factory=list)
    log_levels: dict[str, str] = field(default_factory=dict)
    """Level by logger; the empty name is the default."""

    def special(self, key: str, node_name: str) -> str | None:
        """The target of ``__node`` or ``__ns``, where a rule has one for this node."""
        for rule in self.remaps:
            if rule.source in ({"__node", "__name"} if key == "__node" else {key}) and rule.node in ("", node_name):
                return rule.target
        return None

    def parameters(self, full_name: str) -> dict[str, Any]:
        """Parameter values for a node by its full name; what was said later wins."""
        return {override.name: override.value for override in self.overrides if override.holds_for(full_name)}


class _Loader(yaml.SafeLoader):
    """Reads YAML as ROS 2's parser does: 1e3 is a number too, although it has no point."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def parse(argv: Sequence[str]) -> Arguments:
    """What the ``--ros-args`` of a command line say.

    Raises:
        UnknownROSArgsError: an argument is unknown or has no value; the sentence names it.
        OSError: a parameter file cannot be read.
    """
    result = Arguments()
    words = iter(_ros_words(argv))
    for word in words:
        if word in _IGNORED_FLAGS:
            continue
        value = next(words, None)
        if value is None:
            raise UnknownROSArgsError(f"{word!r} after --ros-args is unknown or has no value")
        if word in ("-r", "--remap"):
            result.remaps.append(_remap(value))
        elif word in ("-p", "--param"):
            result.overrides.append(_override(value))
        elif word == "--params-file":
            result.overrides += read_params_file(Path(value))
        elif word == "--log-level":
            name, divider, level = value.partition(":=")
            result.log_levels[name if divider else ""] = level if divider else value
        elif word not in _IGNORED_OPTIONS:
            raise UnknownROSArgsError(f"{word!r} after --ros-args is unknown; -r, -p, --params-file and --log-level are known")
    return result


def remove_ros_args(argv: Sequence[str]) -> list[str]:
    """The command line without what ``--ros-args`` introduced."""
    kept, inside = [], False
    for word in argv:
        if word == _BEGIN:
            inside = True
        elif inside and word == _END:
            inside = False
        elif not inside:
            kept.append(word)
    return kept


def read_params_file(path: Path) -> list[Override]:
    """Overrides of a ROS 2 parameter file, with its wildcards.

    Raises:
        UnknownROSArgsError: it is no ROS 2 parameter file; the sentence says where.
        OSError: it cannot be read.
    """
    try:
        content = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, ValueError) as error:  # as of bytes that are no UTF-8, or of 2001-13-01
        raise UnknownROSArgsError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise UnknownROSArgsError(f"{path} holds no nodes; it must look like 'node_name: {{ros__parameters: {{name: value}}}}'")
    return list(_nodes(content, "", path))


def _nodes(content: Mapping[str, Any], prefix: str, path: Path) -> Iterator[Override]:
    for key, value in content.items():
        if not isinstance(value, Mapping):
            raise UnknownROSArgsError(f"{path}: {prefix}{key} is {value!r}; parameters stand below ros__parameters of a node")
        name = f"{prefix}/{key}".replace("//", "/") if prefix else str(key)
        if "ros__parameters" in value:
            for parameter, setting in _flattened(value["ros__parameters"] or {}):
                yield Override(name, parameter, setting)
        nested = {inner: below for inner, below in value.items() if inner != "ros__parameters"}
        yield from _nodes(nested, name, path)


def _flattened(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _ros_words(argv: Sequence[str]) -> list[str]:
    words, inside = [], False
    for word in argv:
        if word == _BEGIN:
            inside = True
        elif word == _END:
            inside = False
        elif inside:
            words.append(word)
    return words


def _remap(text: str) -> Remap:
    source, divider, target = text.partition(":=")
    if not (divider and source and target):
        raise UnknownROSArgsError(f"{text!r} is no remapping rule; it must look like from:=to or node:from:=to")
    node, colon, inner = source.partition(":")
    if colon and "://" not in source:
        return Remap(node, inner, target)
    return Remap("", source, target)


def _override(text: str) -> Override:
    name, divider, value = text.partition(":=")
    if not (divider and name):
        raise UnknownROSArgsError(f"{text!r} is no parameter; it must look like name:=value or node:name:=value")
    node, colon, inner = name.partition(":")
    try:
        parsed = yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise UnknownROSArgsError(f"the value of {text!r} is no YAML: {error}") from error
    return Override(node if colon else "/**", inner if colon else name, "" if parsed is None else parsed)
