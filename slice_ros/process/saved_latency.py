"""Step times measured before: one file for each combination of model, device and context, so that only a first start has to measure."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import llama_cpp

from slice_ros.engines.calibration import measure_latency
from slice_ros.engines.llama import LlamaConfig
from slice_ros.engines.llama.loading import gpu_device
from slice_ros.engines.llama.parts import TILE
from slice_ros.latency.model import LatencyError, LatencyModel
from slice_ros.paths import cache_dir, replacing
from slice_ros.scheduling.engine import Engine, EngineInfo

DIGESTED_BYTES = 2**20
"""A model file's size and so much of its beginning, its metadata, stand for the model."""

_logger = logging.getLogger(__name__)


def saved_or_measured(engine: Engine, config: LlamaConfig, max_batch: int) -> LatencyModel:
    """Step times of an idle engine: those saved, else measured now, and saved for the next start.

    Args:
        engine: made of ``config``; no goal is open in it.
        max_batch: as in ``measure_latency``.

    Raises:
        EngineError: the engine broke.
    """
    path = saved_path(engine.info, config, max_batch)
    if path.exists():
        try:
            return replace(LatencyModel.profile(str(path)), device=f"{engine.info.model} on {engine.info.device}")
        except LatencyError as error:
            _logger.warning("%s; step times are measured again", error)
    latency = measure_latency(engine, max_batch=max_batch)
    try:
        save(path, latency)
    except OSError as error:
        _logger.warning("the measured step times cannot be saved (%s); the next start measures them again", error)
    return latency


def saved_path(info: EngineInfo, config: LlamaConfig, max_batch: int) -> Path:
    """Where step times of such an engine are kept: under another name for whatever makes steps faster or slower."""
    model = Path(config.model_path).expanduser()
    with model.open("rb") as file:
        header = hashlib.sha256(file.read(DIGESTED_BYTES)).hexdigest()
    what = (
        *(llama_cpp.__version__, llama_cpp.llama_print_system_info().decode("utf-8", "replace")),
        *(model.stat().st_size, header),
        *(info.device, info.context_tokens, info.max_step_tokens, min(max_batch, info.max_sequences)),
        *(config.n_gpu_layers, config.main_gpu, config.tensor_split, config.cuda_graphs, config.rpc_servers),
        *(config.flash_attn, config.type_k, config.type_v, config.swa_full, TILE if gpu_device(config) is None else 0),
    )
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return cache_dir() / "latency" / f"{model.stem}-{digest}.yaml"


def save(path: Path, latency: LatencyModel, description: str = "") -> None:
    """Write step times where ``saved_or_measured`` finds them.

    Raises:
        OSError: the folder cannot be written to.
    """
    with replacing(path) as unfinished:
        unfinished.write_text(latency.to_yaml(description), encoding="utf-8")
