"""``ros2 slice COMMAND``: what ``slice-ros COMMAND`` does."""

from __future__ import annotations

import argparse
from typing import Any

from ros2cli.command import CommandExtension

from slice_ros import cli


class SliceCommand(CommandExtension):  # type: ignore[misc]
    """LLM goals with service level objectives for robots."""

    def add_arguments(self, parser: argparse.ArgumentParser, cli_name: str, **_: Any) -> None:  # noqa: ARG002 - ros2cli's signature
        cli.tolerate_narrow_terminals()
        cli.add_commands(parser)

    def main(self, *, parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:  # noqa: ARG002 - ros2cli's signature
        return cli.run(args)
