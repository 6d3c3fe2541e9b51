"""The server's process: serves until SIGINT or SIGTERM, and leaves nothing behind."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from slice_ros.ros.distributions import RCLError, mind_the_dead, refusal
from slice_ros.server.node import ServerError, SliceServer, turn


def main(args: list[str] | None = None, kind: type[SliceServer] = SliceServer) -> int:
    """Serve until SIGINT or SIGTERM.

    Args:
        args: of the command line.
        kind: the server's class.

    Returns:
        Exit status: 0 after a signal, 1 when the server could not start.
    """
    stopped = False
    failure: ServerError | None = None

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    async def start(server: SliceServer) -> None:
        nonlocal failure
        try:
            await server.start()
        except ServerError as error:
            failure = error

    server: SliceServer | None = None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    mind_the_dead()
    try:
        try:
            # rclpy's own handlers would take the context away before the goals in flight have got their results.
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            executor = SingleThreadedExecutor()
            server = kind()
        except (RCLError, RuntimeError) as error:  # RuntimeError: ROS arguments that rcl does not know, a middleware that is not there
            raise ServerError(refusal(error)) from error
        executor.add_node(server)
        if server.get_parameter("lifecycle.autostart").value:
            executor.create_task(start, server)
        while rclpy.ok() and not stopped and failure is None and not server.conflict:
            turn(executor, 0.2)
        if server.conflict:
            raise ServerError(server.conflict)
        if failure is not None:
            raise failure
    except ServerError as error:
        print(f"{kind.default_name} cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except ExternalShutdownException:
        pass
    finally:
        if server is not None:
            server.close(executor)
            with suppress(RCLError):
                server.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
