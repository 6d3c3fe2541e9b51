"""Unlike devices behind one dispatcher, on a virtual clock, each with a scheduler of its own, and a network that delays and breaks."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from slice_ros.bench.simulate import Outcome, Recorder
from slice_ros.bench.workload import Arrival
from slice_ros.dispatch.attempt import Attempt
from slice_ros.dispatch.dispatcher import Dispatcher
from slice_ros.dispatch.member import MemberReport
from slice_ros.dispatch.policies import DISPATCH_POLICIES
from slice_ros.dispatch.prompts import CHARACTERS_PER_TOKEN
from slice_ros.engines.simulated import Lengths, SimulatedEngine
from slice_ros.goal import ErrorCode, GoalError
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.clock import VirtualClock
from slice_ros.scheduling.events import Event, Finished, Progress, Snapshot
from slice_ros.scheduling.policies import DEFAULT_POLICY, make_policy
from slice_ros.scheduling.scheduler import SNAPSHOT_PERIOD_S, Scheduler

PING_PERIOD_S = 0.25
"""How often each member is asked for an answer."""
LOOK_PERIOD_S = 0.05
NOTICED_S = 1.5
"""A client knows of its server's death so long after it: its lease and its time to come back are over."""
WARM_UP_S = 1.0
"""The fleet is there for so long before the first goal."""


