"""The SLO monitor's window, offscreen, with real status messages; and what it shows of them."""

from __future__ import annotations

import math
import os
import time

import pytest
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor

from slice_ros.monitor.feed import Feed
from slice_ros.monitor.history import History
from slice_ros.monitor.silence import LATE_S, Silence
from slice_ros.ros.interfaces import ClassStatus, MaskStatus, SloStatus

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


def status(time_s: float = 0.0, *, attained: int = 0, ended: int = 0, goals=("aa", "bb"), cells=(3, -1, 0, -1, 0, 0), cursor: int = 1):
    mask = MaskStatus(
        goals=list(goals), labels=["control", "voice"][: len(goals)], service_classes=[1, 0][: len(goals)],
        slack_ms=[120.0, math.inf][: len(goals)], columns=len(cells) // max(len(goals), 1), cursor=cursor, cells=list(cells),
    )  # fmt: skip
    message = SloStatus(policy="slice", model="m.gguf", device="d", engine_state="ready", step_ms=20.0, step_predicted_ms=18.0, mask=mask)
    message.stamp.sec, message.stamp.nanosec = int(time_s), int(time_s % 1 * 1e9)
    message.classes = [ClassStatus(label="control", service_class=1, attained=attained, completed=ended)]
    return message


def test_attainment_is_that_of_the_goals_that_ended_lately():
    history = History()
    history.add(status(0.0, attained=90, ended=100))
    history.add(status(1.0, attained=91, ended=102))
    (_, first), (_, second) = history.attainment["control"].points
    assert math.isnan(first)
    assert second == 0.5


def test_steps_taken_scroll_by_and_planned_ones_are_replaced():
    history = History()
    history.add(status(0.0))
    history.add(status(0.5))
    view = history.mask()
    assert (view.cursor, view.columns) == (2, 4)
    assert [row.cells for row in view.rows] == [[3, 3, -1, 0], [-1, -1, 0, 0]]


def test_a_goal_that_has_ended_stays_in_sight_below_those_in_hand():
    history = History()
    history.add(status(0.0))
    history.add(status(0.5, goals=("aa",), cells=(-1,), cursor=1))
    assert [(row.goal_id, row.label) for row in history.mask().rows] == [("aa", "control"), ("bb", "voice")]


class Told:
    """A feed that plays what a test gives it."""

    server = ""

    def __init__(self, *statuses) -> None:
        self.statuses = list(statuses)
        self.policies: list[str] = []
        self.refusal = ""

    def servers(self):
        return ["/one", "/two"]

    def choose(self, server):
        self.server = server

    def take(self):
        statuses, self.statuses = self.statuses, []
        return statuses

    def set_policy(self, name):
        self.policies.append(name)

    def complaint(self):
        refusal, self.refusal = self.refusal, ""
        return refusal

    def close(self):
        self.server = ""


@pytest.fixture
def make_monitor():
    widget = pytest.importorskip("slice_ros.monitor.widget", reason="no Qt for Python", exc_type=ImportError)
    application = widget.QtWidgets.QApplication.instance() or widget.QtWidgets.QApplication(["test"])
    made = []

    def make(feed, server=""):
        monitor = widget.SloMonitor(feed, server)
        monitor.resize(1000, 600)
        monitor.show()
        monitor.poll()
        application.processEvents()
        made.append(monitor)
        return monitor

    yield make
    for monitor in made:
        monitor.close_feed()
        monitor.close()
        monitor.deleteLater()
    application.processEvents()


def colours(image):
    return {image.pixelColor(x, y).name().upper() for x in range(0, image.width(), 2) for y in range(0, image.height(), 2)}


def test_the_window_paints_goals_in_the_colour_of_their_class(make_monitor):
    monitor = make_monitor(Told(*(status(i / 2, attained=i, ended=i) for i in range(60))))
    assert "#D55E00" in colours(monitor.grab().toImage())
    assert monitor._goals.rowCount() == 2
    assert monitor._goals.item(0, 3).text() == "120 ms"
    assert monitor._goals.item(1, 3).text() == "no bound"


