"""The SLO monitor: a Qt widget, the same in rqt and in ``slice-ros monitor``. Everything is painted with QPainter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from slice_ros.mask import DECODE
from slice_ros.monitor.history import SPAN_S, Curve, History
from slice_ros.monitor.qt import QtCore, QtGui, QtWidgets
from slice_ros.monitor.silence import Silence
from slice_ros.scheduling.policies import POLICIES

POLL_MS = 100
LOOK_MS = 2000
"""How often new servers are looked for."""
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's: distinct for every kind of colour vision. One for each kind of goal, in the order of their appearance."""
MOST_ROWS = 24

Qt = QtCore.Qt


class SloMonitor(QtWidgets.QWidget):
    """Shows what a feed hears.

    Args:
        feed: a :class:`~slice_ros.monitor.feed.Feed`, or something like it.
        server: whom to hear; empty is the first that is found.
    """

    def __init__(self, feed: Any, server: str = "", parent: Any = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("SLO monitor")
        self._feed = feed
        self.history = History()
        self._silence = Silence()

        self._servers = QtWidgets.QComboBox()
        self._servers.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToContents)
        self._servers.activated.connect(lambda _: self.choose(self._servers.currentText()))
        self._policies = QtWidgets.QComboBox()
        self._policies.addItems(list(POLICIES))
        self._policies.setEnabled(False)
        self._policies.setToolTip("scheduling policy; goals go on as they are when it changes")
        self._policies.activated.connect(lambda _: self._feed.set_policy(self._policies.currentText()))
        self._headline = QtWidgets.QLabel("no server heard yet")
        self._headline.setWordWrap(True)  # the window may be narrower than it is long
        self._complaint = QtWidgets.QLabel()
        self._complaint.setStyleSheet("color: #C00000")

        bar = QtWidgets.QHBoxLayout()
        for widget in (QtWidgets.QLabel("server"), self._servers, QtWidgets.QLabel("policy"), self._policies):
            bar.addWidget(widget)
        bar.addStretch()
        bar.addWidget(self._complaint)

        self._attainment = Chart("goals that met their SLO, of those that ended in 15 s", self._attainment_curves, top=1.0, unit="%")
        self._steps = Chart("time of a step: measured, and as the latency model predicted it", self._step_curves, unit=" ms")
        self._mask = MaskPanel(self)
        self._goals = GoalTable()
        self._parts = (self._attainment, self._steps, self._mask, self._goals)

        grid = QtWidgets.QGridLayout()
        grid.addWidget(self._attainment, 0, 0)
        grid.addWidget(self._steps, 0, 1)
        grid.addWidget(self._mask, 1, 0)
        grid.addWidget(self._goals, 1, 1)
        for stretch, column in ((3, 0), (2, 1)):
            grid.setColumnStretch(column, stretch)
        for stretch, row in ((2, 0), (3, 1)):
            grid.setRowStretch(row, stretch)
        layout = QtWidgets.QVBoxLayout(self)
        layout.addLayout(bar)
        layout.addWidget(self._headline)
        layout.addLayout(grid, 1)

        if server:
            self.choose(server)
        self._poll_timer = self._timer(POLL_MS, self.poll)
        self._look_timer = self._timer(LOOK_MS, self.look)
        self.look()

    def choose(self, server: str) -> None:
        """Show another server."""
        if server and server != self._feed.server:
            self.history, self._silence = History(), Silence()
            self._feed.choose(server)
            self._headline.setText(f"nothing heard from {server} yet")

    def look(self) -> None:
        """See which servers there are."""
        found = self._feed.servers()
        if not self._feed.server and found:
            self.choose(found[0])
        names = sorted({*found, self._feed.server} - {""})
        if names != [self._servers.itemText(i) for i in range(self._servers.count())]:
            self._servers.clear()
            self._servers.addItems(names)
        self._servers.setCurrentText(self._feed.server)

    def poll(self) -> None:
        """Take in what the feed heard, and paint it."""
        if complaint := self._feed.complaint():
            self._complaint.setText(complaint)
        statuses, silent_s = self._feed.take(), 0.0
        for status in statuses:
            self.history.add(status)
        if statuses:
            self._silence.heard(time.monotonic())
            self._show(statuses[-1])
        elif silent_s := self._silence.seconds(time.monotonic()):
            self._headline.setText(f"nothing heard from {self._feed.server} for {silent_s:.0f} s; this is what was heard last")
        for part in (self._policies, *self._parts):
            part.setEnabled(self.history.status is not None and not silent_s)

    def close_feed(self) -> None:
        """Hear nothing more."""
        self._poll_timer.stop()
        self._look_timer.stop()
        self._feed.close()

    def colour_of(self, label: str) -> Any:
        labels = self.history.labels
        place = labels.index(label) if label in labels else len(COLOURS) - 1
        return QtGui.QColor(COLOURS[place % len(COLOURS)])

    def _show(self, status: Any) -> None:
        if not self._policies.view().isVisible():  # not while somebody is choosing
            self._policies.setCurrentText(status.policy)
        state = "" if status.engine_state == "ready" else f"   engine {status.engine_state}"
        members = "   ".join(
            f"{member.name} {member.state}, {member.in_hand} goals, last: {member.why or '-'}" for member in status.members
        )
        self._headline.setText(
            f"running {status.running}   queued {status.queued}{state}\n{members}"
            if members
            else f"{status.model} on {status.device}   {status.tokens_per_s:.0f} tokens/s{_drafts(status)}   "
            f"KV {status.kv_used}/{status.kv_total}   running {status.running}   queued {status.queued}{state}"
        )
        self._goals.show_status(status, self.colour_of)
        for part in self._parts[:3]:
            part.update()

    def _attainment_curves(self) -> list[tuple[str, Curve, Any]]:
        return [(label, curve, self.colour_of(label)) for label, curve in self.history.attainment.items()]

    def _step_curves(self) -> list[tuple[str, Curve, Any]]:
        return [
            ("measured", self.history.step_ms, QtGui.QColor(COLOURS[1])),
            ("predicted", self.history.predicted_ms, QtGui.QColor(COLOURS[4])),
        ]

    def _timer(self, period_ms: int, callback: Callable[[], None]) -> Any:
        timer = QtCore.QTimer(self)
        timer.timeout.connect(callback)
        timer.start(period_ms)
        return timer


