"""The engine without a model, beside the threads that it is used from."""

from __future__ import annotations

import sys
import threading

import pytest
from builders import PAPER, a_goal

from slice_ros.engines.simulated import SimulatedEngine


@pytest.fixture
def hurried_threads():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_kv_is_counted_while_another_thread_prepares_goals(hurried_threads):
    engine = SimulatedEngine(PAPER)

    def prepare() -> None:
        for number in range(2_000):
            engine.prepare(a_goal(f"goal {number}"))

    preparer = threading.Thread(target=prepare)
    preparer.start()
    while preparer.is_alive():
        assert engine.kv.used == 0
    preparer.join()
