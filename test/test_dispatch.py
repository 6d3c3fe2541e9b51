"""Where goals go in a fleet, and what becomes of them: the dispatcher alone, with members that say what a test wants."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from builders import PAPER, VOICE, a_goal

from slice_ros.dispatch.attempt import Attempt
from slice_ros.dispatch.dispatcher import LONGEST_WAIT_S, Dispatcher
from slice_ros.dispatch.member import QUIET_S, UNHEARD_S, MemberReport, MemberState, template_of
from slice_ros.dispatch.network import RoundTrip
from slice_ros.dispatch.offer import rest_of_slo
from slice_ros.dispatch.policies import DISPATCH_POLICIES, Deadline
from slice_ros.dispatch.prompts import Prefixes, PromptLengths
from slice_ros.dispatch.trust import FIRST_PROOF_S, Trust
from slice_ros.goal import ErrorCode, FinishReason, GoalError, GoalRequest
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.admission import Admission
from slice_ros.scheduling.events import Checked, Finished, Progress
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.task import SloReport, Task
from slice_ros.slo import BestEffort, RealTime

CONTROL = RealTime(tpot_ms=50, deadline_s=1.5)
SLOW = PAPER.scaled(2.0)


class Fleet:
    """A dispatcher, its members, and a clock that moves when told to."""

    def __init__(self, policy: str = "deadline", admission: Admission = Admission.ALWAYS, **members: LatencyModel) -> None:
        self.now = 100.0
        self.sent: list[Attempt] = []
        self.canceled: list[Attempt] = []
        self.events: list[object] = []
        self.reports: dict[str, MemberReport] = {}
        self.dispatcher = Dispatcher(DISPATCH_POLICIES[policy](), self, self.events.extend, lambda: self.now, admission=admission)
        for name, latency in members.items():
            self.join(name, latency)

    def join(self, name: str, latency: LatencyModel, *, quality: float = 0.0, delay_s: float = 0.0, **told: object) -> None:
        fields = {"is_serving": True, "model": "m", "device": name, "adapters": (), "context_tokens": 4096, "limits": Limits(), "steps": 0}
        self.reports[name] = MemberReport(latency=latency, **(fields | told))  # type: ignore[arg-type]
        self.dispatcher.join(name, quality)
        self.dispatcher.answered(name, delay_s)
        self.dispatcher.heard(name, self.reports[name])

    def send(self, attempt: Attempt) -> str:
        self.sent.append(attempt)
        return f"{len(self.sent)}"

    def withdraw(self, attempt: Attempt) -> None:
        self.canceled.append(attempt)

    def submit(self, goal_id: str, slo=CONTROL, **fields: object) -> Attempt | None:
        """Where it went."""
        before = len(self.sent)
        self.dispatcher.submit(a_goal(goal_id, slo, submitted_s=self.now, **({"max_tokens": 25} | fields)))  # type: ignore[arg-type]
        return self.sent[-1] if len(self.sent) > before else None

    def where(self, goal_id: str, slo=CONTROL, **fields: object) -> str:
        attempt = self.submit(goal_id, slo, **fields)
        assert attempt is not None
        return attempt.member.name

    def says(self, attempt: Attempt, text: str) -> None:
        for piece in text:
            self.dispatcher.progressed(attempt, piece, 1, SloReport(prompt_tokens=1, queue_s=0.0))

    def lives(self, seconds: float, *names: str) -> None:
        """Time passes, in which only these members say anything."""
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            for name in names:
                self.dispatcher.answered(name, 0.0)
                self.dispatcher.heard(name, self.reports[name])
            self.dispatcher.look()

    def text(self, goal_id: str) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Progress) and event.goal_id == goal_id)

    def end(self, goal_id: str) -> Finished:
        (end,) = [event for event in self.events if isinstance(event, Finished) and event.goal_id == goal_id]
        return end


# ---- where a goal goes


def test_goals_without_bounds_are_divided_among_equal_members_also_when_they_are_moved():
    fleet = Fleet(one=PAPER, two=PAPER)
    fleet.lives(FIRST_PROOF_S + 0.1, "one", "two")
    assert [fleet.where(f"{i}", BestEffort(), max_tokens=600) for i in range(6)] == ["one", "two"] * 3
    fleet.join("three", PAPER)
    fleet.lives(FIRST_PROOF_S + 0.1, "one", "two", "three")
    fleet.dispatcher.lost("two")
    assert sorted(attempt.member.name for attempt in fleet.sent[6:]) == ["three"] * 3


def test_a_goal_that_names_no_tokens_fits_any_context_and_ends_at_the_dispatchers_default_however_often_it_moves():
    fleet = Fleet()
    for name in ("a", "b"):
        fleet.join(name, PAPER, context_tokens=20)
    first = fleet.submit("g", BestEffort(), max_tokens=25, is_default=True)
    assert first.request.is_default
    fleet.says(first, "x" * 10)
    fleet.dispatcher.ended(first, None, GoalError(ErrorCode.ENGINE_DIED, "gone"))
    second = fleet.sent[-1]
    assert (second.request.is_default, second.request.max_tokens) == (True, 15)
    fleet.says(second, "y" * 16)
    assert fleet.text("g") == "x" * 10 + "y" * 15
    assert fleet.end("g").reason is FinishReason.LENGTH
    assert fleet.canceled == [second]
    with_logprobs = fleet.submit("p", BestEffort(), max_tokens=15, is_default=True, logprobs=True)
    assert not with_logprobs.request.is_default, "what is cut here has none"


def test_a_goal_goes_where_it_has_most_time_to_spare():
    assert Fleet(slow=SLOW, fast=PAPER).where("a") == "fast"


def test_a_goal_goes_to_the_slower_member_when_the_faster_one_has_promised_its_time_away():
    fleet = Fleet(slow=SLOW, fast=PAPER)
    places = [fleet.where(f"{i}") for i in range(6)]
    assert places[0] == "fast"
    assert "slow" in places


def test_a_goal_that_is_at_ease_goes_to_the_better_model():
    fleet = Fleet(fast=PAPER)
    fleet.join("wise", SLOW, quality=1.0)
    assert fleet.where("a", RealTime(deadline_s=5.0)) == "wise"
    assert fleet.where("b", RealTime(deadline_s=0.5)) == "fast"


def test_the_network_counts_like_the_device():
    fleet = Fleet(near=SLOW)
    fleet.join("far", PAPER, delay_s=1.2)
    assert fleet.where("a") == "near"


def test_the_way_there_and_back_is_taken_off_the_bounds_that_a_member_is_held_to():
    fleet = Fleet()
    fleet.join("far", PAPER, delay_s=0.2)
    attempt = fleet.submit("a")
    assert attempt is not None
    assert attempt.request.slo.deadline_s == pytest.approx(1.3)


def test_of_equal_members_the_one_that_has_the_beginning_of_the_prompt_gets_it():
    fleet = Fleet(a=PAPER, b=PAPER)
    shared = "You are the robot of a hospital. " * 20
    fleet.dispatcher.submit(GoalRequest("1", BestEffort(), 8, prompt=shared + "Where are you?", submitted_s=fleet.now))
    first = fleet.sent[-1].member.name
    fleet.dispatcher.ended(fleet.sent[-1], FinishReason.STOP, None)
    fleet.dispatcher.submit(GoalRequest("2", BestEffort(), 8, prompt=shared + "What do you see?", submitted_s=fleet.now))
    assert fleet.sent[-1].member.name == first
    assert fleet.sent[-1].task.prompt_left < fleet.sent[-1].task.prompt_tokens / 4


def test_a_goal_goes_to_a_member_that_has_its_adapter_and_its_model():
    fleet = Fleet(plain=PAPER)
    fleet.join("polite", SLOW, adapters=("polite",))
    fleet.join("large", SLOW, model="large.gguf")
    assert fleet.where("a", adapter="polite") == "polite"
    assert fleet.where("b", model="large.gguf") == "large"


def test_what_no_member_has_is_said_at_once():
    fleet = Fleet(plain=PAPER)
    fleet.submit("a", adapter="rude")
    assert fleet.end("a").error_code is ErrorCode.INVALID_GOAL
    assert "plain has no adapter 'rude'" in fleet.end("a").error_msg


def test_strict_admission_refuses_what_no_member_can_keep():
    fleet = Fleet(admission=Admission.STRICT, slow=SLOW)
    fleet.submit("a", RealTime(deadline_s=0.1))
    assert fleet.end("a").error_code is ErrorCode.INFEASIBLE


def test_a_check_tells_what_the_best_member_offers():
    fleet = Fleet(slow=SLOW, fast=PAPER)
    fleet.dispatcher.check("c", a_goal("c", CONTROL, submitted_s=fleet.now, max_tokens=25), 30)
    (checked,) = [event for event in fleet.events if isinstance(event, Checked)]
    assert checked.prediction is not None
    assert checked.prediction.fits


@pytest.mark.parametrize(("policy", "places"), [("round-robin", {"a": 2, "b": 2}), ("least-loaded", {"a": 2, "b": 2})])
def test_balancers_divide_by_number(policy, places):
    fleet = Fleet(policy, a=PAPER, b=SLOW)
    went = [fleet.where(f"{i}") for i in range(4)]
    assert {name: went.count(name) for name in went} == places


def test_the_best_device_is_filled_first():
    fleet = Fleet("best-device-first", slow=SLOW, fast=PAPER)
    assert [fleet.where(f"{i}") for i in range(17)] == ["fast"] * 16 + ["slow"]


# ---- one end, whatever happens


def test_a_goal_ends_once_with_what_its_client_has_experienced():
    fleet = Fleet(fast=PAPER)
    attempt = fleet.submit("a")
    fleet.now += 0.2
    fleet.says(attempt, "stop")
    fleet.dispatcher.ended(attempt, FinishReason.STOP, None)
    fleet.dispatcher.ended(attempt, FinishReason.STOP, None)
    end = fleet.end("a")
    assert end.report.attained
    assert end.report.ttft_s == pytest.approx(0.2)
    assert end.report.output_tokens == 4
    assert not fleet.dispatcher.members["fast"].own


def test_a_canceled_goal_is_canceled_at_its_member():
    fleet = Fleet(fast=PAPER)
    attempt = fleet.submit("a")
    fleet.dispatcher.cancel("a", GoalError(ErrorCode.CANCELED, "the goal was canceled"))
    assert fleet.end("a").error_code is ErrorCode.CANCELED
    assert fleet.canceled == [attempt]


@pytest.mark.parametrize("code", [ErrorCode.ENGINE_DIED, ErrorCode.SHUTTING_DOWN, ErrorCode.OVERLOADED])
def test_a_goal_goes_on_elsewhere_from_the_text_that_is_there(code):
    fleet = Fleet(fast=PAPER, slow=SLOW)
    first = fleet.submit("a", VOICE)
    fleet.says(first, "go t")
    fleet.dispatcher.ended(first, None, GoalError(code, "gone"))
    second = fleet.sent[-1]
    assert second.member.name == "slow"
    assert second.request.answer_prefix == "go t"
    assert second.request.max_tokens == 21
    fleet.says(first, "???")  # late news of the first one
    fleet.says(second, "o the dock")
    fleet.dispatcher.ended(second, FinishReason.STOP, None)
    assert fleet.text("a") == "go to the dock"
    assert fleet.end("a").report.output_tokens == 14


def test_what_a_member_refuses_for_good_is_not_tried_elsewhere():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    fleet.dispatcher.ended(fleet.submit("a"), None, GoalError(ErrorCode.INVALID_GRAMMAR, "no"))
    assert fleet.end("a").error_code is ErrorCode.INVALID_GRAMMAR
    assert len(fleet.sent) == 1


def test_what_all_members_refuse_ends_with_the_last_refusal():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    fleet.submit("a")
    for _ in range(2):
        fleet.dispatcher.ended(fleet.sent[-1], None, GoalError(ErrorCode.OVERLOADED, "full"))
    assert fleet.end("a").error_code is ErrorCode.OVERLOADED
    assert len(fleet.sent) == 2


def test_a_real_time_goal_that_cannot_be_in_time_elsewhere_ends():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    attempt = fleet.submit("a")
    fleet.now += 1.6
    fleet.dispatcher.ended(attempt, None, GoalError(ErrorCode.ENGINE_DIED, "gone"))
    assert fleet.end("a").error_code is ErrorCode.SLO_MISSED


def test_a_best_effort_goal_waits_for_a_member_and_in_the_end_is_given_up():
    fleet = Fleet(fast=PAPER)
    fleet.dispatcher.lost("fast")
    assert fleet.submit("a", VOICE) is None
    fleet.lives(1.0, "fast")
    assert [attempt.goal_id for attempt in fleet.sent] == ["a"]
    fleet.dispatcher.lost("fast")
    fleet.lives(LONGEST_WAIT_S)
    assert fleet.end("a").error_code is ErrorCode.ENGINE_DIED


def test_log_probabilities_that_are_gone_are_not_made_up():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    attempt = fleet.submit("a", VOICE, logprobs=True)
    fleet.says(attempt, "go")
    fleet.dispatcher.ended(attempt, None, GoalError(ErrorCode.ENGINE_DIED, "gone"))
    assert fleet.end("a").error_code is ErrorCode.ENGINE_DIED


def test_a_template_is_there_where_every_member_in_use_has_one():
    states = [MemberState(name, state, "m", "d", 0.0, 0, 0, 0, 0.0, "", source) for name, state, source in (
        ("a", "used", "model"), ("b", "used", "chatml"), ("c", "lost", ""))]  # fmt: skip
    assert template_of(states) == "model"
    assert template_of([*states, replace(states[2], state="used")]) == ""
    assert template_of(states[2:]) == ""


def test_reasoning_comes_through_and_is_not_begun_anew_elsewhere():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    attempt = fleet.submit("a", VOICE)
    fleet.dispatcher.progressed(attempt, "", 1, SloReport(prompt_tokens=1, queue_s=0.0), reasoning="hm")
    assert [event.reasoning for event in fleet.events if isinstance(event, Progress)] == ["hm"]
    fleet.dispatcher.ended(attempt, None, GoalError(ErrorCode.ENGINE_DIED, "gone"))
    assert fleet.end("a").error_code is ErrorCode.ENGINE_DIED


# ---- members come and go


def test_the_goals_of_a_member_that_says_nothing_are_tried_elsewhere_and_whoever_speaks_first_goes_on():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    first = fleet.submit("a", VOICE)
    fleet.says(first, "go t")
    fleet.lives(QUIET_S + SLOW.step_s(16) * 4 + 1.0, "slow")
    second = fleet.sent[-1]
    assert second.member.name == "slow"
    assert second.request.answer_prefix == "go t"
    fleet.says(first, "o")  # it was only slow
    assert fleet.canceled == [second]
    fleet.dispatcher.ended(first, FinishReason.STOP, None)
    assert fleet.text("a") == "go to"


def test_a_member_without_goals_that_is_not_heard_gets_none():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    fleet.lives(UNHEARD_S + 0.5, "slow")
    assert fleet.where("a") == "slow"


def test_a_member_that_comes_back_proves_itself_for_longer_each_time():
    trust = Trust()
    trust.answered(0.0)
    assert trust.is_proven(0.0)
    for losses, begin_s in enumerate((10.0, 20.0, 30.0), 1):
        trust.lost(begin_s)
        trust.answered(begin_s)
        proof_s = FIRST_PROOF_S * 2 ** (losses - 1)
        assert not trust.is_proven(begin_s + proof_s - 0.1)
        assert trust.is_proven(begin_s + proof_s)


def test_a_member_that_has_yet_to_prove_itself_gets_goals_where_nobody_else_is_there():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    fleet.dispatcher.lost("fast")
    fleet.lives(0.1, "fast", "slow")
    assert fleet.dispatcher.members["fast"].state(fleet.now).state == "proving"
    assert fleet.where("a") == "slow"
    fleet.dispatcher.lost("slow")
    assert fleet.where("b") == "fast"


def test_a_member_that_is_not_active_gets_no_goals():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    fleet.join("fast", PAPER, is_serving=False)
    assert fleet.where("a") == "slow"


def test_a_hedged_goal_is_sent_twice_and_the_first_to_speak_wins():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    fleet.submit("a", hedge=True)
    first, second = fleet.sent
    assert {first.member.name, second.member.name} == {"fast", "slow"}
    fleet.says(second, "go")
    assert fleet.canceled == [first]
    fleet.says(first, "stop")
    fleet.dispatcher.ended(second, FinishReason.STOP, None)
    assert fleet.text("a") == "go"


def test_a_hedged_goal_outlives_the_failure_of_one_attempt():
    fleet = Fleet(fast=PAPER, slow=SLOW)
    fleet.submit("a", hedge=True)
    fleet.dispatcher.ended(fleet.sent[0], None, GoalError(ErrorCode.SLO_MISSED, "late"))
    fleet.says(fleet.sent[1], "go")
    fleet.dispatcher.ended(fleet.sent[1], FinishReason.STOP, None)
    assert fleet.end("a").error_code is ErrorCode.NONE


# ---- chains


def test_a_goal_waits_here_for_those_before_it_and_may_go_elsewhere():
    fleet = Fleet(fast=PAPER)
    first = fleet.submit("a")
    assert fleet.submit("b", after=("a",)) is None
    fleet.says(first, "go")
    fleet.dispatcher.ended(first, FinishReason.STOP, None)
    assert fleet.sent[-1].goal_id == "b"
    assert fleet.sent[-1].request.after == ()


def test_what_comes_after_a_goal_that_failed_fails():
    fleet = Fleet(fast=PAPER)
    first = fleet.submit("a")
    fleet.submit("b", after=("a",))
    fleet.dispatcher.ended(first, None, GoalError(ErrorCode.INVALID_GOAL, "no"))
    assert fleet.end("b").error_code is ErrorCode.PREDECESSOR_FAILED


# ---- what is learnt


def test_tokens_of_a_prompt_are_learnt_from_those_before():
    prompts = PromptLengths()
    assert prompts.expected("control", 400) == 100
    for _ in range(50):
        prompts.observe("control", 200, 100)
    assert prompts.expected("control", 400) == 200
    assert prompts.expected("voice", 400) == 100


def test_what_a_member_does_not_keep_is_expected_less_and_less():
    prefixes = Prefixes()
    text = "a" * 640
    prefixes.note(text)
    assert prefixes.share(text) == 1.0
    for _ in range(50):
        prefixes.learn(prefixes.share(text), 0.0)
    assert prefixes.share(text) < 0.2


def test_the_longest_of_the_latest_round_trips_counts():
    network = RoundTrip()
    assert network.expected_s == 0.0
    for seconds in (0.01, 0.03, 0.02):
        network.observe(seconds)
    assert network.expected_s == 0.03


def test_bounds_of_what_is_left_are_those_of_the_whole():
    whole = Task("a", RealTime(ttft_ms=500, tpot_ms=100, deadline_s=3.0), "control", 20, 10, 0.0)
    lengths = Lengths()
    assert rest_of_slo(whole, lengths, 0.1).ttft_s == pytest.approx(0.4)
    whole.token_times_s = [0.4 + 0.05 * k for k in range(11)]  # at 0.9 s, half a second ahead of its pace
    rest = rest_of_slo(whole, lengths, 1.0)
    assert rest.ttft_s is None
    assert rest.deadline_s == pytest.approx(2.0)
    assert rest.tpot_s is not None
    assert rest.tpot_s > 0.1
    assert rest_of_slo(whole, lengths, 3.5) == BestEffort()
    assert math.isinf(Task("b", BestEffort(), "x", 5, 1, 0.0).due_end_s)


def test_the_default_policy_is_ours():
    assert next(iter(DISPATCH_POLICIES)) == Deadline.name
