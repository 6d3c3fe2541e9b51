"""Engines compute steps: ``llama`` for real, ``simulated`` on a virtual clock, ``paced`` real tokens at another device's speed."""

from slice_ros.scheduling.engine import Engine, EngineError, EngineInfo, KvFullError, KvUse, Output

__all__ = ["Engine", "EngineError", "EngineInfo", "KvFullError", "KvUse", "Output"]
