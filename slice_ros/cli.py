"""The command ``slice-ros``: a thin dispatcher over the library."""

# PYTHON_ARGCOMPLETE_OK
from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from slice_ros import __version__
from slice_ros.commands import (
    bench,
    calibrate,
    cancel,
    chat,
    check,
    demo,
    dispatch,
    gateway,
    models,
    monitor,
    policy,
    report,
    send,
    serve,
    status,
    top,
)

COMMANDS = {
    "serve": serve,
    "dispatch": dispatch,
    "gateway": gateway,
    "demo": demo,
    "send": send,
    "chat": chat,
    "check": check,
    "models": models,
    "status": status,
    "policy": policy,
    "cancel": cancel,
    "top": top,
    "monitor": monitor,
    "report": report,
    "bench": bench,
    "calibrate": calibrate,
}
"""Each module offers ``HELP``, ``add_arguments(parser)`` and ``run(arguments) -> exit status``."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells an option's default, where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_told = action.default not in (None, "", []) and action.default is not False
        return super()._get_help_string(action) if is_told else action.help


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slice-ros",
        description="LLM goals with service level objectives for robots.",
        epilog="Exit status: 0 success, 1 the work failed, 2 wrong arguments, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"slice-ros {__version__}")
    add_commands(parser)
    return parser


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give a parser every command as a subcommand, for ``slice-ros`` and ``ros2 slice`` alike."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__, formatter_class=_HelpFormatter)
        command.set_defaults(parser=command)
        module.add_arguments(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status.
    """
    tolerate_narrow_terminals()
    parser = make_parser()
    try:
        import argcomplete
    except ImportError:
        pass  # completion is a convenience
    else:
        argcomplete.autocomplete(parser)
    return run(parser.parse_args(arguments))


def tolerate_narrow_terminals() -> None:
    """Replace what a terminal cannot show: answers, help and errors may hold any character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def is_unicode(text: str) -> bool:
    """Whether it holds characters alone, and no bytes that Python has kept because they are none (PEP 383)."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def run(parsed: argparse.Namespace) -> int:
    """Run the command that was parsed, for ``slice-ros`` and ``ros2 slice`` alike.

    Returns:
        Exit status.
    """
    for name, value in vars(parsed).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str | Path) and not is_unicode(str(text)):
                parsed.parser.error(f"argument {name}: {str(text)!r} is no UTF-8 text, as messages are")
    try:
        exit_status: int = COMMANDS[parsed.command].run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read it has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if "rclpy" not in sys.modules:  # not every command needs it
            raise
        from rclpy.executors import ExternalShutdownException

        from slice_ros.ros.distributions import RCLError, refusal

        if isinstance(error, ExternalShutdownException) or (isinstance(error, RCLError) and "context is not valid" in str(error)):
            return 130  # a signal, which rclpy may notice first while it waits
        if not isinstance(error, RCLError):
            raise
        print(f"slice-ros {parsed.command}: {refusal(error)}", file=sys.stderr)  # noqa: T201
        return 1
    return exit_status


if __name__ == "__main__":
    sys.exit(main())
