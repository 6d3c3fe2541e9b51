"""One server of a fleet, as the dispatcher knows it: what it told last, the goals that were sent there, whether it can be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slice_ros.dispatch.network import RoundTrip
from slice_ros.dispatch.prompts import Prefixes
from slice_ros.dispatch.trust import Trust
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.experience import Experience
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.task import Task, TaskState

QUIET_S = 1.0
"""A member that has goals and neither takes a step nor says anything for so long is taken for lost, ..."""
QUIET_STEPS = 4.0
"""... if that is as long as so many of its longest steps."""
UNHEARD_S = 1.5
"""So is one whose status does not come for so long, which it tells twice a second."""


@dataclass(frozen=True, slots=True)
class MemberReport:
    """What a member tells of itself.

    Args:
        is_serving: its engine is ready, and its node takes goals.
        model: file name of its model.
        device: what computes.
        adapters: LoRA adapters that goals may name.
        context_tokens: prompt and answer of one goal at most.
        latency: how long its steps take now.
        limits: what one step can hold.
        steps: taken since its engine started.
        in_hand: its goals, whoever sent them; the first ones, if they are many.
        chat_template: where its model's is from; empty where that has none of its own.
    """

    is_serving: bool
    model: str
    device: str
    adapters: tuple[str, ...]
    context_tokens: int
    latency: LatencyModel
    limits: Limits
    steps: int
    in_hand: tuple[TaskState, ...] = ()
    chat_template: str = ""


@dataclass(frozen=True, slots=True)
class MemberState:
    """As in ``msg/MemberStatus.msg``, and the chat template's source; seconds."""

    name: str
    state: str
    model: str
    device: str
    quality: float
    in_hand: int
    sent: int
    moved: int
    network_s: float
    why: str
    chat_template: str = ""


TAKING = frozenset({"used", "proving"})
"""States of members to which goals may be sent."""


def template_of(members: Iterable[MemberState]) -> str:
    """Where the chat templates of those in use are from; empty unless each has one, since nobody knows yet who will get a goal."""
    sources = [member.chat_template for member in members if member.state in TAKING]
    return sources[0] if sources and all(sources) else ""


class Member:
    """Args:
    name: of the server.
    quality: rank of its model; of members that keep a goal's SLO with ease, one with a higher rank is taken.
    lengths: what is learnt of answers, from all members.
    """

    def __init__(self, name: str, quality: float, lengths: Lengths) -> None:
        self.name = name
        self.quality = quality
        self.report: MemberReport | None = None
        self.experience = Experience()
        self.experience.lengths = lengths
        self.network = RoundTrip()
        self.trust = Trust()
        self.prefixes = Prefixes()
        self.own: dict[str, Task] = {}
        """The goals that the dispatcher sent here and that have not ended, by the ids they have here."""
        self.sent = 0
        self.moved = 0
        """Of those, how many had to go on elsewhere."""
        self.why = ""
        """Why the latest of them came here."""
        self._foreign: list[Task] = []
        self._heard_s = self._worked_s = 0.0

    # ---- what it tells

    def heard(self, report: MemberReport, now: float) -> None:
        """Its status came."""
        before, self.report, self._heard_s = self.report, report, now
        if before is None or report.steps != before.steps:
            self._worked_s = now
        self._foreign = [Task.from_state(state, now) for state in report.in_hand if state.goal_id not in self.own]
        for state in report.in_hand:
            task = self.own.get(state.goal_id)
            if task is not None and not task.tokens:
                task.prompt_left = min(state.prompt_left, task.prompt_left)

    def worked(self, now: float) -> None:
        """News of one of its goals came."""
        self._worked_s = now

    # ---- what is known of it

    @property
    def tasks(self) -> Sequence[Task]:
        """All its goals, those on their way included."""
        return [*self.own.values(), *self._foreign]

    @property
    def in_hand(self) -> int:
        return len(self.own) + len(self._foreign)

    def took(self, remote_id: str, task: Task, now: float) -> None:
        """A goal was sent to it, which has this id there."""
        if not self.own:
            self._worked_s = now
        self.sent += 1
        self.own[remote_id] = task
        if self.report is not None:
            self.experience.arrived(task, self.report.latency)

    def let_go(self, remote_id: str) -> None:
        """One of its goals has ended, or is not waited for any more."""
        self.own.pop(remote_id, None)

    @property
    def is_there(self) -> bool:
        """Whether goals are sent to it where nobody else is there."""
        return self.report is not None and self.report.is_serving and self.trust.answers

    def is_usable(self, now: float) -> bool:
        """Whether goals are sent to it."""
        return self.is_there and self.trust.is_proven(now)

    def state(self, now: float) -> MemberState:
        """What others are told of it."""
        report = self.report
        if report is None:
            state = "unheard"
        elif not report.is_serving:
            state = "inactive"
        elif not self.trust.answers:
            state = "lost"
        else:
            state = "used" if self.trust.is_proven(now) else "proving"
        model, device, template = ("", "", "") if report is None else (report.model, report.device, report.chat_template)
        counts = (self.in_hand, self.sent, self.moved)
        return MemberState(self.name, state, model, device, self.quality, *counts, self.network.expected_s, self.why, template)

    def is_quiet(self, now: float) -> bool:
        """Whether it has said nothing for too long."""
        if self.report is None:
            return False
        latency, limits = self.report.latency, self.report.limits
        longest_s = latency.step_s(limits.max_batch, limits.max_step_tokens, limits.max_batch)
        has_stopped = bool(self.own) and now - self._worked_s > max(QUIET_S, QUIET_STEPS * longest_s) + self.network.expected_s
        return has_stopped or now - self._heard_s > UNHEARD_S

    def lacks(self, adapter: str, model: str, tokens: int) -> str:
        """What keeps it from serving a goal, whenever that is sent; empty if nothing.

        Args:
            adapter, model: that the goal names; empty for any.
            tokens: of its prompt, at least, and its answer, at most.
        """
        if self.report is None:
            return "has not told of itself yet"
        if model and model != self.report.model:
            return f"has the model {self.report.model}"
        if adapter and adapter not in self.report.adapters:
            return f"has no adapter {adapter!r}"
        if tokens > self.report.context_tokens:
            return f"has a context of {self.report.context_tokens} tokens"
        return ""
