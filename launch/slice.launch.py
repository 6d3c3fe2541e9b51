"""Starts the server: ros2 launch slice_ros slice.launch.py model:=/path/x.gguf n_gpu_layers:=-1 (arguments: --show-args)."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# Launch argument: (parameter, type, description). An empty argument leaves the parameter to params_file.
ARGUMENTS = {
    "model": ("model.path", str, "GGUF file; empty = the small model that comes with this package"),
    "n_gpu_layers": ("gpu.n_gpu_layers", int, "layers on the GPU; -1 = all"),
    "n_ctx": ("context.n_ctx", int, "KV cells that all goals share, in tokens"),
    "n_threads": ("cpu.n_threads", int, "threads of one step; 0 = physical cores"),
    "engine": ("engine.kind", str, "llama, paced or simulated"),
    "device_profile": ("engine.device_profile", str, "step times: a name in config/devices or a YAML file"),
    "policy": ("scheduler.policy", str, "who takes part in the coming steps"),
    "max_batch": ("scheduler.max_batch", int, "goals in one step at most"),
    "admission": ("scheduler.admission", str, "always or strict"),
    "autostart": ("lifecycle.autostart", lambda text: text.lower() in ("true", "1"), "configure and activate at start: true or false"),
}


def start_server(context):
    def value(name):
        return LaunchConfiguration(name).perform(context)

    overrides = {parameter: kind(value(name)) for name, (parameter, kind, _) in ARGUMENTS.items() if value(name)}
    remappings = [tuple(rule.split(":=", 1)) for rule in value("remap").split()]
    if any(len(rule) != 2 for rule in remappings):
        raise ValueError(f"remap is {value('remap')!r}; it must be FROM:=TO, several divided by spaces")
    shared = {
        "package": "slice_ros",
        "namespace": value("namespace"),
        "remappings": remappings,
        "respawn": value("respawn").lower() in ("true", "1"),
        "respawn_delay": 2.0,
        "output": "screen",
        "emulate_tty": True,
    }
    # A node that is not a launch_ros LifecycleNode: with autostart it manages itself, else a lifecycle manager does.
    nodes = [Node(executable="slice_server", name=value("name"), parameters=[value("params_file"), overrides], **shared)]
    if value("gateway").lower() in ("true", "1"):
        namespace = value("namespace").strip("/")
        server = f"/{namespace}/{value('name')}" if namespace else f"/{value('name')}"
        nodes.append(
            Node(executable="gateway", name="slice_gateway", arguments=["--server", server, "--port", value("gateway_port")], **shared)
        )
    return nodes


def generate_launch_description():
    share = Path(get_package_share_directory("slice_ros"))
    return LaunchDescription(
        [
            DeclareLaunchArgument("name", default_value="slice_server", description="node name"),
            DeclareLaunchArgument("namespace", default_value="", description="node namespace"),
            DeclareLaunchArgument("params_file", default_value=str(share / "config" / "slice.yaml"), description="YAML file of parameters"),
            DeclareLaunchArgument("remap", default_value="", description="names to change, as in 'FROM:=TO FROM:=TO'"),
            DeclareLaunchArgument("gateway", default_value="false", description="serve OpenAI's HTTP interface, too: true or false"),
            DeclareLaunchArgument("gateway_port", default_value="8080", description="where, on this machine alone"),
            DeclareLaunchArgument("respawn", default_value="false", description="start the node again when it ends: true or false"),
            *(
                DeclareLaunchArgument(name, default_value="", description=f"{description} (parameter {parameter})")
                for name, (parameter, _, description) in ARGUMENTS.items()
            ),
            OpaqueFunction(function=start_server),
        ]
    )
