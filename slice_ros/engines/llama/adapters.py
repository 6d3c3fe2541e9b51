"""LoRA adapters: small changes to a model's weights, one of which a step is computed with, or none."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp

from slice_ros.engines.llama.log import log, reason
from slice_ros.goal import ErrorCode, GoalError
from slice_ros.scheduling.engine import EngineError


def load_adapter(model: Any, name: str, path: Path) -> Any:
    """An adapter of a model; it lives as long as the model, and must be loaded before there is a context.

    Raises:
        EngineError: it is none, or one for another model.
    """
    with log.collect_errors(quiet=True) as errors:  # it warns of every tensor whose base weights are repacked, which does no harm
        adapter = llama_cpp.llama_adapter_lora_init(model, os.fsencode(path))
    if not adapter:
        raise EngineError(f"{path} cannot be loaded as LoRA adapter {name!r}: {reason(errors)}; give a GGUF adapter made for this model")
    return adapter


class Adapters:
    """The adapters of a context, numbered from 1; 0 is the model as it is.

    Args:
        context: llama.cpp's context.
        loaded: the adapters by name.
    """

    def __init__(self, context: Any, loaded: Mapping[str, Any]) -> None:
        self._context = context
        self._names = ["", *loaded]
        self._loaded = list(loaded.values())
        self._used = 0

    def number(self, name: str) -> int:
        """The number of the adapter of that name; empty is none.

        Raises:
            GoalError: INVALID_GOAL, there is no such adapter.
        """
        if name not in self._names:
            there_are = ", ".join(self._names[1:]) or "none (parameter model.adapters)"
            raise GoalError(ErrorCode.INVALID_GOAL, f"adapter is {name!r}; this server has: {there_are}")
        return self._names.index(name)

    def use(self, number: int) -> None:
        """Compute the coming steps with that adapter.

        Raises:
            EngineError: llama.cpp cannot.
        """
        if number == self._used:
            return
        chosen = self._loaded[number - 1 : number] if number else []
        pointers = (llama_cpp.llama_adapter_lora_p_ctypes * len(chosen))(*chosen)
        scales = (ctypes.c_float * len(chosen))(*[1.0] * len(chosen))
        if llama_cpp.llama_set_adapters_lora(self._context, pointers, len(chosen), scales) != 0:
            raise EngineError(f"llama.cpp cannot use the LoRA adapter {self._names[number]!r}, the log says why; restart the engine")
        self._used = number
