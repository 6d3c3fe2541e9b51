"""A hung engine is told from an idle one, a slow one, and a machine that stood still; by numbers, then with a process that is stopped."""

from __future__ import annotations

import os
import signal

import pytest
from test_host import Ends, request

from slice_ros.goal import ErrorCode
from slice_ros.parameters.table import check_all
from slice_ros.process.host import EngineHost
from slice_ros.process.watchdog import LOOK_PERIOD_S, Watchdog


def looks(watchdog: Watchdog, seconds: float, *, has_work: bool = True, timeout_s: float = 3.0, every_s: float = LOOK_PERIOD_S) -> bool:
    """Whether any look of the next seconds finds a hang."""
    began_s = watchdog._looked_s
    return any(
        watchdog.finds_hang(began_s + i * every_s, has_work=has_work, timeout_s=timeout_s) for i in range(1, round(seconds / every_s) + 1)
    )


def test_silence_with_work_is_a_hang_after_the_timeout_and_not_before():
    watchdog = Watchdog(0.01, 0.0)
    assert not looks(watchdog, 2.9)
    assert looks(watchdog, 0.3)


def test_an_idle_engine_may_be_silent_and_a_word_begins_the_count_anew():
    watchdog = Watchdog(0.01, 0.0)
    assert not looks(watchdog, 60.0, has_work=False)
    assert not looks(watchdog, 2.0)
    watchdog.heard()
    assert not looks(watchdog, 2.0)


def test_long_steps_are_waited_for_ten_times_as_long_as_predicted():
    watchdog = Watchdog(2.0, 0.0)
    assert not looks(watchdog, 19.9)
    assert looks(watchdog, 0.3)


def test_a_machine_that_stood_still_is_no_hang():
    watchdog = Watchdog(0.01, 0.0)
    assert not looks(watchdog, 120.0, every_s=60.0)


def test_a_timeout_of_zero_waits_for_ever():
    assert not looks(Watchdog(0.01, 0.0), 1000.0, timeout_s=0.0)


@pytest.mark.parametrize("kind", ["simulated", "llama"])
def test_a_stopped_engine_process_is_killed_its_goals_end_and_the_next_is_served(kind):
    ends = Ends()
    parameters = {"engine.kind": kind, "cpu.n_threads": 1, "engine.device_profile": "rtx4060ti-chatglm2-6b-int4"}
    host = EngineHost(check_all(parameters), ends)
    try:
        host.start()
        goals = [request(max_tokens=4000) for _ in range(3)]
        for goal in goals:
            host.submit(goal)
        ends.wait(lambda e: e.progress)
        pid = host.pid
        os.kill(pid, signal.SIGSTOP)
        ends.wait(lambda e: len(e.finished) == 3)
        assert {end.error_code for end in ends.finished} == {ErrorCode.ENGINE_DIED}
        assert f"the engine process {pid} hung" in ends.finished[0].error_msg
        after = request(max_tokens=3)
        host.submit(after)
        ends.wait(lambda e: len(e.finished) == 4)
        assert (ends.finished[3].goal_id, ends.finished[3].error_code) == (after.goal_id, ErrorCode.NONE)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        host.stop()
