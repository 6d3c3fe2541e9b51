"""Two robots, each with a server and people of its own, in namespaces /robot1 and /robot2."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration


def generate_launch_description():
    demo = str(Path(get_package_share_directory("slice_ros")) / "launch" / "demo.launch.py")
    arguments = {
        "rate": ("0.2", "questions per second to each robot, of voice and of Q&A each"),
        "limit": ("40", "a robot gives its tour up after that, s"),
        "engine": ("paced", "llama, paced or simulated"),
    }
    robots = [
        # A group of its own: one robot's namespace must not become the other's.
        GroupAction(
            [
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(demo),
                    launch_arguments=[("namespace", namespace), *((name, LaunchConfiguration(name)) for name in arguments)],
                )
            ]
        )
        for namespace in ("/robot1", "/robot2")
    ]
    return LaunchDescription(
        [*(DeclareLaunchArgument(name, default_value=value, description=text) for name, (value, text) in arguments.items()), *robots]
    )
