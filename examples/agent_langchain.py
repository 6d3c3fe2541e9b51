"""LangChain through the gateway: tools, structured output and streams, each with an SLO of its own.

python examples/agent_langchain.py "bring me the cup"
"""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


@tool
def where_is(thing: str) -> str:
    """Say where a thing is."""
    return {"cup": "kitchen", "drill": "lab"}.get(thing, "nobody knows where")


@tool
def drive_to(place: str) -> str:
    """Drive the robot to a place."""
    return f"the robot is at the {place}"


class Waypoint(BaseModel):
    """Where to drive next."""

    place: Literal["kitchen", "lab", "dock"]
    slowly: bool = Field(description="whether somebody is near")


TOOLS = {each.name: each for each in (where_is, drive_to)}
TURNS = 6


def model(url: str, slo: dict[str, str], **options: Any) -> ChatOpenAI:
    """A model whose questions bear an SLO."""
    return ChatOpenAI(model="default", base_url=url, api_key="none", default_headers=slo, max_retries=0, **options)


def act(url: str, task: str) -> str:
    """Call tools until there is an answer."""
    bound = model(url, {"x-slo-ttft-ms": "2000", "x-slo-label": "agent"}).bind_tools(list(TOOLS.values()))
    messages: list[BaseMessage] = [HumanMessage(task)]
    for _ in range(TURNS):
        answer = bound.invoke(messages)
        assert isinstance(answer, AIMessage)
        messages.append(answer)
        if not answer.tool_calls:
            return str(answer.content)
        messages += [TOOLS[call["name"]].invoke(call) for call in answer.tool_calls]
    return "it went round in circles"


def plan(url: str, task: str, method: Literal["json_schema", "function_calling"] = "json_schema") -> Waypoint:
    """A waypoint within a deadline."""
    structured = model(url, {"x-slo-deadline-ms": "1500", "x-slo-class": "real-time"}).with_structured_output(Waypoint, method=method)
    waypoint = structured.invoke(task)
    assert isinstance(waypoint, Waypoint)
    return waypoint


def tell(url: str, task: str) -> list[str]:
    """Pieces of speech as they come."""
    return [str(piece.content) for piece in model(url, {"x-slo-preset": "voice"}).stream(task)]


if __name__ == "__main__":
    address = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1")
    print(act(address, " ".join(sys.argv[1:]) or "bring me the cup"))  # noqa: T201
