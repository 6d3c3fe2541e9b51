"""The demo in a window: the rooms seen from above, and how it goes (needs Qt)."""

from __future__ import annotations

import math
import sys
from typing import Any

from slice_ros.demo.log import Log
from slice_ros.demo.look import ASKING, BAD, FAINT, IDLE, PERSON, ROBOT, WALL
from slice_ros.demo.results import sentence
from slice_ros.demo.views import Moment
from slice_ros.demo.world import HEIGHT, PERSON_RADIUS, ROBOT_RADIUS, Point
from slice_ros.monitor.qt import QtCore, QtGui, QtWidgets


class Window:
    """A view that paints; it is closed by its user or with the program."""

    def __init__(self) -> None:
        self._application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(sys.argv[:1])
        self.widget = MapWidget()
        self.widget.resize(1000, 520)
        self.widget.show()

    def draw(self, moment: Moment) -> None:
        """Show it, and answer the user.

        Raises:
            KeyboardInterrupt: the user closed the window.
        """
        if not self.widget.isVisible():
            raise KeyboardInterrupt
        self.widget.moment = moment
        self.widget.update()
        self._application.processEvents()


class MapWidget(QtWidgets.QWidget):
    """Paints a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.setWindowTitle("slice-ros demo")
        self.moment: Moment | None = None

    def paintEvent(self, _event: Any) -> None:  # noqa: N802 - Qt's name
        painter = QtGui.QPainter(self)
        painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), QtGui.QColor("white"))
        if self.moment is not None:
            _Drawing(painter, self.width(), self.height(), self.moment).draw()
        painter.end()


class _Drawing:
    """One painting: text above, the map below."""

    def __init__(self, painter: Any, width: int, height: int, moment: Moment) -> None:
        self._painter, self._moment = painter, moment
        self._line = painter.fontMetrics().height() + 2
        top = self._line * (3 + len(moment.logs))
        self._scale = min((width - 20) / moment.log.floor.width, (height - top - 10) / HEIGHT)
        self._origin = (10.0, top + HEIGHT * self._scale)

    def draw(self) -> None:
        moment = self._moment
        figures = moment.log.figures(moment.at_s)
        self._painter.setPen(QtGui.QColor("black"))
        lines = [sentence(log) for log in moment.logs[:-1]]
        lines.append(f"{moment.title}, seed {moment.log.seed}")
        lines.append(f"{moment.at_s:.1f} s   bumps {figures.bumps}   answered late {figures.late} of {figures.commands}")
        if moment.status is not None:
            lines.append(f"{moment.status.model} on {moment.status.device}")
        for i, line in enumerate(lines, 1):
            self._painter.drawText(10, i * self._line, line)
        self._draw_floor(moment.log)
        self._draw_moment(moment.log, moment.at_s)

    def _draw_floor(self, log: Log) -> None:
        floor = log.floor
        self._painter.setPen(QtGui.QPen(QtGui.QColor(WALL), 3))
        for a, b in floor.walls:
            self._painter.drawLine(self._point(a), self._point(b))
        for i, (room, landmark, (x, y)) in enumerate(zip(floor.rooms, floor.landmarks, floor.spots, strict=True)):
            self._text((floor.width / len(floor.rooms) * (i + 0.5), HEIGHT - 0.2), room, FAINT)
            self._circle((x, y), 0.06, IDLE)
            self._text((x, y - 0.25), landmark, IDLE)
        for seat in floor.seats:
            self._circle(seat, PERSON_RADIUS, "lightgrey")

    def _draw_moment(self, log: Log, at_s: float) -> None:
        pose = log.pose(at_s)
        for bump in log.bumped_at(at_s):
            self._text(bump, "✗", BAD)
        for person in pose.people:
            self._circle(person, PERSON_RADIUS, PERSON)
        for seat, state in log.asking(at_s).items():
            sign, colour = ASKING[state]
            self._circle(log.floor.seats[seat], PERSON_RADIUS, colour)
            self._text(log.floor.seats[seat], sign, "white")
        self._circle(pose.at, ROBOT_RADIUS, ROBOT[pose.state])
        (x, y), reach = pose.at, ROBOT_RADIUS
        self._painter.setPen(QtGui.QPen(QtGui.QColor("white"), 3))
        nose = (x + reach * math.cos(pose.heading), y + reach * math.sin(pose.heading))
        self._painter.drawLine(self._point(pose.at), self._point(nose))

    def _point(self, at: Point) -> Any:
        return QtCore.QPointF(self._origin[0] + at[0] * self._scale, self._origin[1] - at[1] * self._scale)

    def _circle(self, at: Point, radius: float, colour: str) -> None:
        self._painter.setPen(QtCore.Qt.PenStyle.NoPen)
        self._painter.setBrush(QtGui.QColor(colour))
        self._painter.drawEllipse(self._point(at), radius * self._scale, radius * self._scale)

    def _text(self, middle: Point, text: str, colour: str) -> None:
        self._painter.setPen(QtGui.QColor(colour))
        at, wide = self._point(middle), 200.0
        box = QtCore.QRectF(at.x() - wide / 2, at.y() - self._line / 2, wide, self._line)
        self._painter.drawText(box, QtCore.Qt.AlignmentFlag.AlignCenter, text)
