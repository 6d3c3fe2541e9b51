"""A client in each of the ways in which nodes are spun: every goal ends, in order, and nobody hangs."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from serving import READY_S, serving

from slice_ros.client import GoalFailed, SliceClient
from slice_ros.goal import ErrorCode
from slice_ros.ros.distributions import FAST_DDS_3

try:
    from rclpy.experimental import EventsExecutor
except ImportError:  # Humble
    EventsExecutor = None

GOALS = 300
SERVER = "quick"
EXECUTORS = [SingleThreadedExecutor, MultiThreadedExecutor]
if FAST_DDS_3 and EventsExecutor is not None:  # Jazzy's ends the process at once, Kilted's now and then
    EXECUTORS.append(pytest.param(EventsExecutor, marks=pytest.mark.events_executor))
ONE_THREAD = [kind for kind in EXECUTORS if kind is not MultiThreadedExecutor]


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    profile = tmp_path_factory.mktemp("device") / "quick.yaml"
    profile.write_text("decode_ms: [1.0]\n")
    with serving(SERVER, "--engine", "simulated", "-p", f"engine.device_profile:={profile}"):
        yield


@pytest.fixture
def context():
    """A context of the test's own: executors, also the global one, go with it."""
    rclpy.init(args=[])
    yield
    rclpy.try_shutdown()


class Asker:
    """A node that asks one thing after the other, and writes down what came."""

    def __init__(self, goals: int = GOALS) -> None:
        self.node = rclpy.create_node("asker")
        self.client = SliceClient(self.node, f"/{SERVER}")
        self.client.wait_for_server(READY_S)
        self.goals = goals
        self.answers: list[int] = []
        self.turns = 0

    async def ask_all(self) -> None:
        for number in range(self.goals):
            answer = await self.client.generate("x", max_tokens=1 + number % 3)
            self.answers.append(answer.report.output_tokens)

    @property
    def is_done(self) -> bool:
        return len(self.answers) == self.goals

    def check(self) -> None:
        assert self.answers == [1 + number % 3 for number in range(self.goals)]

    def close(self) -> None:
        self.client.destroy()
        self.node.destroy_node()


@pytest.fixture
def asker(context):
    asker = Asker()
    yield asker
    asker.close()


def turn(condition, once, timeout_s: float = 60.0) -> int:
    """Turn until the condition holds; how often that was."""
    deadline_s, turns = time.monotonic() + timeout_s, 0
    while not condition():
        assert time.monotonic() < deadline_s, "timed out"
        once()
        turns += 1
    return turns


@pytest.mark.parametrize("kind", EXECUTORS, ids=lambda kind: kind.__name__)
def test_awaited_in_a_task_of_any_executor(asker, kind):
    executor = kind()
    executor.add_node(asker.node)
    executor.create_task(asker.ask_all)
    turn(lambda: asker.is_done, lambda: executor.spin_once(timeout_sec=1.0))
    asker.check()
    executor.shutdown()


