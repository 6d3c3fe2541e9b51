"""A server in a process of its own, and a node to talk to it: what the tests of a running server share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor

from slice_ros.client import GoalFailed, SliceClient
from slice_ros.ros.interfaces import SloStatus

READY_S = 60.0


@contextmanager
def running(*arguments: str):
    """``slice-ros`` with these arguments in a process of its own, killed at the end if it has not ended by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "slice_ros.cli", *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


def serving(name: str, *arguments: str):
    """A server of this name."""
    return running("serve", "--name", name, "--n-threads", "1", *arguments)


@contextmanager
def door(server: str, *arguments: str):
    """The base URL of a gateway, and its process."""
    node = f"__node:={server.removesuffix('_server')}_gateway"
    with running("gateway", "--server", f"/{server}", "--port", "0", *arguments, "--ros-args", "-r", node) as gateway:
        url = next((word for line in gateway.stderr for word in line.split() if word.startswith("http")), "")
        assert url, f"the gateway ended with status {gateway.wait()}"
        yield url, gateway


class Peer:
    """A node of the test's own, with a client of the server."""

    def __init__(self, server: str, name: str = "") -> None:
        self.node = rclpy.create_node(name or f"peer_of_{server}")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.client = SliceClient(self.node, f"/{server}")
        self.server = server

    def run(self, coroutine, timeout_s: float = 60.0):
        """The coroutine's result; its exception is raised."""
        task = self.executor.create_task(coroutine)
        self.executor.spin_until_future_complete(task, timeout_sec=timeout_s)
        assert task.done(), "timed out"
        return task.result()

    def spin_until(self, condition, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "timed out"
            self.executor.spin_once(timeout_sec=0.05)

    def status(self):
        """The next status."""
        return self.latest(SloStatus, f"/{self.server}/slo_status")

    def fails(self, *arguments, **options) -> GoalFailed:
        """The error of a goal that is to fail."""
        with pytest.raises(GoalFailed) as caught:
            self.run(self.client.generate(*arguments, **options))
        return caught.value

    def latest(self, kind, topic: str, *, satisfies=lambda message: True, timeout_s: float = 30.0):
        """The first message on a topic for which the condition holds."""
        got = []
        subscription = self.node.create_subscription(kind, topic, got.append, 100)
        try:
            self.spin_until(lambda: any(satisfies(message) for message in got), timeout_s)
        finally:
            self.node.destroy_subscription(subscription)
        return next(message for message in got if satisfies(message))

    def call(self, kind, name: str, **fields):
        """A service's answer."""
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=READY_S)

        async def call():
            return await client.call_async(kind.Request(**fields))

        try:
            return self.run(call())
        finally:
            self.node.destroy_client(client)

    def close(self) -> None:
        self.client.destroy()
        self.executor.shutdown()
        self.node.destroy_node()


def children_of(pid: int) -> list[int]:
    """Processes started by any thread of that one."""
    return [int(child) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for child in tasks.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def open_when_read(fifo: Path) -> int:
    """A file descriptor of the writing end, as soon as somebody reads."""
    deadline = time.monotonic() + 30.0
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
