"""The main job: a server, a robot on its tour and people who ask it things; with rqt:=true, the SLO monitor beside them."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def robot(label):
    options = {
        "--rate": LaunchConfiguration("rate"),
        "--limit": LaunchConfiguration("limit"),
        "--seed": LaunchConfiguration("seed"),
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
        "rate": ("0.75", "questions per second, of voice and of Q&A each"),
        "limit": ("40", "the robot gives its tour up after that, s"),
        "seed": ("0", "of the rooms and of what people ask"),
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
            *(robot(label) for label in ("control", "voice", "qa")),
            rqt,
        ]
    )
