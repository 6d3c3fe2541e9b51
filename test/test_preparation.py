"""A goal that takes long to prepare holds up nobody's cancel, its own least of all."""

from __future__ import annotations

import threading

import pytest
from builders import Bench, a_goal

from slice_ros.goal import ErrorCode, GoalError
from slice_ros.process.preparation import Preparation
from slice_ros.process.protocol import Check, Submit
from slice_ros.scheduling.events import Checked, Finished

CANCELED = GoalError(ErrorCode.CANCELED, "the goal was canceled")


class Slow(Bench):
    """A scheduler whose engine prepares goals only as it is let, with a preparation before it."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.let, self.error = threading.Semaphore(0), threading.Semaphore(0), None
        prepare = self.engine.prepare

        def slowly(request):
            self.begun.release()
            assert self.let.acquire(timeout=20.0)
            if self.error is not None:
                raise self.error
            return prepare(request)

        self.engine.prepare = slowly
        self.answers = []
        self.answered = threading.Semaphore(0)
        self.preparation = Preparation(self.scheduler, self._take)
        threading.Thread(target=self.preparation.run, daemon=True).start()

    def _take(self, events) -> None:
        self.answers += events
        self.answered.release()


@pytest.fixture
def slow() -> Slow:
    return Slow()


def test_a_goal_that_is_being_prepared_is_canceled_at_once_and_never_runs(slow):
    slow.preparation.put(Submit(a_goal("long")))
    slow.preparation.put(Submit(a_goal("next")))
    assert slow.begun.acquire(timeout=20.0)
    slow.preparation.cancel("long", CANCELED)
    assert [(end.goal_id, end.error_code) for end in slow.answers] == [("long", ErrorCode.CANCELED)]
    slow.let.release(2)
    assert slow.begun.acquire(timeout=20.0)
    slow.preparation.put(Check("after both", a_goal("check"), 4))
    while slow.tokens("next") < 8:
        slow.turn()
    assert not slow.tokens("long")
    assert len(slow.answers) == 1


def test_a_goal_that_waits_to_be_prepared_is_never_prepared_once_canceled(slow):
    for goal_id in ("first", "second", "third"):
        slow.preparation.put(Submit(a_goal(goal_id)))
    assert slow.begun.acquire(timeout=20.0)
    slow.preparation.cancel("second", CANCELED)
    slow.let.release(2)
    assert slow.begun.acquire(timeout=20.0)
    while slow.tokens("third") < 8:
        slow.turn()
    assert not slow.begun.acquire(blocking=False)


def test_what_comes_after_a_goal_that_was_canceled_before_it_was_ready_fails_for_that(slow):
    slow.preparation.put(Submit(a_goal("long")))
    slow.preparation.put(Submit(a_goal("waits")))
    slow.preparation.put(Submit(a_goal("after", after=("waits",))))
    assert slow.begun.acquire(timeout=20.0)
    slow.preparation.cancel("waits", CANCELED)
    slow.let.release(2)
    while "after" not in {end.goal_id for end in slow.ends}:
        slow.turn()
    assert slow.end("after").error_code is ErrorCode.PREDECESSOR_FAILED


@pytest.mark.parametrize("error", [GoalError(ErrorCode.INVALID_GRAMMAR, "no"), RuntimeError("broken")])
def test_what_cannot_be_prepared_or_checked_ends_and_the_next_is_served(slow, error):
    slow.error = error
    slow.let.release(3)
    slow.preparation.put(Submit(a_goal("bad")))
    slow.preparation.put(Check("c", a_goal("bad too"), 0))
    for _ in range(2):
        assert slow.answered.acquire(timeout=20.0)
    code = ErrorCode.INVALID_GRAMMAR if isinstance(error, GoalError) else ErrorCode.INTERNAL
    end, checked = slow.answers
    assert isinstance(end, Finished)
    assert isinstance(checked, Checked)
    assert (end.error_code, checked.error_code) == (code, code)
    slow.error = None
    slow.preparation.put(Submit(a_goal("good")))
    while not slow.tokens("good"):
        slow.turn()
