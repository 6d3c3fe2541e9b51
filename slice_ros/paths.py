"""Where the package's interface and configuration files lie, and what it makes for itself."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def share_dir() -> Path:
    """The directory that holds ``msg/``, ``action/``, ``srv/`` and ``config/``.

    In this order: the root of a source checkout, the share of the package as ROS 2 installed it, that of an installed wheel.

    Raises:
        FileNotFoundError: none of them holds the interface files; the sentence names the places looked at.
    """
    candidates = [PACKAGE.parent, *_ament_share(), Path(sys.prefix) / "share" / "slice_ros"]
    for candidate in candidates:
        if (candidate / "action" / "Generate.action").is_file():
            return candidate
    raise FileNotFoundError(f"action/Generate.action is in none of {', '.join(map(str, candidates))}; install slice_ros again")


def _ament_share() -> list[Path]:
    try:
        from ament_index_python.packages import get_package_share_directory
    except ImportError:
        return []
    try:
        return [Path(get_package_share_directory("slice_ros"))]
    except (LookupError, OSError):  # the package is not built with the ROS 2 that is here, or it has no AMENT_PREFIX_PATH, as from wheels
        return []


def cache_dir() -> Path:
    """Where this package keeps what it made: models, measured step times. All of it can be made again."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "slice_ros"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when all went well; several processes may do so at once.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
        unfinished.chmod(0o644)  # mkstemp gives 0600
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
