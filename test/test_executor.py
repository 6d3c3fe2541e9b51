"""Executors, futures, timers and contexts, on whichever layer is in use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slice_ros.interfaces import String
from slice_ros.ros import (
    LAYER,
    ExternalShutdownException,
    Future,
    MultiThreadedExecutor,
    MutuallyExclusiveCallbackGroup,
    Node,
    NotInitializedException,
    QoSProfile,
    RCLError,
    ReentrantCallbackGroup,
    SingleThreadedExecutor,
    rclpy,
)

LONG_S = 20.0
dds_only = pytest.mark.skipif(LAYER == "rclpy", reason="rclpy does otherwise")


pytestmark = pytest.mark.usefixtures("ros")


@pytest.fixture
def node():
    node = Node("tester")
    yield node
    node.destroy_node()


@pytest.fixture
def executor(node):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    yield executor
    executor.shutdown()


def until(executor, condition):
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        executor.spin_once(timeout_sec=0.05)


# ---- tasks and futures


def test_a_function_and_a_coroutine_can_be_run(executor):
    async def three():
        return 3

    for task in (executor.create_task(lambda a, b: a + b, 1, 2), executor.create_task(three), executor.create_task(three())):
        executor.spin_until_future_complete(task, timeout_sec=LONG_S)
        assert task.result() == 3


def test_a_coroutine_goes_on_when_its_future_is_completed(executor):
    future = Future(executor=executor)

    async def waiting():
        return await future

    task = executor.create_task(waiting)
    threading.Timer(0.1, executor.create_task, [future.set_result, "news"]).start()
    executor.spin_until_future_complete(task, timeout_sec=LONG_S)
    assert task.result() == "news"


@dds_only  # rclpy's executor goes on waiting
def test_another_thread_may_complete_a_future_that_is_awaited(executor):
    future = Future(executor=executor)

    async def waiting():
        return await future

    task = executor.create_task(waiting)
    threading.Timer(0.1, future.set_result, ["news"]).start()
    executor.spin_until_future_complete(task, timeout_sec=LONG_S)
    assert task.result() == "news"


def test_an_awaited_error_is_raised_where_it_is_awaited(executor):
    future = Future(executor=executor)

    async def waiting():
        try:
            await future
        except KeyError as error:
            return error.args

    task = executor.create_task(waiting)
    executor.create_task(future.set_exception, KeyError("gone"))
    executor.spin_until_future_complete(task, timeout_sec=LONG_S)
    assert task.result() == ("gone",)


def test_tasks_may_await_each_other(executor):
    async def inner(n):
        return n if n == 0 else 1 + await executor.create_task(inner, n - 1)

    task = executor.create_task(inner, 20)
    executor.spin_until_future_complete(task, timeout_sec=LONG_S)
    assert task.result() == 20


@dds_only
def test_waiting_coroutines_cost_nothing(executor):
    """A thousand coroutines wait; only the one whose future completes is run."""
    futures = [Future(executor=executor) for _ in range(1000)]
    ended = []

    async def waiting(i):
        await futures[i]
        ended.append(i)

    for i in range(1000):
        executor.create_task(waiting, i)
    until(executor, lambda: not executor._ready)
    futures[500].set_result(None)
    executor.spin_once(timeout_sec=1.0)
    assert ended == [500]
    assert not executor._ready
    for future in futures:
        future.set_result(None)
    until(executor, lambda: len(ended) == 1000)


def test_a_done_callback_is_called_once_also_when_added_late(executor):
    calls = []
    future = Future(executor=executor)
    future.add_done_callback(lambda done: calls.append(("early", done.result())))
    future.set_result(1)
    future.add_done_callback(lambda done: calls.append(("late", done.result())))
    until(executor, lambda: len(calls) == 2)
    executor.spin_once(timeout_sec=0.05)
    assert sorted(calls) == [("early", 1), ("late", 1)]


def test_a_canceled_future_has_no_result(executor):
    future = Future(executor=executor)
    future.cancel()
    assert future.cancelled()
    assert future.result() is None
    assert LAYER == "rclpy" or future.done()


def test_an_error_in_a_callback_is_raised_by_spin_and_the_executor_goes_on(executor, node):
    def fail():
        node.destroy_timer(timer)
        raise ValueError("from the callback")

    timer = node.create_timer(0.01, fail)
    with pytest.raises(ValueError, match="from the callback"):
        until(executor, lambda: False)
    task = executor.create_task(lambda: "alive")
    executor.spin_until_future_complete(task, timeout_sec=LONG_S)
    assert task.result() == "alive"


@dds_only
def test_awaiting_what_is_no_future_is_an_error_that_says_so(executor):
    class Foreign:
        def __await__(self):
            yield "something else"

    async def wrong():
        await Foreign()

    task = executor.create_task(wrong)
    with pytest.raises(TypeError, match="something else"):
        executor.spin_until_future_complete(task, timeout_sec=LONG_S)


# ---- waiting


def test_spin_once_waits_no_longer_than_it_is_told(executor):
    began = time.monotonic()
    executor.spin_once(timeout_sec=0.2)
    assert 0.15 < time.monotonic() - began < 5.0


def test_spin_until_future_complete_gives_up_after_its_timeout(executor):
    future = Future(executor=executor)
    began = time.monotonic()
    executor.spin_until_future_complete(future, timeout_sec=0.2)
    assert not future.done()
    assert time.monotonic() - began > 0.15


def test_a_task_of_another_thread_ends_the_wait_at_once(executor):
    threading.Timer(0.1, executor.create_task, [lambda: None]).start()
    began = time.monotonic()
    executor.spin_once(timeout_sec=LONG_S)
    assert time.monotonic() - began < LONG_S / 2


def test_an_idle_executor_takes_no_processor_time(executor):
    executor.spin_once(timeout_sec=0.1)
    began = time.process_time()
    for _ in range(3):
        executor.spin_once(timeout_sec=0.5)
    assert time.process_time() - began < 0.3


# ---- timers and guard conditions


def test_a_timer_calls_at_its_period(executor, node):
    calls = []
    timer = node.create_timer(0.05, lambda: calls.append(time.monotonic()))
    began = time.monotonic()
    until(executor, lambda: len(calls) >= 5)
    assert calls[0] - began >= 0.04
    assert calls[4] - began >= 0.2
    node.destroy_timer(timer)


def test_a_canceled_timer_does_not_call_until_it_is_reset(executor, node):
    calls = []
    timer = node.create_timer(0.02, lambda: calls.append(1))
    timer.cancel()
    executor.spin_once(timeout_sec=0.1)
    assert calls == []
    timer.reset()
    until(executor, lambda: calls)
    node.destroy_timer(timer)


def test_a_late_timer_does_not_catch_up(executor, node):
    calls = []
    timer = node.create_timer(0.02, lambda: calls.append(1))
    time.sleep(0.2)
    executor.spin_once(timeout_sec=1.0)
    executor.spin_once(timeout_sec=0.0)
    assert len(calls) <= 2
    node.destroy_timer(timer)


def test_a_guard_condition_calls_back_after_a_trigger_from_any_thread(executor, node):
    threads = []
    guard = node.create_guard_condition(lambda: threads.append(threading.current_thread()))
    threading.Thread(target=guard.trigger).start()
    until(executor, lambda: threads)
    assert threads == [threading.current_thread()]
    node.destroy_guard_condition(guard)


# ---- callback groups


def overlap(group_of) -> int:
    """How many of two callbacks of 50 ms ran at once."""
    node = Node("groups")
    executor = MultiThreadedExecutor(num_threads=4)
    executor.add_node(node)
    running, most, calls, lock = 0, 0, 0, threading.Lock()

    def work():
        nonlocal running, most, calls
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
            calls += 1

    group = group_of()
    for _ in range(2):
        node.create_timer(0.01, work, callback_group=group)
    until(executor, lambda: calls >= 6)
    executor.shutdown()
    node.destroy_node()
    return most


def test_callbacks_of_a_mutually_exclusive_group_never_overlap():
    assert overlap(MutuallyExclusiveCallbackGroup) == 1


def test_callbacks_of_a_reentrant_group_overlap_in_a_multi_threaded_executor():
    assert overlap(ReentrantCallbackGroup) >= 2


def test_a_coroutine_keeps_the_others_of_its_group_out_while_it_awaits(executor, node):
    order, gate = [], Future(executor=executor)

    async def slow():
        first.cancel()
        order.append("begin")
        await gate
        order.append("end")

    def other():
        second.cancel()
        order.append("other")

    first = node.create_timer(0.01, slow)
    until(executor, lambda: order)
    second = node.create_timer(0.01, other)
    executor.spin_once(timeout_sec=0.1)
    assert order == ["begin"]
    gate.set_result(None)
    until(executor, lambda: len(order) == 3)
    assert order == ["begin", "end", "other"]


# ---- entities come and go


def test_entities_can_be_made_and_destroyed_while_another_thread_spins(node):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    deep = QoSProfile(depth=100)
    try:
        publisher = node.create_publisher(String, "busy", deep)
        for _ in range(20):
            got = threading.Event()
            subscription = node.create_subscription(String, "busy", lambda _, got=got: got.set(), deep)
            deadline = time.monotonic() + LONG_S
            while not got.wait(0.01):
                publisher.publish(String(data="x"))
                assert time.monotonic() < deadline
            node.destroy_subscription(subscription)
        node.destroy_publisher(publisher)
    finally:
        executor.shutdown()
        thread.join(LONG_S)
    assert not thread.is_alive()


def test_a_node_moves_from_one_executor_to_another(node, executor):
    calls = []
    timer = node.create_timer(0.01, lambda: calls.append(1))
    until(executor, lambda: calls)
    other = SingleThreadedExecutor()
    executor.remove_node(node)
    other.add_node(node)
    calls.clear()
    executor.spin_once(timeout_sec=0.1)
    assert calls == []
    until(other, lambda: calls)
    node.destroy_timer(timer)
    other.shutdown()


# ---- contexts


@dds_only
def test_without_a_context_there_are_no_nodes():
    with pytest.raises(NotInitializedException):
        Node("early", context=rclpy.Context())


def test_a_context_can_be_shut_down_and_another_begun():
    from slice_ros.ros import Context

    for _ in range(2):
        context = Context()
        rclpy.init(context=context, args=[])
        node = Node("second", context=context)
        publisher = node.create_publisher(String, "x", 1)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        rclpy.shutdown(context=context)
        assert not rclpy.ok(context=context)
        with pytest.raises(RCLError):
            publisher.publish(String())
        with pytest.raises((ExternalShutdownException, RCLError)):
            executor.spin_once()
        node.destroy_node()


def test_a_shutdown_from_another_thread_ends_spin():
    from slice_ros.ros import Context

    context = Context()
    rclpy.init(context=context, args=[])
    executor = SingleThreadedExecutor(context=context)
    threading.Timer(0.2, context.shutdown).start()
    with pytest.raises(ExternalShutdownException):
        while True:
            executor.spin_once(timeout_sec=LONG_S)


SPINNING = """
import sys, time
from slice_ros.ros import ExternalShutdownException, RCLError, rclpy
rclpy.init(args=[])
node = rclpy.create_node("spinning")
def ready():
    timer.cancel()
    print("ready", flush=True)
