"""How a prompt reaches the model: as it stands, or as a user's message in ChatML."""

from __future__ import annotations

END = "<|im_end|>"
"""Ends every answer."""


def wrap(prompt: str, *, chat: bool) -> str:
    """The text that the engine makes of a goal's ``prompt``, or of one user message."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n" if chat else prompt
