"""Loads the GGUF files named on standard input and says of each what came of it; llama.cpp may end this process."""

from __future__ import annotations

import sys

from slice_ros.engines.llama.config import LlamaConfig
from slice_ros.engines.llama.engine import LlamaEngine
from slice_ros.parameters.table import check_all
from slice_ros.scheduling.engine import EngineError


def main() -> None:
    for line in sys.stdin:
        parameters = check_all({"model.path": line.strip(), "context.n_ctx": 64, "context.n_seq_max": 1, "cpu.n_threads": 1})
        try:
            LlamaEngine(LlamaConfig.from_parameters(parameters)).shutdown()
            said = "loaded"
        except EngineError as error:
            said = f"refused: {error}"
        print(ascii(said)[1:-1], flush=True)  # noqa: T201 - one line, whatever the file had llama.cpp say


if __name__ == "__main__":
    main()