class Chart(QtWidgets.QWidget):
    """Curves over the last two minutes, the newest point at the right edge.

    Args:
        title: stands above.
        curves: asked for (name, curve, colour) at each painting.
        top: value of the upper edge; without it, the highest point's.
        unit: behind numbers; ``%`` multiplies by 100.
    """

    def __init__(self, title: str, curves: Callable[[], Sequence[tuple[str, Curve, Any]]], *, top: float | None = None, unit: str) -> None:
        super().__init__()
        self._title, self._curves, self._top, self._unit = title, curves, top, unit
        self.setMinimumSize(320, 160)

    def paintEvent(self, _event: Any) -> None:  # noqa: N802 - Qt's name
        painter = QtGui.QPainter(self)
        painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
        curves = self._curves()
        text = self.palette().color(QtGui.QPalette.ColorRole.WindowText)
        faint = QtGui.QColor(text)
        faint.setAlpha(50)
        metrics = painter.fontMetrics()
        line, left = metrics.height(), metrics.horizontalAdvance("1000 ms") + 6
        area = QtCore.QRectF(self.rect()).adjusted(left, line + 8, -10, -2 * line - 8)
        painter.fillRect(area, self.palette().color(QtGui.QPalette.ColorRole.Base))
        painter.setPen(text)
        _draw_title(painter, self._title, self.width(), line + 4)

        top = self._top or _nice(max((v for _, curve, _ in curves for _, v in curve.points if not math.isnan(v)), default=1.0))
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            y = area.bottom() - share * area.height()
            painter.setPen(faint)
            painter.drawLine(QtCore.QPointF(area.left(), y), QtCore.QPointF(area.right(), y))
            painter.setPen(text)
            shown = f"{share * top * 100:.0f} %" if self._unit == "%" else f"{share * top:g}{self._unit}"
            box = QtCore.QRectF(0, y - line / 2, left - 4, line)
            painter.drawText(box, _int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter), shown)
        for ago_s in (0, 30, 60, 90, 120):
            x = area.right() - ago_s / SPAN_S * area.width()
            shown = f"-{ago_s} s" if ago_s else "now"
            box = QtCore.QRectF(max(area.left(), min(x - 40, self.width() - 82)), area.bottom() + 2, 80, line)
            sides = {0: Qt.AlignmentFlag.AlignRight, int(SPAN_S): Qt.AlignmentFlag.AlignLeft}
            painter.drawText(box, _int(sides.get(ago_s, Qt.AlignmentFlag.AlignCenter)), shown)

        now_s = max((curve.points[-1][0] for _, curve, _ in curves if curve.points), default=0.0)
        x = area.left()
        for index, (name, curve, colour) in enumerate(curves):
            painter.setPen(QtGui.QPen(colour, 2.0 + 2.0 * (len(curves) - 1 - index)))  # thinner over thicker: all stay in sight
            self._draw(painter, area, curve, now_s, top)
            painter.drawLine(QtCore.QPointF(x, self.height() - line / 2), QtCore.QPointF(x + 14, self.height() - line / 2))
            painter.setPen(text)
            painter.drawText(QtCore.QPointF(x + 18, self.height() - metrics.descent() - 2), name)
            x += 34 + metrics.horizontalAdvance(name)
        painter.end()

    @staticmethod
    def _draw(painter: Any, area: Any, curve: Curve, now_s: float, top: float) -> None:
        before = None
        for time_s, value in curve.points:
            here = None
            if not math.isnan(value):
                x = area.right() - (now_s - time_s) / SPAN_S * area.width()
                here = QtCore.QPointF(max(x, area.left()), area.bottom() - min(value / top, 1.0) * area.height())
                if before is not None:
                    painter.drawLine(before, here)
                else:
                    painter.drawPoint(here)
            before = here


