"""Messages for chat templates that know no tools, or no calls of them: both go into the texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from slice_ros.engines.llama.tools.formats import Format

TOLD = """You can call functions. Each of these lines describes one, with the JSON schema of its arguments:
<tools>
{tools}
</tools>
To call one, answer with its name and its arguments, like this:
{call}"""


def with_tools(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], form: Format, *, has_system: bool
) -> list[dict[str, Any]]:
    """Messages of which the system's, or the first where the template has none, describes tools; what tools said is the user's."""
    spoken = list(_spoken(messages))
    if tools:
        described = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        told = TOLD.format(tools=described, call=form.written([("function_name", {"argument_name": "value"})]))
        if spoken and (spoken[0]["role"] == "system" or not has_system):
            spoken[0] = {**spoken[0], "content": f"{spoken[0]['content']}\n\n{told}".lstrip()}
        else:
            spoken.insert(0, {"role": "system", "content": told})
    return spoken


def with_calls(messages: Iterable[dict[str, Any]], form: Format) -> list[dict[str, Any]]:
    """Messages in whose texts the calls are as the model writes them."""
    written = []
    for message in messages:
        if calls := message.get("tool_calls"):
            text = form.written((call["function"]["name"], call["function"]["arguments"]) for call in calls)
            content = f"{message['content']}\n{text}".lstrip()
            message = {"role": message["role"], "content": content}  # noqa: PLW2901
        written.append(message)
    return written


def _spoken(messages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Messages in which results of tools, all those in a row together, are the user's."""
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        if results:
            yield {"role": "user", "content": "\n".join(results)}
            results = []
        yield message
    if results:
        yield {"role": "user", "content": "\n".join(results)}
