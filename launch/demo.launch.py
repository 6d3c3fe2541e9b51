"""The main job: a server and three robot nodes that share it, for some seconds; with rqt:=true, the SLO monitor beside them."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node

# Share of the goals that each robot sends, as in the workload robot-mix.
SHARES = {"control": 0.7, "voice": 0.15, "qa": 0.15}


def robot(label, share):
    options = {
        "--rate": PythonExpression([LaunchConfiguration("rate"), f" * {share}"]),
        "--duration": LaunchConfiguration("duration"),
        "--server": [LaunchConfiguration("namespace"), "/slice_server"],
    }
    return Node(
        package="slice_ros",
        executable="robot",
        arguments=[label, *(part for option in options.items() for part in option)],
        namespace=LaunchConfiguration("namespace"),
        output="screen",
    )


def generate_launch_description():
    share = Path(get_package_share_directory("slice_ros"))
    arguments = {
        "rate": ("2.0", "goals per second, all robots together"),
        "duration": ("30", "how long the robots send goals, s"),
        "namespace": ("", "of all nodes; begins with a slash, as in /robot1"),
        "engine": ("paced", "llama, paced or simulated"),
        "policy": ("slack", "who takes part in the coming steps"),
        "n_threads": ("1", "threads of one step; 0 = physical cores"),
        "rqt": ("false", "open rqt with the SLO monitor"),
    }
    server = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / "launch" / "slice.launch.py")),
        launch_arguments=[(name, LaunchConfiguration(name)) for name in ("namespace", "engine", "policy", "n_threads")],
    )
    rqt = ExecuteProcess(
        cmd=["rqt", "--standalone", "slice_ros.monitor.rqt.SloMonitorPlugin"], condition=IfCondition(LaunchConfiguration("rqt"))
    )
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=value, description=text) for name, (value, text) in arguments.items()),
            server,
            *(robot(label, part) for label, part in SHARES.items()),
            rqt,
        ]
    )
