"""What a GGUF file says of its model, without loading the weights."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from slice_ros.engines.llama.log import log, reason
from slice_ros.engines.llama.reasoning import marks_of
from slice_ros.engines.llama.tools.formats import format_of
from slice_ros.engines.llama.vocabulary import Vocabulary
from slice_ros.scheduling.engine import EngineError


@dataclass(frozen=True, slots=True)
class Facts:
    """What is to be known of a model before it is served.

    Args:
        architecture: as llama.cpp names it.
        size: bytes of the file.
        context: tokens that it was trained with.
        template: whether it has a chat template.
        tools: how it writes calls of tools, if its template tells it of them; empty = it is told in the system message.
        reasons: whether its template speaks of reasoning before the answer.
        memory: how it remembers tokens.
        unfit: why it cannot be served; empty where it can.
    """

    architecture: str
    size: int
    context: int
    template: bool
    tools: str
    reasons: bool
    memory: str
    unfit: str


def facts(path: Path) -> Facts:
    """Read a file's metadata and vocabulary.

    Raises:
        EngineError: it is no model that llama.cpp can read.
    """
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    llama_cpp.llama_backend_init()
    with log.collect_errors(quiet=True) as errors:
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise EngineError(f"{path} cannot be read: {reason(errors)}")
    try:
        own = llama_cpp.llama_model_chat_template(model, None)
        template = own.decode("utf-8", "replace") if own else ""
        architecture = value(model, "general.architecture")
        form = format_of(template, Vocabulary(model).control)
        return Facts(
            architecture,
            path.stat().st_size,
            int(value(model, f"{architecture}.context_length") or 0),
            bool(own),
            form.name if form is not None else "",
            marks_of(template) is not None,
            _memory(model, architecture),
            why_unfit(model),
        )
    finally:
        llama_cpp.llama_model_free(model)


def why_unfit(model: Any) -> str:
    """Why a model cannot write text token by token; empty if it can."""
    architecture = value(model, "general.architecture")
    if llama_cpp.llama_model_is_diffusion(model):
        return "is a diffusion model, which does not write token by token"
    if value(model, f"{architecture}.attention.causal") == "false" or int(value(model, f"{architecture}.pooling_type") or 0) > 0:
        return "makes embeddings and no text"
    if not llama_cpp.llama_model_has_decoder(model) or llama_cpp.llama_model_has_encoder(model):
        return "has an encoder, and is not a text generation model"
    return ""


def value(model: Any, key: str) -> str:
    """An entry of a model's metadata as text; empty = there is none."""
    buffer = ctypes.create_string_buffer(256)
    length = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if length >= 0 else ""


def _memory(model: Any, architecture: str) -> str:
    if llama_cpp.llama_model_is_recurrent(model):
        return "recurrent"
    if llama_cpp.llama_model_is_hybrid(model):
        return "hybrid"
    window = value(model, f"{architecture}.attention.sliding_window")
    return f"window of {window}" if window.isdigit() and int(window) else "all tokens"
