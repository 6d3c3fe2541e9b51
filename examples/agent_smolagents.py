"""smolagents through the gateway: an agent that calls tools, whose every question bears an SLO.

pip install 'smolagents[openai]'
python examples/agent_smolagents.py "bring me the cup"
"""

from __future__ import annotations

import os
import sys

from smolagents import OpenAIServerModel, Tool, ToolCallingAgent

SLO = {"x-slo-ttft-ms": "2000", "x-slo-label": "agent"}


class WhereIs(Tool):  # type: ignore[misc]
    name = "where_is"
    description = "Says where a thing is."
    inputs = {"thing": {"type": "string", "description": "the thing"}}  # noqa: RUF012 - smolagents looks for it here
    output_type = "string"

    def forward(self, thing: str) -> str:
        return {"cup": "kitchen", "drill": "lab"}.get(thing, "nobody knows where")


class DriveTo(Tool):  # type: ignore[misc]
    name = "drive_to"
    description = "Drives the robot to a place."
    inputs = {"place": {"type": "string", "description": "kitchen, lab or dock"}}  # noqa: RUF012
    output_type = "string"

    def forward(self, place: str) -> str:
        return f"the robot is at the {place}"


def run(url: str, task: str) -> str:
    """The agent's last word."""
    model = OpenAIServerModel("default", api_base=url, api_key="none", client_kwargs={"default_headers": SLO}, max_tokens=200)
    return str(ToolCallingAgent(tools=[WhereIs(), DriveTo()], model=model, max_steps=6).run(task))


if __name__ == "__main__":
    print(run(os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"), " ".join(sys.argv[1:]) or "bring me the cup"))  # noqa: T201
