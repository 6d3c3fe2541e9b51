"""Qt, whichever binding is there: rqt's own under rqt, else PySide6, PyQt6 or PyQt5. Enums are written in full, which all understand."""

from __future__ import annotations

import importlib
import sys
from typing import Any

BINDINGS = ("PySide6", "PyQt6", "PyQt5")


def _load() -> tuple[Any, Any, Any]:
    for name in ("python_qt_binding",) * ("python_qt_binding" in sys.modules) + BINDINGS:
        try:
            core, gui, widgets = (importlib.import_module(f"{name}.{part}") for part in ("QtCore", "QtGui", "QtWidgets"))
        except ImportError:
            continue
        return core, gui, widgets
    raise ImportError("no Qt for Python is installed; install it with: pip install 'slice_ros[monitor]'")


QtCore, QtGui, QtWidgets = _load()
