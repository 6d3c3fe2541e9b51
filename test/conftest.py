"""What every test runs under, set before any test module is imported: nothing leaves this machine, and no other run is heard."""

from __future__ import annotations

import os
import random

import pytest

from slice_ros.ros import confine_to_loopback

# Inherited by the processes that tests start. A domain of this run's own keeps it apart from other runs on the machine.
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
for variable in ("CYCLONEDDS_URI", "ROS_LOCALHOST_ONLY", "ROS_NAMESPACE"):
    os.environ.pop(variable, None)
confine_to_loopback()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--structured-goals", type=int, default=60, metavar="N", help="goals with a grammar or schema to generate")
