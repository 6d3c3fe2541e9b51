"""A node to talk to, in a process of its own: ``python ros_peer.py [--ros-args …]``; the layer is what SLICE_ROS_LAYER says.

Ends with status 0 on SIGINT and SIGTERM. Prints ``ready`` once everything it offers is there, and ``ended by …`` at the end.
"""

from __future__ import annotations

import sys
from typing import Any

from slice_ros.interfaces import FloatingPointRange, Generate, ParameterDescriptor, SetBool, SetParametersResult, SloStatus, String
from slice_ros.ros import (
    ActionServer,
    CancelResponse,
    ExternalShutdownException,
    Future,
    GoalResponse,
    Node,
    QoSProfile,
    ReentrantCallbackGroup,
    rclpy,
)

DEEP = QoSProfile(depth=2000)
"""As slice_ros.qos: rclpy's own default loses requests of a burst."""
SPEED = FloatingPointRange(from_value=0.0, to_value=10.0)


class Peer(Node):
    """Echoes, counts, and serves goals that do what their prompt says."""

    def __init__(self) -> None:
        super().__init__("peer")
        self._echo = self.create_publisher(SloStatus, "~/echo", 10)
        self.create_subscription(SloStatus, "~/in", self._echo.publish, 10)
        self._heard = self.create_publisher(String, "~/heard", 10)
        self.create_subscription(String, "remapped", self._heard.publish, 10)
        self.create_service(SetBool, "~/flip", self._flip, qos_profile=DEEP)
        self.create_service(SetBool, "~/slow", self._slow, qos_profile=DEEP, callback_group=ReentrantCallbackGroup())
        self.declare_parameter("speed", 1.5, ParameterDescriptor(description="metres per second", floating_point_range=[SPEED]))
        self.declare_parameter("name", "peer")
        self.declare_parameter("gains", [1.0, 2.0])
        self.declare_parameter("fixed", 7, ParameterDescriptor(read_only=True))
        self.add_on_set_parameters_callback(self._set)
        self._waiting: list[Future] = []
        self._server = ActionServer(
            self,
            Generate,
            "~/generate",
            self._execute,
            goal_callback=lambda goal: GoalResponse.ACCEPT if goal.prompt else GoalResponse.REJECT,
            cancel_callback=self._cancel,
            goal_service_qos_profile=DEEP,
            result_service_qos_profile=DEEP,
            cancel_service_qos_profile=DEEP,
            feedback_pub_qos_profile=DEEP,
        )
        self._canceled: dict[bytes, Future] = {}
        self._ready = False
        self.create_timer(0.1, self._tick)
        self._ticks = self.create_publisher(String, "~/tick", 10)

    def _tick(self) -> None:
        if not self._ready:
            self._ready = True
            print("ready", flush=True)  # noqa: T201 - only now would a signal be rclpy's
        self._ticks.publish(String(data="tick"))

    def _flip(self, request: Any, response: Any) -> Any:
        response.success, response.message = not request.data, "flipped"
        return response

    async def _slow(self, request: Any, response: Any) -> Any:
        """Answers after a timer, in the meantime others are served."""
        passed = Future(executor=self.executor)
        timer = self.create_timer(0.05, lambda: passed.set_result(None) if not passed.done() else None)
        await passed
        self.destroy_timer(timer)
        response.success = request.data
        return response

    def _set(self, parameters: list[Any]) -> Any:
        if any(parameter.name == "name" and not parameter.value for parameter in parameters):
            return SetParametersResult(successful=False, reason="name is empty; give one")
        return SetParametersResult(successful=True)

    def _cancel(self, handle: Any) -> Any:
        if handle.request.prompt == "stubborn":
            return CancelResponse.REJECT
        key = bytes(handle.goal_id.uuid)
        self._canceled.setdefault(key, Future(executor=self.executor)).set_result(None)
        return CancelResponse.ACCEPT

    async def _execute(self, handle: Any) -> Any:
        """echo N: N pieces of feedback; wait: until canceled; together N: until N goals are here; abort, raise, forget, wrong."""
        word, _, rest = handle.request.prompt.partition(" ")
        if word == "echo":
            for i in range(int(rest)):
                handle.publish_feedback(Generate.Feedback(text=f"{i} ", tokens=i + 1))
        elif word in ("wait", "stubborn"):
            await self._canceled.setdefault(bytes(handle.goal_id.uuid), Future(executor=self.executor))
            handle.canceled()
            return Generate.Result(text="canceled", error_code=Generate.Result.CANCELED)
        elif word == "together":
            here = Future(executor=self.executor)
            self._waiting.append(here)
            if len(self._waiting) == int(rest):
                for waiting in self._waiting:
                    waiting.set_result(None)
                self._waiting.clear()
            await here
            handle.publish_feedback(Generate.Feedback(text="go"))
        elif word == "abort":
            handle.abort()
            return Generate.Result(error_code=Generate.Result.INTERNAL, error_msg="as asked")
        elif word == "raise":
            raise RuntimeError("as asked")
        elif word == "forget":
            return Generate.Result(text="forgot to set a state")
        handle.succeed()
        return Generate.Result(text=f"done: {handle.request.prompt}", finish_reason="stop")


def main() -> None:
    rclpy.init(args=sys.argv)
    peer = Peer()
    try:
        rclpy.spin(peer)
    except (KeyboardInterrupt, ExternalShutdownException) as end:
        print(f"ended by {type(end).__name__}", flush=True)  # noqa: T201
    finally:
        peer.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
