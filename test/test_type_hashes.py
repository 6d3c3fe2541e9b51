"""Type hashes (RIHS01): those of the layer over Cyclone DDS are rosidl's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from slice_ros.paths import share_dir

messages = pytest.importorskip("slice_ros.rclpy_dds.messages", reason="no Cyclone DDS or no rosbags", exc_type=ImportError)

GOLDEN = Path(__file__).with_name("type_hashes.json")
"""What rosidl's own generator says of Jazzy's interfaces."""


@pytest.fixture(scope="module", autouse=True)
def own_interfaces():
    messages.register("slice_ros", share_dir())


def hash_of(typename: str) -> str | None:
    """``None`` where the layer does not know the type."""
    try:
        if "/srv/" in typename:
            messages.service(typename.removesuffix("_Request").removesuffix("_Response"))
        messages.message(typename)
    except LookupError:
        return None
    return str(messages.type_hash(typename))


def test_standard_types_have_the_hashes_that_ros_2_gives_them():
    golden = json.loads(GOLDEN.read_text())
    assert {typename: hash_of(typename) for typename in golden} == golden


def installed_hashes() -> dict[str, str]:
    """Of the interfaces in the sourced ROS 2 workspaces."""
    hashes: dict[str, str] = {}
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        for kind in ("msg", "srv", "action"):
            for path in Path(prefix).glob(f"share/*/{kind}/*.json"):
                hashes |= {found["type_name"]: found["hash_string"] for found in json.loads(path.read_text())["type_hashes"]}
    return hashes


@pytest.mark.skipif(not installed_hashes(), reason="no ROS 2 of Iron or later is sourced here")
def test_every_type_that_both_know_has_the_hash_of_the_installation():
    installed = installed_hashes()
    ours = {typename: digest for typename in installed if (digest := hash_of(typename)) is not None}
    assert any(typename.startswith("slice_ros/") for typename in ours)
    assert ours == {typename: installed[typename] for typename in ours}
