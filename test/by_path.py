"""Imports files that belong to no package: benchmarks and examples."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def module_at(path: str) -> ModuleType:
    """The module of a file beside ``test``; where it is not there, as in an installed package, the test is skipped."""
    file = ROOT / path
    if not file.is_file():
        pytest.skip(f"{path} is not here", allow_module_level=True)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
