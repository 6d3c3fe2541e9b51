"""two_robots.launch.py for real: two namespaces, each with a server whose robots' goals it alone serves."""

import time
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
from slice_ros.msg import SloStatus


@pytest.mark.launch_test
@launch_testing.markers.keep_alive
def generate_test_description():
    launch_file = Path(get_package_share_directory("slice_ros")) / "launch" / "two_robots.launch.py"
    robots = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(launch_file)), launch_arguments={"engine": "simulated", "limit": "20"}.items()
    )
    return LaunchDescription([robots, launch_testing.actions.ReadyToTest()])


class TestTwoRobots(unittest.TestCase):
    def test_each_server_gets_goals(self):
        rclpy.init()
        node = rclpy.create_node("test")
        heard = {}
        for namespace in ("/robot1", "/robot2"):
            node.create_subscription(
                SloStatus, f"{namespace}/slice_server/slo_status", lambda status, name=namespace: heard.__setitem__(name, status), 10
            )
        until = time.monotonic() + 90.0
        while time.monotonic() < until and not (len(heard) == 2 and all(any(c.completed for c in s.classes) for s in heard.values())):
            rclpy.spin_once(node, timeout_sec=0.1)
        node.destroy_node()
        rclpy.shutdown()
        self.assertEqual(sorted(heard), ["/robot1", "/robot2"])
        self.assertTrue(all(any(c.completed for c in status.classes) for status in heard.values()))


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    def test_exit_status(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