@dataclass(frozen=True, slots=True)
class Network:
    """Between the dispatcher and each device. Messages of one direction keep their order.

    Args:
        delay_s: of a message, at least.
        jitter_s: how much longer it may take, evenly distributed.
        up_s, down_s: how long it works, and how long it does not, in the mean; lengths are exponential, and 0 = it always works. Messages
            of an outage come when it is over, as they do where the transport is reliable.
        is_fatal: an outage is the death of the device's server, which then starts anew and knows nothing of its goals.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    up_s: float = 0.0
    down_s: float = 0.0
    is_fatal: bool = False


@dataclass(frozen=True, slots=True)
class SimulatedFleet:
    """Serves traffic on a virtual clock. Plain data: it can go to another process.

    Delays and outages are drawn anew for each traffic, the same ones for all policies.

    Args:
        devices: step times of each.
    """

    devices: tuple[LatencyModel, ...]
    network: Network = Network()
    max_batch: int = 16

    engine = "simulated"

    @property
    def device(self) -> str:
        return ", ".join(latency.device for latency in self.devices)

    def run(self, arrivals: Sequence[Arrival], policy: str) -> list[Outcome]:
        """Serve the traffic to its last goal with this dispatch policy; one outcome per arrival, in order of arrival."""
        return _Run(self, policy, arrivals[0].time_s if arrivals else 0.0).serve(arrivals)


@dataclass(slots=True, eq=False)
class _Device:
    name: str
    latency: LatencyModel
    outages: list[tuple[float, float]]
    clock: VirtualClock = field(default_factory=VirtualClock)
    lengths: dict[str, Lengths] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    scheduler: Scheduler = field(init=False)
    last_arrival_s: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    has_work: bool = False

    def up_at(self, now: float) -> float:
        """When a message sent now can leave."""
        return next((end_s for begin_s, end_s in self.outages if begin_s <= now < end_s), now)


class _Run:
    def __init__(self, fleet: SimulatedFleet, policy: str, seed: float) -> None:
        self._fleet = fleet
        self._rng = random.Random(f"delays {seed}")
        self._now = 0.0
        self._numbers = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._answers: dict[str, Lengths] = {}
        self._max_tokens: dict[str, int] = {}
        self._devices = {
            f"{i}": _Device(f"{i}", latency, self._outages(random.Random(f"outages {seed} {i}"))) for i, latency in enumerate(fleet.devices)
        }
        self._recorder = Recorder()
        self.dispatcher = Dispatcher(DISPATCH_POLICIES[policy](), self, self._recorder, lambda: self._now)
        for device in self._devices.values():
            self._start(device)
            self.dispatcher.join(device.name)
            self._at(0.0, partial(self._tick, device))
            self._at(0.0, partial(self._ping, device))
            for begin_s, end_s in device.outages if fleet.network.is_fatal else ():
                self._at(begin_s, partial(self._kill, device))
                self._at(begin_s + NOTICED_S, partial(self.dispatcher.lost, device.name))
                self._at(end_s, partial(self._come_back, device))
        self._at(0.0, self._look)

    def serve(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        shifted = [replace(a, time_s=a.time_s + WARM_UP_S) for a in arrivals]
        for arrival in shifted:
            request = arrival.request
            prompt = request.goal_id.ljust(int(CHARACTERS_PER_TOKEN * arrival.lengths.prompt_tokens), ".")
            self._answers[request.goal_id], self._max_tokens[request.goal_id] = arrival.lengths, request.max_tokens
            self._at(arrival.time_s, partial(self.dispatcher.submit, replace(request, prompt=prompt, submitted_s=arrival.time_s)))
        while len(self._recorder) < len(arrivals):
            self._turn()
        return [replace(self._recorder.outcome(late), arrival=arrival) for late, arrival in zip(shifted, arrivals, strict=True)]

    def _turn(self) -> None:
        """What comes first: a step of the device whose clock is behind all others, or the next message."""
        busy = min((device for device in self._devices.values() if device.has_work), key=lambda device: device.clock.now(), default=None)
        if busy is not None and busy.clock.now() <= self._queue[0][0]:
            busy.has_work = busy.scheduler.turn()
            return
        self._now, _, act = heapq.heappop(self._queue)
        act()

    def _at(self, when_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when_s, next(self._numbers), act))

    # ---- the network

    def _outages(self, rng: random.Random) -> list[tuple[float, float]]:
        network, outages, at_s = self._fleet.network, list[tuple[float, float]](), WARM_UP_S
        while network.up_s > 0.0 and at_s < 1e5:
            begin_s = at_s + rng.expovariate(1.0 / network.up_s)
            at_s = begin_s + rng.expovariate(1.0 / network.down_s)
            outages.append((begin_s, at_s))
        return outages

    def _over(self, device: _Device, sent_s: float, act: Callable[[], None], *, back: bool) -> None:
        """Have something happen at the other end of the way to a device, or back."""
        network = self._fleet.network
        there_s = sent_s + network.delay_s + network.jitter_s * self._rng.random()
        if not network.is_fatal:
            there_s = max(there_s, device.up_at(sent_s), device.up_at(there_s))
        there_s = device.last_arrival_s[back] = max(there_s, device.last_arrival_s[back])
        self._at(there_s, act)

    # ---- the dispatcher's link

    def send(self, attempt: Attempt) -> str:
        device = self._devices[attempt.member.name]
        remote_id = f"{attempt.goal_id} {next(self._numbers)}"
        device.attempts[remote_id] = attempt
        whole = self._answers[attempt.goal_id]
        given = self._max_tokens[attempt.goal_id] - attempt.request.max_tokens
        device.lengths[remote_id] = Lengths(whole.prompt_tokens + given, max(1, whole.output_tokens - given), whole.forced)
        self._over(device, self._now, partial(self._arrive, device, remote_id, attempt), back=False)
        return remote_id

    def withdraw(self, attempt: Attempt) -> None:
        device = self._devices[attempt.member.name]
        scheduler = device.scheduler
        self._over(device, self._now, partial(scheduler.cancel, attempt.remote_id), back=False)

    # ---- at a device

    def _start(self, device: _Device) -> None:
        engine = SimulatedEngine(device.latency, device.clock, device.lengths)
        emit = partial(self._emit, device)
        policy = make_policy(DEFAULT_POLICY)
        device.scheduler = Scheduler(engine, policy, device.latency, emit, clock=device.clock, max_batch=self._fleet.max_batch)

    def _arrive(self, device: _Device, remote_id: str, attempt: Attempt) -> None:
        if remote_id not in device.attempts or self._is_dead(device):
            return  # nobody takes it
        self._catch_up(device)
        request = replace(attempt.request, goal_id=remote_id, submitted_s=self._now, answer_prefix="")
        try:
            device.scheduler.submit(request)
        except GoalError as error:
            self._over(device, self._now, partial(self._ended, device, remote_id, None, error), back=True)
            return
        device.has_work = True

    def _catch_up(self, device: _Device) -> None:
        device.clock.advance(max(0.0, self._now - device.clock.now()))

    def _emit(self, device: _Device, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Snapshot):
                info = event
                report = MemberReport(
                    True, "simulated", device.latency.device, (), info.kv_total, info.latency, info.limits, info.steps, info.in_hand
                )
                act: Callable[[], None] = partial(self.dispatcher.heard, device.name, report)
            elif isinstance(event, Progress):
                act = partial(self._progressed, device, event)
            elif isinstance(event, Finished):
                error = None if event.error_code is ErrorCode.NONE else GoalError(event.error_code, event.error_msg)
                act = partial(self._ended, device, event.goal_id, event, error)
            else:
                continue
            self._over(device, device.clock.now(), act, back=True)

    def _progressed(self, device: _Device, event: Progress) -> None:
        attempt = device.attempts.get(event.goal_id)
        if attempt is not None:
            self.dispatcher.progressed(attempt, event.text, event.report.output_tokens - attempt.task.tokens, event.report)

    def _ended(self, device: _Device, remote_id: str, end: Finished | None, error: GoalError | None) -> None:
        attempt = device.attempts.pop(remote_id, None)
        if attempt is not None:
            self.dispatcher.ended(attempt, None if end is None else end.reason, error)

    # ---- time

    def _tick(self, device: _Device) -> None:
        """A device without work tells its status, too."""
        if not device.has_work and not self._is_dead(device):
            self._catch_up(device)
            device.has_work = device.scheduler.turn()
        self._at(self._now + SNAPSHOT_PERIOD_S, partial(self._tick, device))

    def _ping(self, device: _Device) -> None:
        sent_s = self._now

        def asked() -> None:
            if not self._is_dead(device):
                self._over(device, self._now, lambda: self.dispatcher.answered(device.name, self._now - sent_s), back=True)

        self._over(device, sent_s, asked, back=False)
        self._at(self._now + PING_PERIOD_S, partial(self._ping, device))

    def _look(self) -> None:
        self.dispatcher.look()
        self._at(self._now + LOOK_PERIOD_S, self._look)

    def _is_dead(self, device: _Device) -> bool:
        return self._fleet.network.is_fatal and device.up_at(self._now) > self._now

    def _kill(self, device: _Device) -> None:
        """Its goals are gone, and nobody says so."""
        device.attempts.clear()
        device.has_work = False
        self._start(device)

    def _come_back(self, device: _Device) -> None:
        self._catch_up(device)
