"""The action server node ``slice_server``: a managed node, which starts its engine, opens for goals, and closes again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.task import Future

from slice_ros.goal import ErrorCode, GoalError
from slice_ros.parameters.table import PARAMETERS, Parameter, ParameterError, Value
from slice_ros.process.host import EngineHost, EngineState
from slice_ros.process.protocol import Ready
from slice_ros.ros import qos
from slice_ros.ros.distributions import describe_network
from slice_ros.ros.interfaces import SloStatus
from slice_ros.scheduling.engine import EngineError
from slice_ros.scheduling.events import Event, Finished, Progress, Sent, Snapshot
from slice_ros.server.bond import Heartbeat
from slice_ros.server.checks import Checks
from slice_ros.server.goals import Goals
from slice_ros.server.host import Host
from slice_ros.server.lifecycle import ManagedNode, TransitionError
from slice_ros.server.parameters import ServerParameters
from slice_ros.server.slo_clock import LOOK_PERIOD_S, SloClock
from slice_ros.server.telling import Telling

DISCOVERY_S = 5.0
"""How long a new server listens to another one of its name; Fast DDS may take 3 s to find one on the same machine."""

DRAIN_S = 1.0
"""How long the goals in flight may take to get their results when the server stops, ..."""

LEAVE_S = 0.1
"""... and how long the last of these may take to leave."""

DIAGNOSTICS_PERIOD_S = 1.0
SENDERS_PERIOD_S = 0.5
STEADY = Clock(clock_type=ClockType.STEADY_TIME)
"""What every timer goes by, whatever the node's clock does."""

EVENTS_AT_ONCE = 32
"""The engine's events that are handled before a status, a goal or a cancel has its turn: two full steps, some milliseconds."""


class ServerError(TransitionError):
    """The server cannot start; the sentence says why."""