timer = node.create_timer(0.01, ready)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException, RCLError) as end:
    print(type(end).__name__, flush=True)
finally:
    node.destroy_node()
    rclpy.try_shutdown()
"""


@dds_only
def test_many_tasks_keep_no_timer_waiting(executor, node):
    calls = []
    timer = node.create_timer(0.001, lambda: calls.append("timer"))
    for _ in range(100):
        executor.create_task(lambda: (time.sleep(0.002), calls.append("task")))
    until(executor, lambda: calls.count("task") == 100)
    timer.cancel()
    assert calls.count("timer") >= 90
    assert calls.index("timer") <= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_endless_spin(number):
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([sys.executable, "-c", SPINNING], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        # rclpy's spin may also fail, since its context is gone when it waits again, or just return.
        assert process.stdout.read().strip() in ("KeyboardInterrupt", "ExternalShutdownException", *("RCLError", "") * (LAYER == "rclpy"))
        assert process.wait(LONG_S) == 0


@dds_only
def test_a_missing_binding_is_one_sentence():
    """As on a machine for which there is no wheel."""
    code = "import sys; sys.modules['cyclonedds'] = None\nimport slice_ros.ros"
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "SLICE_ROS_LAYER": "dds"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: neither rclpy nor")
    assert "use a machine with ROS 2" in last
