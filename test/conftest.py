"""What every test runs under, set before any test module is imported: nothing leaves this machine, and no other run is heard or read."""

from __future__ import annotations

import atexit
import fcntl
import os
import random
import re
import tempfile

import pytest
import rclpy

from slice_ros.ros.distributions import confine_to_loopback


def claim_domain() -> int:
    """A ROS domain that no other process with these tests has on this machine: another run, or another of pytest-xdist's workers."""
    for domain in random.SystemRandom().sample(range(1, 101), 100):
        try:
            # Locked, and the file left open, for as long as this process lives.
            claim = os.open(f"{tempfile.gettempdir()}/slice_ros-test-domain-{domain}", os.O_RDWR | os.O_CREAT)
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # taken, or another user's
        return domain
    raise RuntimeError("ROS domains 1 to 100 are all taken by tests on this machine")


os.environ["ROS_DOMAIN_ID"] = str(claim_domain())  # inherited by the processes that tests start
for variable in ("CYCLONEDDS_URI", "ROS_LOCALHOST_ONLY", "ROS_NAMESPACE"):
    os.environ.pop(variable, None)
confine_to_loopback()

# Models and step times that tests make are made anew, and are nobody else's.
cache = tempfile.TemporaryDirectory(prefix="slice_ros-test-", ignore_cleanup_errors=True)
os.environ["XDG_CACHE_HOME"] = cache.name
atexit.register(cache.cleanup)


@pytest.fixture(scope="module")
def ros():
    """The default context, for all tests of a module."""
    rclpy.init(args=[])
    yield
    rclpy.try_shutdown()


@pytest.fixture
def engine(shared_engine):
    """The engine that a module's tests share, without goals again after each."""
    yield shared_engine
    for goal_id in list(shared_engine._goals):
        shared_engine.close(goal_id)
    assert shared_engine.kv.used == 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--events-executor", action="store_true", help="also test in rclpy's events executor, which may end the process")
    parser.addoption("--structured-goals", type=int, default=60, metavar="N", help="goals with a grammar or schema to generate")
    parser.addoption("--goals-under-stress", type=int, default=200, metavar="N", help="goals on a machine that is busy, while clients die")
    parser.addoption("--sequences", type=int, default=10_000, metavar="N", help="random sequences of events to give to schedulers")


IMPORTS_ROS = re.compile(r"^(from|import) (rclpy|serving|slice_ros\.(client|ros|server|testing))\b", re.MULTILINE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``-m ros`` takes the tests that touch ROS, which are to be run on every distribution: those of modules that import it, or say so."""
    for item in items:
        if item.get_closest_marker("events_executor") and not config.getoption("--events-executor"):
            item.add_marker(pytest.mark.skip(reason="may end the process, by rclpy's fault; --events-executor runs it"))
        if IMPORTS_ROS.search(item.path.read_text()):
            item.add_marker("ros")
