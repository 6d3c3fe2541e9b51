"""Measure policies on seeded traffic."""

from __future__ import annotations

import argparse

HELP = "measure policies on seeded traffic"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from slice_ros.bench import command

    command.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from slice_ros.bench import command

    return command.run(arguments)
