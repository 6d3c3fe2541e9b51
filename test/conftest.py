"""What every test runs under, set before any test module is imported: nothing leaves this machine, and no other run is heard or read."""

from __future__ import annotations

import atexit
import os
import random
import tempfile

import pytest
import rclpy

from slice_ros.ros.distributions import confine_to_loopback

# Inherited by the processes that tests start. A domain of this run's own keeps it apart from other runs on the machine, and each of
# pytest-xdist's workers, gw0, gw1, ..., counts on from the one that it inherits.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["ROS_DOMAIN_ID"] = str((int(os.environ["ROS_DOMAIN_ID"]) + int(worker.removeprefix("gw"))) % 100 + 1)
else:
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--structured-goals", type=int, default=60, metavar="N", help="goals with a grammar or schema to generate")
    parser.addoption("--sequences", type=int, default=10_000, metavar="N", help="random sequences of events to give to schedulers")