class SliceServer(ManagedNode):
    """Serves ``~/generate`` (action) and ``~/check_slo`` (service); tells ``~/slo_status``, ``~/goal_events`` and ``/diagnostics``.

    Configuring starts the engine, activating lets goals in, deactivating lets them end, cleaning up frees the engine's memory.
    A transition that fails leads through error processing, which stops the engine, back to unconfigured.

    Transitions are coroutines of the executor, and nothing in them blocks it: a cancel is heard while the server drains.

    Raises:
        ServerError: a parameter is wrong.
    """

    default_name = "slice_server"
    table: Mapping[str, Parameter] = PARAMETERS
    free_parameters: tuple[str, ...] = ()

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(
            self.default_name, automatically_declare_parameters_from_overrides=True, allow_undeclared_parameters=True, **node_arguments
        )
        self._offered_s = 0.0
        self._others: Any = None
        self.conflict = ""
        """Why this server must end: there is another one of its name."""
        self._host: Host | None = None
        self._active = False
        self._events: deque[Event] = deque()
        self._is_woken = False
        self._heartbeat: Heartbeat | None = None
        self._is_idle: Future | None = None
        self._is_closing = False
        try:
            self._parameters_now = ServerParameters(
                self, lambda: self._host is not None, self._change_live, self.table, self.free_parameters
            )
        except ParameterError as error:
            raise ServerError(str(error)) from error
        self._telling = Telling(self, self._parameters_now)
        self._slo_clock = SloClock(self, str(self._parameters_now["slo.clock"]))
        self._every(LOOK_PERIOD_S, self._slo_clock.look)
        self._goals: Goals | None = None
        self._checks: Checks | None = None
        self._every(DIAGNOSTICS_PERIOD_S, lambda: self._telling.publish_diagnostics(self.failure))

    async def start(self) -> None:
        """Configure and activate.

        Raises:
            ServerError: one of them failed.
        """
        for transition in ("configure", "activate"):
            if not await self.change_state(transition):
                raise ServerError(self.failure)

    # ---- transitions

    async def on_configure(self) -> None:
        host = self._host = self._make_host()
        try:
            ready = await self._in_thread(host.start)
        except EngineError as error:
            raise ServerError(str(error)) from error
        if self._goals is None or self._checks is None:
            if self.count_publishers("~/slo_status"):
                self._give_way()
                raise ServerError(self.conflict)
            self._offer()
        self._use(host, ready)
        self.get_logger().info(f"configured: {self._describe(ready)}; {describe_network()}")

    async def on_activate(self) -> None:
        self._check_engine()
        self._open(True)
        self._heartbeat = Heartbeat(self, float(self._parameters_now["lifecycle.bond_period_s"]))
        self.get_logger().info("active: goals are accepted")

    async def on_deactivate(self) -> None:
        self._close_for_goals()
        self._check_engine()
        await self._idle(float(self._parameters_now["lifecycle.drain_s"]))
        if self._goals is not None:
            self._goals.end_all(GoalError(ErrorCode.SHUTTING_DOWN, "the server was deactivated; send the goal again when it is back"))
        await self._idle(DRAIN_S)
        self.get_logger().info("inactive: goals are rejected")

    async def on_cleanup(self) -> None:
        await self._stop_engine()
        self.get_logger().info("unconfigured: the engine's memory is free")

    async def on_shutdown(self) -> None:
        self._close_for_goals()
        await self._stop_engine()

    async def on_error(self) -> None:
        self._close_for_goals()
        await self._stop_engine()

    def _make_host(self) -> Host:
        """What serves the goals from now on."""
        return EngineHost(self._parameters_now.values, self._receive, restart=bool(self._parameters_now["engine.restart"]))

    def _describe(self, ready: Ready) -> str:
        """What serves, in words."""
        info = ready.info
        policy = self._parameters_now["scheduler.policy"]
        return f"{info.model} on {info.device} with policy {policy}, {info.context_tokens} KV cells, {info.max_sequences} sequences"

    def _check_engine(self) -> None:
        """Raises:
        ServerError: the engine died for good.
        """
        if self._host is None or self._host.state is EngineState.FAILED:
            raise ServerError((self._host.failure if self._host is not None else "") or "the engine process is gone")

    def _offer(self) -> None:
        """What others can reach; it stays for the node's life, so that nobody's request is lost between two configurations."""
        self._others = self.create_subscription(SloStatus, "~/slo_status", self._meet, qos.SERVICE)
        self._telling.offer()
        self._offered_s = time.monotonic()
        self._every(1.0 / float(self._parameters_now["status.rate_hz"]), self._look)
        self._checks = Checks(self, self._parameters_now, self._slo_clock)
        self._goals = Goals(self, self._parameters_now, self._telling, self._slo_clock)
        self._every(SENDERS_PERIOD_S, self._goals.end_orphans)

    def _use(self, host: Host | None, ready: Any = None) -> None:
        """Serve with this engine from now on."""
        self._host = host
        self._telling.engine(host, ready)
        if self._goals is not None and self._checks is not None:
            self._goals.host = self._checks.host = host

    def _meet(self, status: SloStatus) -> None:
        """Hear the status of any server of this name: of two, the one that started later gives way."""
        if status.instance < self._telling.instance and not self.conflict:
            self._give_way()
            self._close_for_goals()

    def _give_way(self) -> None:
        self.conflict = (
            f"a server named {self.get_fully_qualified_name()} is running already; stop it, or give this one another name (-r __node:=NAME)"
        )

    def _open(self, is_open: bool) -> None:
        self._active = self._telling.is_open = is_open
        if self._goals is not None:
            self._goals.is_open = is_open

    def _close_for_goals(self) -> None:
        self._open(False)
        if self._heartbeat is not None:
            self._heartbeat.end()
            self._heartbeat = None

    async def _stop_engine(self) -> None:
        if self._host is not None:
            await self._in_thread(self._host.stop)
            while self._events:
                self._handle_events()
        self._use(None)

    # ---- time and threads

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        """What a function that blocks returns or raises; the executor goes on meanwhile."""
        done = Future(executor=self.executor)

        def call() -> None:
            try:
                end = partial(done.set_result, function())
            except Exception as error:
                end = partial(done.set_exception, error)
            if not self._is_closing:  # nobody is to go on with what the end of the server has cut short
                self._soon(end)

        threading.Thread(target=call, name="transition", daemon=True).start()
        return await done

    async def _idle(self, timeout_s: float) -> None:
        """Until no goal is in flight, but not for longer than that."""
        if self._goals:
            self._is_idle = Future(executor=self.executor)
            await self._sleep(timeout_s, self._is_idle)

    async def _sleep(self, timeout_s: float, until: Future | None = None) -> None:
        """Until a future is done, but not for longer than that."""
        over = until or Future(executor=self.executor)

        def end() -> None:
            if not over.done():
                over.set_result(None)

        timer = self._every(max(0.0, timeout_s), end)
        await over
        self.destroy_timer(timer)

    def _every(self, period_s: float, callback: Callable[[], None]) -> Any:
        return self.create_timer(period_s, callback, clock=STEADY)

    def _soon(self, callback: Callable[[], Any]) -> None:
        """Have the executor call this; from any thread."""
        if self.executor is not None:
            self.executor.create_task(callback)

    # ---- events of the engine

    def _receive(self, events: list[Event]) -> None:
        """Runs on the host's thread; the executor takes it from here."""
        self._events.extend(events)
        self._wake()

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._soon(self._handle_events)

    def _handle_events(self) -> None:
        """Take in some of what the engine has said; the rest comes after whatever else is due."""
        self._is_woken = False
        for _ in range(min(len(self._events), EVENTS_AT_ONCE)):
            event = self._events.popleft()
            if isinstance(event, Snapshot):
                self._telling.stepped(event)
            elif self._goals is None or self._checks is None:
                continue
            elif isinstance(event, Progress):
                self._goals.progress(event)
            elif isinstance(event, Finished):
                self._goals.finished(event)
            elif isinstance(event, Sent):
                self._goals.sent(event)
            else:
                self._checks.answered(event)
        if self._events:
            self._wake()
        if not self._goals and self._is_idle is not None and not self._is_idle.done():
            self._is_idle.set_result(None)

    def _look(self) -> None:
        if self._others is not None and time.monotonic() - self._offered_s > DISCOVERY_S:
            self.destroy_subscription(self._others)
            self._others = None
        self._telling.publish_status()
        if self._active and self._host is not None and self._host.state is EngineState.FAILED:
            self._close_for_goals()
            self._soon(partial(self.change_state, "deactivate"))

    # ---- parameters and end

    def _change_live(self, values: dict[str, Value]) -> None:
        if self._host is not None and values:
            self._host.set_parameters(values)

    def close(self, executor: Any) -> None:
        """End every goal with SHUTTING_DOWN, see their results out, and stop the engine."""
        self._is_closing = True
        self._close_for_goals()
        if self._host is not None:
            self._host.stop()
        deadline = time.monotonic() + DRAIN_S
        while self._goals and time.monotonic() < deadline:
            turn(executor, 0.05)
        # The results are set; their replies leave with the executor's next turns.
        deadline = min(deadline, time.monotonic() + LEAVE_S)
        while time.monotonic() < deadline:
            turn(executor, 0.02)
        if self._goals is not None:
            self._goals.close()


def turn(executor: Any, timeout_s: float) -> None:
    """One turn of an executor; what a callback raises is told, and ends nobody: rclpy's parameter services raise at an unknown type."""
    try:
        executor.spin_once(timeout_sec=timeout_s)
    except ExternalShutdownException:
        raise
    except Exception as error:
        get_logger("slice_server").error(f"a callback raised {error!r}, and the server goes on")
