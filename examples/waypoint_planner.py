"""A planner in Nav2's manner: asks the model for the next waypoint under a deadline, and falls back to the nearest one when it is missed.

    slice-ros serve &
    python examples/waypoint_planner.py

The answer follows a JSON schema, so that whatever the model says can be used; the deadline ends the goal on time.
"""

from __future__ import annotations

import math

import rclpy
from rclpy.node import Node

from slice_ros.client import GoalFailed, SliceClient
from slice_ros.slo import RealTime

WAYPOINTS = {"dock": (0.0, 0.0), "kitchen": (4.0, 1.0), "lab": (2.0, 5.0), "hall": (1.0, 2.0)}
SCHEMA = {"type": "object", "properties": {"waypoint": {"enum": list(WAYPOINTS)}}, "required": ["waypoint"], "additionalProperties": False}
DEADLINE_S = 1.0


class WaypointPlanner(Node):
    """Each plan is a waypoint and where it came from: the model, or the fallback."""

    def __init__(self, server: str = "/slice_server") -> None:
        super().__init__("waypoint_planner")
        self._client = SliceClient(self, server)

    async def plan(self, task: str, position: tuple[float, float]) -> tuple[str, str]:
        """The next waypoint for a task, and ``"model"`` or ``"fallback: why"``."""
        prompt = f"The robot is at {position}. Stations: {', '.join(WAYPOINTS)}. Task: {task}. Next waypoint as JSON:"
        slo = RealTime(deadline_s=DEADLINE_S)
        try:
            answer = await self._client.generate(prompt, slo=slo, max_tokens=32, json_schema=SCHEMA, label="plan")
            return str(answer.json()["waypoint"]), "model"
        except (GoalFailed, ValueError) as error:
            return self.nearest(position), f"fallback: {error}"

    @staticmethod
    def nearest(position: tuple[float, float]) -> str:
        return min(WAYPOINTS, key=lambda name: math.dist(WAYPOINTS[name], position))


def main() -> None:
    rclpy.init()
    planner = WaypointPlanner()
    try:
        planner._client.wait_for_server()
        executor = rclpy.get_global_executor()
        executor.add_node(planner)
        for task in ("bring the red box to the kitchen", "charge the battery"):
            plan = executor.create_task(planner.plan(task, (1.5, 4.0)))
            executor.spin_until_future_complete(plan)
            print(task, "->", *plan.result())  # noqa: T201
    finally:
        planner.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
