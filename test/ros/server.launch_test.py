"""slice.launch.py for real: the server comes up under its name, is driven as a managed node, serves a goal, and ends cleanly."""

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
from launch.launch_description_sources import PythonLaunchDescriptionSource
from lifecycle_msgs.srv import ChangeState, GetState

from slice_ros.client import GoalFailed, SliceClient
from slice_ros.slo import RealTime


@pytest.mark.launch_test
@launch_testing.markers.keep_alive
def generate_test_description():
    launch_file = Path(get_package_share_directory("slice_ros")) / "launch" / "slice.launch.py"
    arguments = {"name": "llm", "namespace": "arm", "engine": "simulated", "autostart": "false", "max_batch": "4"}
    server = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(launch_file)), launch_arguments=arguments.items())
    return LaunchDescription([server, launch_testing.actions.ReadyToTest()])


class TestServer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        rclpy.init()
        cls.node = rclpy.create_node("test")
        cls.client = SliceClient(cls.node, "/arm/llm")

    @classmethod
    def tearDownClass(cls):
        cls.client.destroy()
        cls.node.destroy_node()
        rclpy.shutdown()

    def call(self, kind, name, **fields):
        client = self.node.create_client(kind, name)
        self.assertTrue(client.wait_for_service(timeout_sec=60.0))
        future = client.call_async(kind.Request(**fields))
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=60.0)
        return future.result()

    def change(self, label):
        request = ChangeState.Request()
        request.transition.label = label
        return self.call(ChangeState, "/arm/llm/change_state", transition=request.transition).success

    def test_a_life(self):
        self.assertEqual(self.call(GetState, "/arm/llm/get_state").current_state.label, "unconfigured")
        self.assertTrue(self.change("configure"))
        self.client.wait_for_server(60.0)
        with self.assertRaises(GoalFailed):
            self.client.generate_sync("too early", timeout_s=20.0)
        self.assertTrue(self.change("activate"))
        answer = self.client.generate_sync("go", timeout_s=30.0, max_tokens=3, slo=RealTime(deadline_s=20.0))
        self.assertEqual(answer.report.output_tokens, 3)
        self.assertFalse(self.change("configure"))
        self.assertTrue(self.change("deactivate"))
        self.assertTrue(self.change("cleanup"))


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    def test_exit_status(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
