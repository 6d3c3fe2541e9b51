"""Where the package's interface and configuration files lie."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def share_dir() -> Path:
    """The directory that holds ``msg/``, ``action/``, ``srv/`` and ``config/``.

    In this order: the share of the package as ROS 2 installed it, ``slice_ros/share`` of an installed wheel, the root of a source checkout.

    Raises:
        FileNotFoundError: none of them holds the interface files; the sentence names the places looked at.
    """
    candidates = [*_ament_share(), PACKAGE / "share", PACKAGE.parent]
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
    except LookupError:  # PackageNotFoundError: ROS 2 is here, the package was not built with it
        return []
