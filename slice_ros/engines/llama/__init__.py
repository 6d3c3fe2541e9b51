"""The engine on llama.cpp's low-level API."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Set before any module of this package loads llama.cpp.
# Its threads meet several times in each layer. By default they spin for a millisecond and more at each meeting, so that one busy
# program beside them makes steps ten to a hundred times longer. 1000 turns are enough on a quiet machine. OpenMP reads this on loading.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# When llama.cpp aborts, it prints where. Without this it would have gdb print the stack, too, while clients wait for the news.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

if TYPE_CHECKING:
    from slice_ros.engines.llama.config import LlamaConfig
    from slice_ros.engines.llama.engine import LlamaEngine
else:
    _HOMES = {"LlamaConfig": "config", "LlamaEngine": "engine"}

    def __getattr__(name: str) -> Any:
        """Loaded when they are asked for: the shapes of models are known without llama.cpp, too, as where one is trained."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = ["LlamaConfig", "LlamaEngine"]
