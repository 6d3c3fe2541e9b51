"""JPL's ROSA through the gateway: its agent with two tools of a robot, whose every question bears an SLO.

pip install jpl-rosa     # in a shell with ROS 2
python examples/agent_rosa.py "bring me the cup"
"""

from __future__ import annotations

import os
import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from rosa import ROSA

SLO = {"x-slo-ttft-ms": "2000", "x-slo-label": "agent"}


@tool
def where_is(thing: str) -> str:
    """Say where a thing is."""
    return {"cup": "kitchen", "drill": "lab"}.get(thing, "nobody knows where")


@tool
def drive_to(place: str) -> str:
    """Drive the robot to a place."""
    return f"the robot is at the {place}"


def run(url: str, task: str) -> str:
    """The agent's last word."""
    model = ChatOpenAI(model="default", base_url=url, api_key="none", default_headers=SLO)
    agent = ROSA(ros_version=2, llm=model, tools=[where_is, drive_to], streaming=False, max_iterations=6)
    return str(agent.invoke(task))


if __name__ == "__main__":
    print(run(os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"), " ".join(sys.argv[1:]) or "bring me the cup"))  # noqa: T201
