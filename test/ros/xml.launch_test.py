"""slice.launch.xml for real: what is not given as an argument stays as the robot's params_file has it."""

import tempfile
import unittest
from pathlib import Path

import launch_testing
import launch_testing.actions
import launch_testing.asserts
import launch_testing.markers
import pytest
import rclpy
from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
from rcl_interfaces.srv import GetParameters


@pytest.mark.launch_test
@launch_testing.markers.keep_alive
def generate_test_description():
    launch_file = Path(get_package_share_directory("slice_ros")) / "launch" / "slice.launch.xml"
    robot = Path(tempfile.mkdtemp()) / "robot.yaml"
    robot.write_text(
        "/**:\n  ros__parameters:\n    engine: {kind: simulated}\n    model: {path: /robot.gguf}\n    scheduler: {policy: fastserve}\n"
    )
    arguments = {"name": "llm", "params_file": str(robot), "policy": "orca"}
    server = IncludeLaunchDescription(AnyLaunchDescriptionSource(str(launch_file)), launch_arguments=arguments.items())
    return LaunchDescription([server, launch_testing.actions.ReadyToTest()])


class TestParameters(unittest.TestCase):
    def test_only_what_is_given_replaces_the_file(self):
        rclpy.init()
        node = rclpy.create_node("test")
        try:
            client = node.create_client(GetParameters, "/llm/get_parameters")
            self.assertTrue(client.wait_for_service(timeout_sec=60.0))
            future = client.call_async(GetParameters.Request(names=["model.path", "engine.kind", "scheduler.policy"]))
            rclpy.spin_until_future_complete(node, future, timeout_sec=60.0)
            self.assertEqual([value.string_value for value in future.result().values], ["/robot.gguf", "simulated", "orca"])
        finally:
            node.destroy_node()
            rclpy.shutdown()


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    def test_exit_status(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
