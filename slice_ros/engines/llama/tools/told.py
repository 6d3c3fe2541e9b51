"""Tools for models whose chat template knows none: told of in the system message, called as Hermes models do it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

TOLD = """You can call functions. Each of these lines describes one, with the JSON schema of its arguments:
<tools>
{tools}
</tools>
To call one, answer with its name and its arguments, like this:
<tool_call>
{{"name": "the function's name", "arguments": {{"argument": "value"}}}}
</tool_call>"""


def in_words(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation in messages with nothing but a role and a text."""
    spoken = list(_spoken(messages))
    if tools:
        told = TOLD.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools))
        if spoken and spoken[0]["role"] == "system":
            spoken[0]["content"] = f"{spoken[0]['content']}\n\n{told}".lstrip()
        else:
            spoken.insert(0, {"role": "system", "content": told})
    return spoken


def _spoken(messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        if results:
            yield {"role": "user", "content": "\n".join(results)}
            results = []
        yield {"role": message["role"], "content": "\n".join(_with_calls(message))}
    if results:
        yield {"role": "user", "content": "\n".join(results)}


def _with_calls(message: dict[str, Any]) -> Iterator[str]:
    calls = message.get("tool_calls", ())
    if message["content"] or not calls:
        yield message["content"]
    for call in calls:
        written = json.dumps({"name": call["function"]["name"], "arguments": call["function"]["arguments"]}, ensure_ascii=False)
        yield f"<tool_call>\n{written}\n</tool_call>"
