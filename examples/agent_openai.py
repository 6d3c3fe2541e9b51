"""An agent of OpenAI's client alone: it asks, calls tools and tells what became of it, through the gateway.

    slice-ros serve --model smollm2 &
    slice-ros gateway &
    python examples/agent_openai.py "bring me the cup"

Each question may take two seconds to its first token; one of which the gateway knows that it cannot be served in time fails at once.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import openai

PLACES = {"cup": "kitchen", "drill": "lab"}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "where_is",
            "description": "Say where a thing is.",
            "parameters": {"type": "object", "properties": {"thing": {"type": "string"}}, "required": ["thing"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "drive_to",
            "description": "Drive the robot to a place.",
            "parameters": {"type": "object", "properties": {"place": {"enum": ["kitchen", "lab", "dock"]}}, "required": ["place"]},
        },
    },
]
SLO = {"x-slo-ttft-ms": "2000", "x-slo-label": "agent"}
TURNS = 6
"""An agent that has called tools so often has lost its way."""


def where_is(thing: str) -> str:
    return PLACES.get(thing, "nobody knows where")


def drive_to(place: str) -> str:
    return f"the robot is at the {place}"


def run(client: openai.OpenAI, task: str, model: str = "default") -> str:
    """The agent's last word.

    Raises:
        openai.APIError: a question failed.
    """
    messages: list[Any] = [{"role": "system", "content": "You are a robot. Use your tools."}, {"role": "user", "content": task}]
    for _ in range(TURNS):
        answer = client.chat.completions.create(model=model, messages=messages, tools=TOOLS, max_tokens=120, extra_headers=SLO).choices[0]
        messages.append(answer.message.model_dump(exclude_none=True))
        if not answer.message.tool_calls:
            return answer.message.content or ""
        for call in answer.message.tool_calls:
            arguments = json.loads(call.function.arguments)
            result = {"where_is": where_is, "drive_to": drive_to}[call.function.name](**arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return "it went round in circles"


if __name__ == "__main__":
    url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1")
    with openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none")) as client:
        print(run(client, " ".join(sys.argv[1:]) or "bring me the cup"))  # noqa: T201
