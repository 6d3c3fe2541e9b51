"""What every test runs under, set before any test module is imported: nothing leaves this machine, and no other run is heard."""

from __future__ import annotations

import os
import random

import pytest

# Inherited by the processes that tests start. A domain of this run's own keeps it apart from other runs on the machine.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
for variable in ("ROS_STATIC_PEERS", "CYCLONEDDS_URI", "ROS_LOCALHOST_ONLY", "ROS_NAMESPACE"):
    os.environ.pop(variable, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--structured-goals", type=int, default=60, metavar="N", help="goals with a grammar or schema to generate")
