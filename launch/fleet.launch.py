"""Several servers, and a dispatcher in front of them under a server's usual name, so that clients need no change:
ros2 launch slice_ros fleet.launch.py servers:='orin=/profiles/orin.yaml workstation=' (arguments: --show-args)."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

ARGUMENTS = {
    "servers": (
        "onboard=rtx4060ti-chatglm2-6b-int4-smooth workstation=h200-chatglm2-6b-q4_0",
        "NAME=DEVICE_PROFILE of each server that is started here, divided by spaces; an empty profile is measured; empty = none",
    ),
    "members": ("", "servers that goals go to, as in /orin/slice_server,/workstation/slice_server; empty = all that are found"),
    "name": ("slice_server", "node name of the dispatcher"),
    "namespace": ("", "its namespace"),
    "policy": ("deadline", "where goals go: deadline, round-robin, least-loaded or best-device-first"),
    "admission": ("always", "always or strict"),
    "engine": ("paced", "of the servers: llama, paced or simulated"),
    "model": ("", "GGUF file of the servers; empty = the small model that comes with this package"),
}


def start(context):
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    params_file = str(Path(get_package_share_directory("slice_ros")) / "config" / "slice.yaml")
    common = {"package": "slice_ros", "output": "screen", "emulate_tty": True}
    nodes = []
    for server in value["servers"].split():
        name, _, profile = server.partition("=")
        overrides = {"engine.kind": value["engine"]}
        overrides |= {"engine.device_profile": profile} if profile else {}
        overrides |= {"model.path": value["model"]} if value["model"] else {}
        nodes.append(
            Node(executable="slice_server", name="slice_server", namespace=f"/{name}", parameters=[params_file, overrides], **common)
        )
    dispatch = {"scheduler.policy": value["policy"], "scheduler.admission": value["admission"], "dispatch.members": value["members"]}
    nodes.append(Node(executable="slice_dispatcher", name=value["name"], namespace=value["namespace"], parameters=[dispatch], **common))
    return nodes


def generate_launch_description():
    declared = [DeclareLaunchArgument(name, default_value=default, description=text) for name, (default, text) in ARGUMENTS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