@pytest.mark.parametrize("kind", EXECUTORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("group", [None, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup], ids=["default", "exclusive", "reentrant"])
def test_awaited_in_a_callback_whatever_its_group(asker, kind, group):
    executor = kind()
    executor.add_node(asker.node)
    began = []

    async def once() -> None:
        if not began:
            began.append(True)
            await asker.ask_all()

    asker.node.create_timer(0.01, once, group() if group else None)
    turn(lambda: asker.is_done, lambda: executor.spin_once(timeout_sec=1.0))
    asker.check()
    executor.shutdown()


def test_spin_in_a_thread_of_its_own(asker):
    executor = SingleThreadedExecutor()
    executor.add_node(asker.node)
    task = executor.create_task(asker.ask_all)
    thread = threading.Thread(target=lambda: spin_until_shutdown(executor))
    thread.start()
    turn(task.done, lambda: time.sleep(0.05))
    executor.shutdown()
    thread.join(5.0)
    assert not thread.is_alive()
    asker.check()


def spin_until_shutdown(executor) -> None:
    with suppress(ExternalShutdownException):
        executor.spin()


def test_rclpy_spin_once_and_spin_until_future_complete(asker):
    task = rclpy.get_global_executor().create_task(asker.ask_all)
    turn(lambda: len(asker.answers) > GOALS // 2, lambda: rclpy.spin_once(asker.node, timeout_sec=1.0))
    rclpy.spin_until_future_complete(asker.node, task, timeout_sec=60.0)
    asker.check()


def test_a_script_that_blocks(asker):
    for number in range(GOALS):
        asker.answers.append(asker.client.generate_sync("x", max_tokens=1 + number % 3).report.output_tokens)
    asker.check()


def test_blocking_from_several_threads(asker):
    answers = [[] for _ in range(4)]

    def ask(mine: list) -> None:
        for number in range(GOALS // 4):
            mine.append(asker.client.generate_sync("x", max_tokens=1 + number % 3).report.output_tokens)

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert answers == [[1 + number % 3 for number in range(GOALS // 4)]] * 4


@pytest.mark.parametrize("kind", [SingleThreadedExecutor, MultiThreadedExecutor], ids=lambda kind: kind.__name__)
def test_blocking_while_somebody_else_spins(asker, kind):
    """The events executor of rclpy 9.1.2 does nothing in a thread that is not the first; its timers stand still as well."""
    executor = kind()
    executor.add_node(asker.node)
    thread = threading.Thread(target=lambda: spin_until_shutdown(executor))
    thread.start()
    try:
        for number in range(GOALS):
            asker.answers.append(asker.client.generate_sync("x", max_tokens=1 + number % 3).report.output_tokens)
        asker.check()
    finally:
        executor.shutdown()
        thread.join(5.0)


@pytest.mark.parametrize("kind", ONE_THREAD, ids=lambda kind: kind.__name__)
def test_a_blocking_call_in_a_callback_is_an_error_at_once(asker, kind):
    executor = kind()
    executor.add_node(asker.node)
    seen = []

    async def know_the_server() -> None:
        await asker.client.generate("x", max_tokens=1)

    task = executor.create_task(know_the_server)
    turn(task.done, lambda: executor.spin_once(timeout_sec=0.2))

    def callback() -> None:
        if not seen:
            began_s = time.monotonic()
            try:
                asker.client.generate_sync("x", max_tokens=1)
            except RuntimeError as error:
                seen.append((str(error), time.monotonic() - began_s))

    asker.node.create_timer(0.01, callback)
    turn(lambda: seen, lambda: executor.spin_once(timeout_sec=0.2))
    sentence, took_s = seen[0]
    assert "await client.generate" in sentence
    assert took_s < 0.5
    executor.shutdown()


def test_an_executor_that_nobody_spins_is_an_error_and_no_hang(asker, monkeypatch):
    monkeypatch.setattr("slice_ros.client.UNSPUN_S", 0.5)
    executor = SingleThreadedExecutor()
    executor.add_node(asker.node)
    with pytest.raises(RuntimeError, match="spin it in another thread"):
        asker.client.generate_sync("x", max_tokens=1)
    executor.shutdown()


def test_waiting_is_no_busy_loop(asker):
    executor = SingleThreadedExecutor()
    executor.add_node(asker.node)

    async def long() -> None:
        await asker.client.generate("x", max_tokens=1500)

    task = executor.create_task(long)
    turns, began_s, used_s = 0, time.monotonic(), time.process_time()
    turns = turn(task.done, lambda: executor.spin_once(timeout_sec=1.0))
    lasted_s = time.monotonic() - began_s
    assert lasted_s > 0.5
    assert turns < 100 * lasted_s
    assert time.process_time() - used_s < 0.5 * lasted_s
    executor.shutdown()


@pytest.mark.parametrize("kind", EXECUTORS, ids=lambda kind: kind.__name__)
def test_a_client_may_be_destroyed_at_any_moment(context, kind):
    node = rclpy.create_node("fickle")
    executor = kind()
    executor.add_node(node)
    for turns in range(12):
        client = SliceClient(node, f"/{SERVER}")
        client.wait_for_server(READY_S)
        generations = [client.send("x", max_tokens=200) for _ in range(4)]
        for _ in range(turns * 3):
            executor.spin_once(timeout_sec=0.01)
        client.destroy()
        for _ in range(10):
            executor.spin_once(timeout_sec=0.01)
        assert all(isinstance(generation.end, GoalFailed) and generation.end.code is ErrorCode.CANCELED for generation in generations)
        with pytest.raises(RuntimeError, match="destroyed"):
            client.send("x")
    executor.shutdown()
    node.destroy_node()


def test_a_blocking_call_leaves_the_nodes_own_callbacks_to_who_spins_it(asker):
    ticks = []
    asker.node.create_timer(0.01, lambda: ticks.append(True))
    asker.client.generate_sync("x", max_tokens=100)
    assert not ticks
    rclpy.spin_once(asker.node, timeout_sec=1.0)
    assert ticks


def test_a_node_may_be_put_into_an_executor_while_a_blocking_call_waits(asker):
    ticks, answers = [], []
    asker.node.create_timer(0.01, lambda: ticks.append(True))
    thread = threading.Thread(target=lambda: answers.append(asker.client.generate_sync("x", max_tokens=1500)))
    thread.start()
    time.sleep(0.5)
    executor = SingleThreadedExecutor()
    executor.add_node(asker.node)

    def once() -> None:
        with suppress(IndexError):  # rclpy's event handlers know the wait set of one executor, and there are two for a moment
            executor.spin_once(timeout_sec=0.2)

    turn(lambda: answers, once)
    thread.join()
    before = len(ticks)
    turn(lambda: len(ticks) > before + 3, lambda: executor.spin_once(timeout_sec=0.2), timeout_s=5.0)
    executor.shutdown()


def test_a_blocking_call_ends_where_rclpy_is_shut_down(context):
    asker, ends = Asker(), []

    def ask() -> None:
        try:
            asker.client.generate_sync("x", max_tokens=5000)
        except GoalFailed as error:
            ends.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.5)
    rclpy.shutdown()
    thread.join(5.0)
    assert not thread.is_alive()
    assert "shut down" in str(ends[0])


def test_goals_sent_while_another_thread_destroys_the_client_end_or_are_refused(context):
    node = rclpy.create_node("torn")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = threading.Thread(target=lambda: spin_until_shutdown(executor))
    spinner.start()
    try:
        for _ in range(20):
            client, sent = SliceClient(node, f"/{SERVER}"), []
            client.wait_for_server(READY_S)

            def send(client=client, sent=sent) -> None:
                with pytest.raises(RuntimeError, match="destroyed"):
                    while True:
                        sent.append(client.send("x", max_tokens=50))
                        time.sleep(0.001)

            sender = threading.Thread(target=send)
            sender.start()
            time.sleep(0.02)
            client.destroy()
            sender.join(10.0)
            assert not sender.is_alive()
            assert all(generation.done for generation in sent)
    finally:
        executor.shutdown()
        spinner.join(5.0)
        node.destroy_node()
