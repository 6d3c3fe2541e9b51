"""Model and context, as the server's parameters give them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from slice_ros.engines.llama.finding import find
from slice_ros.parameters.table import Value
from slice_ros.scheduling.engine import EngineError

KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "q4_0": 2}
"""Types of KV cells, with ggml's numbers."""


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Model and context, named as llama.cpp names them.

    Args:
        model_path: a GGUF file.
        chat_template: instead of the model's own, a family's or one in a file; empty is its own.
        n_ctx: KV cells, shared by all sequences.
        n_batch: tokens in one step at most.
        n_seq_max: sequences that can hold KV at once.
        prefix_cache: KV cells that may hold what no goal in hand needs, so that the same beginning is not computed again; 0 is off.
        checkpoint_tokens: of recurrent and hybrid models, a copy of a prompt's state is kept after so many of its tokens, as far as there
            are sequences that no goal holds; 0 is off.
        swa_full: let layers with a sliding window keep all of the context, so that more of a prompt can be shared.
        host_cache_mib: host memory for the KV of evicted goals, MiB; 0 is off.
        n_threads: threads that compute; 0 takes the physical cores this process may use.
        n_gpu_layers: layers on the GPU, where llama.cpp was built for one; negative is all.
        main_gpu: index of the GPU that computes all of the model; 0 spreads it over all GPUs, as does ``tensor_split``.
        tensor_split: share of the model for each GPU; empty splits by free memory.
        cuda_graphs: let llama.cpp record the kernels of steps as CUDA graphs, which some of its releases crash with.
        rpc_servers: ``host:port`` of computers whose devices take a share of the model, too, where llama.cpp was built with RPC.
        adapters: LoRA adapters, each a name and a GGUF file.
        flash_attn: let llama.cpp use flash attention where the device has it.
        type_k: type of the keys in KV cells, one of ``KV_TYPES``.
        type_v: type of the values; a quantised one needs flash attention.
        use_mmap: map the file instead of reading it.
        use_mlock: keep the model from being swapped out.

    Raises:
        EngineError: a value is out of range.
    """

    model_path: str | Path
    n_ctx: int = 8192
    n_batch: int = 512
    n_seq_max: int = 64
    prefix_cache: int = 2048
    checkpoint_tokens: int = 128
    swa_full: bool = True
    host_cache_mib: int = 256
    n_threads: int = 0
    n_gpu_layers: int = -1
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    cuda_graphs: bool = False
    rpc_servers: tuple[str, ...] = ()
    adapters: tuple[tuple[str, str], ...] = ()
    chat_template: str = ""
    flash_attn: bool = True
    type_k: str = "f16"
    type_v: str = "f16"
    use_mmap: bool = True
    use_mlock: bool = False

    def __post_init__(self) -> None:
        ranges = {
            "n_ctx": (1, 2**31 - 1),
            "n_batch": (1, 2**16),
            "n_seq_max": (1, 255),
            "prefix_cache": (0, 2**31 - 1),
            "checkpoint_tokens": (0, 2**31 - 1),
            "host_cache_mib": (0, 2**31 - 1),
            "n_threads": (0, 512),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise EngineError(f"{name} is {value}; it must be in {least}..{most}")
        for name in ("type_k", "type_v"):
            if getattr(self, name) not in KV_TYPES:
                raise EngineError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(KV_TYPES)}")
        if len(self.tensor_split) > llama_cpp.llama_max_devices():
            raise EngineError(f"tensor_split has {len(self.tensor_split)} values; llama.cpp knows {llama_cpp.llama_max_devices()} devices")

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Value]) -> LlamaConfig:
        """The server's parameters ``model.*``, ``context.*``, ``gpu.*`` and ``cpu.*``; a model may have a name.

        Raises:
            EngineError: a value is out of range, or there is no such model.
        """
        groups = {"context", "gpu", "cpu"}
        values: dict[str, Any] = {}
        for name, value in parameters.items():
            group, _, key = name.partition(".")
            if group in groups:
                values[key] = value
        values["tensor_split"] = _shares(values["tensor_split"])
        values["rpc_servers"] = _servers(values["rpc_servers"])
        values["chat_template"] = str(parameters["model.chat_template"])
        values["adapters"] = _adapters(str(parameters["model.adapters"]))
        return cls(find(str(parameters["model.path"])), **values)


def _shares(text: str) -> tuple[float, ...]:
    """Numbers of a list like ``0.6,0.4``."""
    try:
        shares = tuple(float(number) for number in text.split(",")) if text.strip() else ()
    except ValueError:
        shares = (math.nan,)
    if not all(math.isfinite(share) and share >= 0.0 for share in shares):
        raise EngineError(f"tensor_split is {text!r}; it must be numbers of 0 or more, as in '0.6,0.4', or empty")
    return shares


def _servers(text: str) -> tuple[str, ...]:
    """Addresses of a list like ``10.0.0.2:50052,10.0.0.3:50052``."""
    servers = tuple(part.strip() for part in text.split(",")) if text.strip() else ()
    if not all(re.fullmatch(r"[^\s:]+:[0-9]{1,5}", server) for server in servers):
        raise EngineError(f"rpc_servers is {text!r}; it must be addresses as in '10.0.0.2:50052,10.0.0.3:50052', or empty")
    return servers


def _adapters(text: str) -> tuple[tuple[str, str], ...]:
    """Names and files of a list like ``polite=/models/polite.gguf,terse=/models/terse.gguf``."""
    pairs = tuple((name.strip(), file.strip()) for name, _, file in (part.partition("=") for part in text.split(",") if text.strip()))
    if not all(name and file for name, file in pairs) or len(dict(pairs)) < len(pairs):
        raise EngineError(f"adapters is {text!r}; it must be different names with files, as in 'polite=/models/polite.gguf', or empty")
    return pairs