class MaskPanel(QtWidgets.QWidget):
    """The decode mask: a row for each goal, a column for each step; planned steps are pale."""

    def __init__(self, monitor: SloMonitor) -> None:
        super().__init__()
        self._monitor = monitor
        self.setMinimumSize(320, 220)

    def paintEvent(self, _event: Any) -> None:  # noqa: N802 - Qt's name
        painter = QtGui.QPainter(self)
        view = self._monitor.history.mask()
        text = self.palette().color(QtGui.QPalette.ColorRole.WindowText)
        painter.setPen(text)
        title = "decode mask: a row a goal, a column a step; full: a token, dense: several, hatched: prompt, pale: planned"
        metrics = painter.fontMetrics()
        line, left = metrics.height(), metrics.horizontalAdvance("best_effort 000000") + 12
        _draw_title(painter, title, self.width(), line + 4)
        area = QtCore.QRectF(self.rect()).adjusted(left, line + 8, -10, -10)
        painter.fillRect(area, self.palette().color(QtGui.QPalette.ColorRole.Base))
        if not view.rows:
            painter.drawText(area, _int(Qt.AlignmentFlag.AlignCenter), "idle")
            painter.end()
            return
        rows = view.rows[:MOST_ROWS]
        width = area.width() / max(view.columns, 60)
        height = min(area.height() / len(rows), 22.0)
        for index, row in enumerate(rows):
            colour = self._monitor.colour_of(row.label)
            y = area.top() + index * height
            painter.setPen(colour)
            name = QtCore.QRectF(0, y, left - 4, height)
            painter.drawText(name, _int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter), f"{row.label[:11]} {row.goal_id[:6]}")
            for column, cell in enumerate(row.cells):
                if cell:
                    begin, end = (round(area.left() + edge * width) for edge in (column, column + 1))  # whole pixels: equal gaps
                    box = QtCore.QRectF(begin, y + 1.0, max(end - begin - (width >= 3.0), 1), height - 2.0)
                    painter.fillRect(box, _brush(colour, cell, planned=column >= view.cursor))
        painter.setPen(QtGui.QPen(text, 1.0, Qt.PenStyle.DashLine))
        x = area.left() + view.cursor * width
        painter.drawLine(QtCore.QPointF(x, area.top()), QtCore.QPointF(x, area.top() + len(rows) * height))
        if len(view.rows) > MOST_ROWS:
            painter.drawText(QtCore.QPointF(area.left(), area.bottom() - 2), f"and {len(view.rows) - MOST_ROWS} more")
        painter.end()


class GoalTable(QtWidgets.QTableWidget):
    """Goals in hand, the most urgent first, with the time left until their next token is due."""

    def __init__(self) -> None:
        super().__init__(0, 4)
        self.setHorizontalHeaderLabels(["class", "goal", "service", "slack"])
        self.horizontalHeader().setSectionResizeMode(QtWidgets.QHeaderView.ResizeMode.Stretch)
        self.verticalHeader().setVisible(False)
        self.setEditTriggers(QtWidgets.QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)

    def show_status(self, status: Any, colour_of: Callable[[str], Any]) -> None:
        mask = status.mask
        rows = zip(mask.slack_ms, mask.labels, mask.goals, mask.service_classes, strict=True)
        goals = sorted(row for row in rows if not math.isnan(row[0]))  # those of NaN have ended
        self.setRowCount(len(goals))
        for index, (slack_ms, label, goal_id, service_class) in enumerate(goals):
            slack = "no bound" if math.isinf(slack_ms) else f"{slack_ms:.0f} ms"
            for column, text in enumerate((label, goal_id[:12], "real-time" if service_class else "best effort", slack)):
                item = QtWidgets.QTableWidgetItem(text)
                if column == 0:
                    item.setForeground(colour_of(label))
                if column == 3 and slack_ms < 0.0:
                    item.setForeground(QtGui.QColor("#C00000"))
                self.setItem(index, column, item)


def _draw_title(painter: Any, title: str, width: int, height: int) -> None:
    """In the middle, or its beginning where it is too long."""
    shown = painter.fontMetrics().elidedText(title, Qt.TextElideMode.ElideRight, width)
    painter.drawText(QtCore.QRectF(0, 0, width, height), _int(Qt.AlignmentFlag.AlignCenter), shown)


def _drafts(status: Any) -> str:
    return "" if math.isnan(status.draft_acceptance) else f", {status.draft_acceptance:.0%} of guesses right"


def _brush(colour: Any, cell: int, *, planned: bool) -> Any:
    shade = QtGui.QColor(colour)
    if planned:
        shade.setAlpha(80)
    style = Qt.BrushStyle
    return QtGui.QBrush(shade, style.SolidPattern if cell == DECODE else style.Dense3Pattern if cell < 0 else style.Dense5Pattern)


def _int(flag: Any) -> int:
    """A flag as drawText wants it: PyQt6's enums are no integers."""
    return int(getattr(flag, "value", flag))


def _nice(value: float) -> float:
    """The next number above that is 1, 2 or 4 (so that quarters are short) times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(value)) if value > 0.0 else 1.0
    return next((factor * power for factor in (1.0, 2.0, 4.0) if factor * power >= value), 10.0 * power)
