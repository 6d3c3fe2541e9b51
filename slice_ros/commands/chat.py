"""Talk to the model: a conversation with its history, each answer as it comes with how it kept its SLO.

/preset NAME takes another SLO preset, /system TEXT begins anew with that system message, /new without history, /quit ends, as does Ctrl-D.
Ctrl-C ends an answer, and the conversation goes on.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from typing import TYPE_CHECKING, Any

from slice_ros.commands.answering import add_goal_arguments, asking, hear, interruptions, status_of, verdict
from slice_ros.commands.arguments import slo_of

if TYPE_CHECKING:
    from rclpy.executors import Executor

    from slice_ros.client import SliceClient
    from slice_ros.goal import ChatMessage, Sampling
    from slice_ros.slo import Slo

HELP = "talk to the model"
PROMPT = "> "
COMMANDS = "/preset NAME, /system TEXT, /new, /quit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_goal_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from slice_ros.goal import GoalError, Sampling
    from slice_ros.slo import SloError

    try:
        slo = slo_of(arguments)
        sampling = Sampling(temperature=arguments.temperature, seed=arguments.seed)
    except (SloError, GoalError) as error:
        print(f"slice-ros chat: {error}", file=sys.stderr)
        return 2

    from slice_ros.client import ServerNotFound

    try:
        with asking(arguments.server, arguments.timeout) as (client, executor):
            status = status_of(client, executor)
            if status is not None:
                print(f"{models_of(status)} on {arguments.server}; {COMMANDS}; Ctrl-C ends an answer", file=sys.stderr)
            Conversation(client, executor, arguments, slo, sampling).go_on()
    except ServerNotFound as error:
        print(f"slice-ros chat: {error}", file=sys.stderr)
        return 1
    return 0


def models_of(status: Any) -> str:
    """What answers: a server's model, or those of a dispatcher's members in use."""
    used = dict.fromkeys(member.model for member in status.members if member.state == "used")
    return status.model or ", ".join(used) or "no model"


class Conversation:
    """One conversation, from what is typed to what is answered."""

    def __init__(self, client: SliceClient, executor: Executor, arguments: argparse.Namespace, slo: Slo, sampling: Sampling) -> None:
        self._client = client
        self._executor = executor
        self._arguments = arguments
        self._slo = slo
        self._sampling = sampling
        self._preset: str = arguments.preset
        self._system: str = arguments.system
        self._begin()

    def go_on(self) -> None:
        """Take lines in until there are no more."""
        while True:
            try:
                line = input(PROMPT if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                print("\n/quit or Ctrl-D ends the conversation", file=sys.stderr)
                continue
            command, _, rest = line.partition(" ")
            if command == "/quit":
                return
            if command == "/preset":
                self._preset = rest.strip()
            elif command == "/system":
                self._system = rest.strip()
                self._begin()
            elif command == "/new":
                self._begin()
            elif command.startswith("/"):
                print(f"there is no {command}; there are {COMMANDS}", file=sys.stderr)
            elif line and not self._answer(line):
                return

    def _begin(self) -> None:
        from slice_ros.goal import ChatMessage

        self._history: list[ChatMessage] = [ChatMessage("system", self._system)] if self._system else []
        self._session = f"chat-{uuid.uuid4().hex[:12]}"

    def _answer(self, text: str) -> bool:
        """Say something and print what is answered; false when this command is to end."""
        import signal

        from slice_ros.client import GoalFailed
        from slice_ros.goal import ChatMessage

        given = self._arguments
        said = [*self._history, ChatMessage("user", text)]
        with interruptions() as interrupted:
            generation = self._client.send(
                said,
                slo=self._slo,
                preset=self._preset,
                max_tokens=given.max_tokens,
                label=given.label,
                sampling=self._sampling,
                adapter=given.adapter,
                session_id=self._session,
            )
            try:
                answer = hear(generation, self._executor, quiet=False, interrupted=interrupted)
            except GoalFailed as error:
                print(error, file=sys.stderr)
                return True
            if answer is not None:
                print(verdict(answer, is_best_effort=self._slo.has_bound and not self._slo.is_real_time), file=sys.stderr)
                self._history = [*said, answer.message]
                return True
        heard = generation.end
        print(flush=True)
        if isinstance(heard, GoalFailed) and heard.text:
            self._history = [*said, ChatMessage("assistant", heard.text)]
        return interrupted() == signal.SIGINT