def test_an_idle_server_and_none_at_all_are_painted(make_monitor):
    make_monitor(Told()).grab()
    make_monitor(Told(status(goals=(), cells=(), cursor=0))).grab()


def test_the_first_server_found_is_shown_and_another_can_be_chosen(make_monitor):
    feed = Told(status())
    monitor = make_monitor(feed)
    assert feed.server == "/one"
    monitor._servers.setCurrentIndex(1)
    monitor._servers.activated.emit(1)
    assert feed.server == "/two"
    assert monitor.history.status is None


def test_a_server_that_says_nothing_more_does_not_look_alive(make_monitor):
    feed = Told(status())
    monitor = make_monitor(feed)
    assert monitor._policies.isEnabled()
    monitor._silence._heard_s -= LATE_S + 1.0
    monitor.poll()
    assert "nothing heard from /one for 4 s" in monitor._headline.text()
    assert not monitor._policies.isEnabled()
    feed.statuses = [status()]
    monitor.poll()
    assert "m.gguf" in monitor._headline.text()
    assert monitor._policies.isEnabled()


def test_the_window_may_be_narrower_than_what_it_says(make_monitor):
    told = status()
    told.model, told.device = "a-model-with-a-long-name-q4_0.gguf", "rtx4060ti-chatglm2-6b-int4 (paced, on AMD EPYC, 2 threads)"
    monitor = make_monitor(Told(told))
    assert monitor.minimumSizeHint().width() < 900
    assert monitor.width() == 1000


def test_silence_is_what_is_late_by_three_periods():
    silence = Silence()
    assert silence.seconds(100.0) == 0.0
    silence.heard(0.0)
    assert (silence.seconds(2.9), silence.seconds(3.1)) == (0.0, 3.1)
    silence.heard(10.0)
    assert (silence.seconds(39.0), silence.seconds(41.0)) == (0.0, 31.0)


def test_once_ros_was_shut_down_no_server_is_found():
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    feed = Feed(rclpy.create_node("slice_monitor", context=context))
    rclpy.shutdown(context=context)
    assert feed.servers() == []
    feed._wanted = "orca"
    assert feed.take() == []


def test_the_policy_is_switched_and_a_refusal_is_shown(make_monitor):
    feed = Told(status())
    monitor = make_monitor(feed)
    assert monitor._policies.currentText() == "slice"
    monitor._policies.setCurrentText("orca")
    monitor._policies.activated.emit(0)
    assert feed.policies == ["orca"]
    feed.refusal = "no, thank you"
    monitor.poll()
    assert monitor._complaint.text() == "no, thank you"


def test_an_answer_of_a_server_that_is_no_longer_shown_is_dropped():
    rclpy.init(args=[])
    node, executor = rclpy.create_node("slice_monitor"), SingleThreadedExecutor()
    executor.add_node(node)

    def refuse_late(_request, response):
        time.sleep(0.2)
        response.results = [SetParametersResult(successful=False, reason="too late")]
        return response

    silent = node.create_service(SetParameters, "/silent/set_parameters", refuse_late)
    feed = Feed(node)
    try:
        feed.choose("/silent")
        feed.set_policy("orca")
        while feed._wanted:
            feed.take()
        assert feed.complaint() == ""
        feed.choose("/other")
        for _ in range(5):
            executor.spin_once(timeout_sec=0.1)
        assert feed.complaint() == ""
        feed.set_policy("orca")
        deadline = time.monotonic() + 10.0
        while not (complaint := feed.complaint()):
            assert time.monotonic() < deadline
            feed.take()
        assert complaint == "/other does not answer"
    finally:
        feed.close()
        node.destroy_service(silent)
        node.destroy_node()
        rclpy.try_shutdown()
