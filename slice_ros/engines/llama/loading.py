"""A GGUF file to a model and a context."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import struct
from pathlib import Path
from typing import Any

import llama_cpp

from slice_ros.engines.llama.adapters import load_adapter
from slice_ros.engines.llama.catalogue import why_unfit
from slice_ros.engines.llama.config import KV_TYPES, LlamaConfig
from slice_ros.engines.llama.log import log, reason
from slice_ros.engines.llama.rpc import add_servers
from slice_ros.scheduling.engine import EngineError

_logger = logging.getLogger(__name__)

NO_CUDA_GRAPHS = "GGML_CUDA_DISABLE_GRAPHS"
"""Environment variable that llama.cpp looks at when it first computes on a GPU; any value turns graphs off."""


def load(config: LlamaConfig) -> tuple[Any, dict[str, Any], Any]:
    """Model, its adapters by name, and context.

    Raises:
        EngineError: one of them cannot be made.
    """
    path = _gguf(config.model_path)
    if not config.cuda_graphs:
        os.environ.setdefault(NO_CUDA_GRAPHS, "1")
    llama_cpp.llama_backend_init()
    add_servers(config.rpc_servers)
    with log.collect_errors() as errors:
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), model_params(config))
    if not model:
        raise EngineError(f"{path} cannot be loaded: {reason(errors)}; get the file again, or take a model that this llama.cpp knows")
    if why := why_unfit(model):
        llama_cpp.llama_model_free(model)
        raise EngineError(f"{path} {why}; take a model that generates text")
    try:
        adapters = {name: load_adapter(model, name, _gguf(file)) for name, file in config.adapters}
    except EngineError:
        llama_cpp.llama_model_free(model)
        raise
    with log.collect_errors() as errors:
        context = llama_cpp.llama_init_from_model(model, _context_params(config))
    if not context:
        llama_cpp.llama_model_free(model)
        raise EngineError(f"no context of n_ctx = {config.n_ctx} can be made for {path}: {reason(errors)}; lower n_ctx, or free memory")
    return model, adapters, context


def _gguf(file: str | Path) -> Path:
    """The path of a GGUF file; what is none is refused with a sentence that says more than llama.cpp's."""
    path = Path(file).expanduser()
    try:
        with path.open("rb") as opened:
            head = opened.read(8)
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error.strerror}); give the path of a GGUF file") from error
    if len(head) < 8 or head[:4] != b"GGUF":
        start = f"it starts with {head[:4]!r}" if head else "it is empty"
        raise EngineError(f"{path} is not a GGUF file ({start}); give the path of a GGUF file")
    version = struct.unpack("<I", head[4:])[0]
    if version not in (2, 3):
        raise EngineError(f"{path} is GGUF version {version}; versions 2 and 3 can be read, convert the model again")
    return path


def model_params(config: LlamaConfig) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = config.n_gpu_layers
    params.main_gpu = config.main_gpu
    if config.main_gpu and not config.tensor_split:
        params.split_mode = llama_cpp.LLAMA_SPLIT_MODE_NONE  # it counts in no other
    if config.tensor_split:
        params.tensor_split = (ctypes.c_float * llama_cpp.llama_max_devices())(*config.tensor_split)
    if config.use_mmap:
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK if config.use_mlock else llama_cpp.LLAMA_LOAD_MODE_MMAP
    else:
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MLOCK if config.use_mlock else llama_cpp.LLAMA_LOAD_MODE_NONE
    if has_amx():
        _logger.warning(
            "this llama.cpp was built with AMX kernels, which crash on quantised models; they are off, and with them the other fast "
            "kernels: scripts/install.sh builds one without AMX"
        )
        params.use_extra_bufts = False
    return params


def has_amx() -> bool:
    """Whether llama.cpp may compute with AMX, whose kernels end the process at the first step of a Q4_0 model."""
    return re.search(rb"AMX\w* = 1", llama_cpp.llama_print_system_info()) is not None


def _context_params(config: LlamaConfig) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = config.n_ctx
    params.n_batch = params.n_ubatch = config.n_batch  # a step is computed as a whole
    params.n_seq_max = config.n_seq_max + 1  # one is the host cache's
    params.n_threads = params.n_threads_batch = config.n_threads or physical_cores()
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO if config.flash_attn else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.type_k, params.type_v = KV_TYPES[config.type_k], KV_TYPES[config.type_v]
    params.kv_unified = True  # one pool of cells, so that a long sequence can take what short ones leave
    params.swa_full = config.swa_full
    params.no_perf = True
    return params


def physical_cores() -> int:
    """Physical cores this process may use, after CPU affinity and the control group's quota."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 1) // 2)
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    try:
        group = Path("/proc/self/cgroup").read_text().partition("::")[2].strip()
        quota, period = Path(f"/sys/fs/cgroup{group}/cpu.max").read_text().split()
        return max(1, min(len(cores), int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return len(cores)


def gpu_device(config: LlamaConfig) -> int | None:
    """Where ggml has the GPU that layers of the model are on, one of its own or one that shares the CPU's memory; ``None``: on none."""
    return (_device(1) or _device(2)) if config.n_gpu_layers else None


def is_on_cpu(config: LlamaConfig, model: Any) -> bool:
    """Whether a CPU computes any of the model's layers; the last of those on a GPU is the one that tells the next token."""
    if config.rpc_servers:
        return False
    return gpu_device(config) is None or 0 <= config.n_gpu_layers <= llama_cpp.llama_model_n_layer(model)


def weights_a_head(model: Any) -> float:
    """How many of a model's weights there are for each head of each of its layers."""
    heads: int = llama_cpp.llama_model_n_layer(model) * max(1, llama_cpp.llama_model_n_head(model))
    return float(llama_cpp.llama_model_n_params(model)) / heads


def _device(kind: int) -> int | None:
    """Where ggml has its first device of a kind: 0 is a CPU, 1 a GPU, 2 one that shares the CPU's memory."""
    by_type = llama_cpp.llama_cpp._lib.ggml_backend_dev_by_type
    by_type.restype = ctypes.c_void_p
    address: int | None = by_type(kind)
    return address


def device_name(config: LlamaConfig) -> str:
    """What computes, as ggml describes it."""
    description = llama_cpp.llama_cpp._lib.ggml_backend_dev_description
    description.argtypes, description.restype = [ctypes.c_void_p], ctypes.c_char_p
    gpu = gpu_device(config)
    name = description(gpu or _device(0)) or b"CPU"
    return str(name.decode("utf-8", "replace").strip()) + ("" if gpu else f", {config.n_threads or physical_cores()} threads")
