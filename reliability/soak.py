"""Loads a server beyond its limit for long, then all at once: ``python -m reliability.soak``.

Three parts: goals at 1.2 times what the machine can serve, then a burst within one second, then many clients at once. Meanwhile status is
watched and goals are canceled; afterwards every goal's verdict is recomputed from the published events.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import psutil
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from reliability.isolation import isolate
from reliability.load import draw
from reliability.processes import Footprint, Fronted, LoadClient, Server, busy_s
from reliability.records import Record, read
from reliability.report import Check, conclude
from reliability.verdicts import FINISHED, ROUNDING_S, Lives, disagreements, observed, reported, spread
from slice_ros.client import Generation, SliceClient
from slice_ros.engines.llama.shapes import make_start_model
from slice_ros.ros.interfaces import GoalEvent, SloStatus
from slice_ros.ros.qos import GOAL_EVENTS

NAME = "soak"
OVERLOAD = 1.2
READY_S = 90.0
STATUS_PERIOD_S = 0.5
ANSWER_S = 0.1
"""Status and cancel are answered within this, ..."""
HEARD_S = 1.0
"""The observer hears a status after this at most; clients take a server for dead after two."""
CANCEL_PERIOD_S = 5.0
LOOK_PERIOD_S = 2.0
GROWTH = 0.03
SETTLED_GOALS = 2000
"""Before that, heaps find their size, and cells of the KV cache are touched first: shorter runs tell memory, and do not judge it."""
DRIFT = 0.02
PROCESSES = 4
"""Clients of a burst come from so many processes."""


class Look(NamedTuple):
    """What a server holds at one moment, bytes of its processes and goals, and how many seconds of processor time were taken by then.

    Those of clients are NaN where one of them has just left.
    """

    node: int
    engine: int
    in_hand: int
    node_busy_s: float
    clients_busy_s: float


class Observer:
    """A node of this process: it hears status and events, and cancels a goal of its own now and then."""

    def __init__(self) -> None:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("observer")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.client = SliceClient(self.node, f"/{NAME}")
        self.lives = Lives()
        self.node.create_subscription(GoalEvent, f"/{NAME}/goal_events", self.lives.hear, GOAL_EVENTS)
        self.node.create_subscription(SloStatus, f"/{NAME}/slo_status", self._hear, 100)
        self._published_s = float("nan")
        self.status = SloStatus()
        """The latest."""
        self.gaps_s: list[float] = []
        """From one status to the next, by their stamps: this node has thousands of events to read beside them."""
        self.heard_s: list[float] = []
        """From a status's stamp until it is heard here."""
        self.cancels_s: list[float] = []
        self._canceled: Generation | None = None
        self._asked_s = 0.0
        self._next_s = 0.0

    def _hear(self, status: SloStatus) -> None:
        published_s = status.stamp.sec + 1e-9 * status.stamp.nanosec
        self.gaps_s.append(published_s - self._published_s)
        self.heard_s.append(time.time() - published_s)
        self._published_s, self.status = published_s, status

    def turn(self) -> None:
        """Look once, for a twentieth of a second at most."""
        self._executor.spin_once(timeout_sec=0.05)

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Look until the condition holds; whether it did in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline_s:
            self.turn()
        return condition()

    def cancel_now_and_then(self) -> None:
        now = time.monotonic()
        goal = self._canceled
        if goal is None:
            if now >= self._next_s:
                self._canceled, self._asked_s = self.client.send("tell me everything", max_tokens=2000, label="cancel", stream=False), 0.0
                self._next_s = now + CANCEL_PERIOD_S
        elif goal.done:
            if self._asked_s:
                self.cancels_s.append(now - self._asked_s)
            self._canceled = None
        elif not self._asked_s and goal._is_taken and now >= self._next_s - CANCEL_PERIOD_S / 2:
            self._asked_s = now
            goal.cancel()

    def close(self) -> None:
        self.client.destroy()
        self.node.destroy_node()
        rclpy.try_shutdown()


def capacity(observer: Observer, scale: float, goals: int, rng: random.Random) -> float:
    """Goals of the mix a second that the server can complete: of many at once, without bounds."""
    began = time.monotonic()
    sent = []
    for _ in range(goals):
        words, fields = draw(rng, scale)
        sent.append(observer.client.send(words, max_tokens=fields["max_tokens"], label="warm-up"))
    if not observer.until(lambda: all(goal.done for goal in sent), READY_S):
        raise RuntimeError(f"the server did not end {goals} goals within {READY_S:g} s")
    return goals / (time.monotonic() - began)


class Soak:
    """One run.

    Args:
        folder: for the model, logs and records.
        goals, minutes: of the first part.
        burst: goals within one second.
        crowd: clients at once.
        slowness: times are allowed to be so much longer.
        dispatcher: whether the goals go through one.
    """

    def __init__(
        self, folder: Path, goals: int, minutes: float, burst: int, crowd: int, seed: int, slowness: float, *, dispatcher: bool
    ) -> None:
        make_start_model(folder / "model.gguf")
        arguments = ("--model", str(folder / "model.gguf"), "--n-ctx", "16384", "-p", "limits.max_tokens:=16384")
        self._server = (Fronted if dispatcher else Server)(NAME, folder / "server.log", arguments)
        self._folder, self._goals, self._seconds, self._burst, self._crowd = folder, goals, minutes * 60.0, burst, crowd
        self._rng, self._slowness = random.Random(seed), slowness
        self._clients: list[LoadClient] = []
        self._looks: list[Look] = []
        self.figures: dict[str, object] = {}
        self.checks: list[Check] = []

    def run(self) -> None:
        """Do it all; everything it started is gone afterwards."""
        self._server.start()
        observer = Observer()
        try:
            observer.client.wait_for_server(READY_S)
            rate, scale = self._fit(observer)
            observer.gaps_s.clear()
            observer.heard_s.clear()
            steady = self._part(observer, "steady", self._steady(rate, scale))
            looks = list(self._looks)
            each = max(1, self._burst // PROCESSES)
            burst = self._part(observer, "burst", [("--goals", str(each), "--rate", "0", "--scale", "0")] * PROCESSES)
            each = max(1, self._crowd // PROCESSES)
            many = ("--goals", str(each), "--clients", str(each), "--rate", "0", "--scale", "0")
            crowd = self._part(observer, "crowd", [many] * PROCESSES)
            observer.until(lambda: all(life.end is not None for life in observer.lives.of.values()), 10.0)
            # Not before: who reads does not hear the status.
            self._judge(records_of(steady), records_of([*burst, *crowd]), looks, observer)
        finally:
            for client in self._clients:
                client.kill()
            self._server.stop()
            observer.close()

    def _fit(self, observer: Observer) -> tuple[float, float]:
        """The rate that brings the goals about in time, and how long their answers must be for that to be too much."""
        rate, scale, found = self._goals / self._seconds, 1.0, 0.0
        for _ in range(5):
            found = capacity(observer, scale, 60, self._rng)
            excess = OVERLOAD * found / rate
            if 0.95 < excess < 1.05:
                break
            scale, found = scale * excess, found / excess  # as it should be found
        self.figures |= {
            "load": f"{rate:.2f} goals/s, {rate / found:.2f} of the {found:.2f} goals/s that were served at once; answers x {scale:.2f}"
        }
        return rate, scale

    def _steady(self, rate: float, scale: float) -> list[tuple[str, ...]]:
        each = self._goals // 3
        return [("--goals", str(each), "--rate", str(rate / 3), "--scale", str(scale))] * 3

    def _part(self, observer: Observer, name: str, clients: list[tuple[str, ...]]) -> list[LoadClient]:
        """Run these clients to their end, from one moment on."""
        go = self._folder / f"{name}.go"
        common = ("--patience", "120", "--start-when", str(go))
        is_quiet = self._slowness <= 1.0  # else whatever makes the machine slow would keep the clients from hearing the server at all
        started = [
            LoadClient(
                NAME,
                self._folder / f"{name}{i}.jsonl",
                *("--seed", str(self._rng.randrange(10**6)), *common, *arguments),
                stands_back=is_quiet,
            )
            for i, arguments in enumerate(clients)
        ]
        self._clients += started
        observer.until(lambda: all(client.records.exists() for client in started), READY_S)
        go.touch()
        deadline_s = time.monotonic() + self._seconds + 300.0
        look_s = 0.0
        while any(client.is_running for client in started) and time.monotonic() < deadline_s:
            observer.turn()
            observer.cancel_now_and_then()
            if (now := time.monotonic()) >= look_s and (engine := self._server.engine_pid) is not None:
                status = observer.status
                node, parked = Footprint.of(self._server.pid).memory, status.kv_parked_bytes  # kept of goals which gave way, as it may
                clients_busy_s = math.nan
                with suppress(psutil.Error):
                    clients_busy_s = sum(busy_s(client.pid) for client in started)
                memory, in_hand = Footprint.of(engine).memory - parked, status.queued + status.running
                self._looks.append(Look(node, memory, in_hand, busy_s(self._server.pid), clients_busy_s))
                look_s = now + LOOK_PERIOD_S
        return started

    def _judge(
        self,
        steady: Mapping[str, Record],
        sudden: Mapping[str, Record],
        looks: Sequence[Look],
        observer: Observer,
    ) -> None:
        records = {**steady, **sudden}
        lives = observer.lives.of
        codes = Counter(record.code for record in records.values())
        lost = [goal_id for goal_id, record in records.items() if len(record.ends) != 1]
        refused = [record for record in sudden.values() if record.code != "NONE"]
        first, second = attainment_of_halves(steady)
        fifth = max(1, len(looks) // 5)  # the first one warms up
        early, late = looks[fifth : 2 * fifth] or looks[:1], looks[-fifth:]
        status_s, cancel_s = max(observer.gaps_s) - STATUS_PERIOD_S, max(observer.cancels_s, default=float("nan"))
        whole = [life for life in lives.values() if life.is_whole]
        served = [life for life in whole if life.has_succeeded]
        bounded = [life for goal_id, life in lives.items() if goal_id in steady and life.has_succeeded]
        delays_s = [life.delays_s() for life in served]
        apart_s = max((abs(delay_s) for life in bounded for delay_s in life.delays_s()), default=0.0)
        client_first = [r.first_s - r.sent_s - r.report["ttft_s"] for r in records.values() if r.first_s is not None and r.code == "NONE"]
        client_last = [r.ends[0] - r.sent_s - r.report["e2e_s"] for r in records.values() if r.code == "NONE"]
        soonest_s = min((*client_first, *client_last), default=0.0)
        allowed_s = ANSWER_S * self._slowness
        wrong, _ = disagreements(whole, lambda life: reported(life.end))
        far, near = disagreements(bounded, observed, allowed_s)
        self.checks += [
            Check(
                "no goal is lost", not lost and len(records) >= self._goals * 0.99, f"{len(records)} goals, {len(lost)} not with one end"
            ),
            Check("a burst and a crowd are served to the last", not refused, f"{len(sudden)} goals, {len(refused)} without success"),
            Check(
                "every goal's end is published once", all(life.counts.get(FINISHED) == 1 for life in lives.values()), f"{len(lives)} goals"
            ),
            Check(
                f"status is published within {allowed_s:g} s of when it is due", status_s <= allowed_s, f"latest {status_s * 1e3:.0f} ms"
            ),
            Check(
                f"status is heard within {HEARD_S * self._slowness:g} s of that, beside every event",
                max(observer.heard_s) <= HEARD_S * self._slowness,
                f"latest {max(observer.heard_s) * 1e3:.0f} ms",
            ),
            Check(
                f"a canceled goal ends within {allowed_s:g} s",
                cancel_s <= allowed_s,
                f"{len(observer.cancels_s)} cancels, slowest {cancel_s * 1e3:.0f} ms",
            ),
            Check(
                "real-time attainment does not drift",
                abs(first - second) <= DRIFT * self._slowness,
                f"first half {first:.3f}, second {second:.3f}",
            ),
            Check("verdicts follow from the reported times, in every goal", not wrong, f"{len(whole)} goals, {wrong} otherwise"),
            Check(
                f"reported times are those between the events' stamps, within {allowed_s:g} s for publishing",
                apart_s <= allowed_s,
                f"{len(bounded)} goals with bounds, at most {apart_s * 1e3:.1f} ms apart",
            ),
            Check(
                f"verdicts follow from the stamps alone, where no time is within {allowed_s:g} s of its bound",
                not far,
                f"{len(bounded)} goals with bounds, {far} otherwise, and {near} of those on a bound",
            ),
            Check(
                "no client saw a token before its reported time",
                soonest_s >= -ROUNDING_S,
                f"{len(client_last)} goals, soonest {soonest_s * 1e3:.2f} ms after it",
            ),
        ]
        for what in ("node", "engine"):
            growth = Growth(*(median(getattr(look, what) for look in part) for part in (early, late)))
            if self._goals >= 5 * SETTLED_GOALS:
                self.checks.append(Check(f"the {what}'s memory does not grow", growth.share < GROWTH * self._slowness, str(growth)))
            else:
                self.figures[f"memory of the {what}, from the second fifth to the last"] = growth
        streamed = sum(record.report.get("output_tokens", 0) for record in steady.values())
        busy = [(look.node_busy_s, look.clients_busy_s) for look in looks if not math.isnan(look.clients_busy_s)] or [(math.nan, math.nan)]
        node_us, client_us = (1e6 * (end - begin) / max(1, streamed) for begin, end in zip(busy[0], busy[-1], strict=True))
        self.figures |= {
            "processor time per streamed token": f"{node_us:.0f} µs of the node, {client_us:.0f} µs of its client; {streamed} tokens",
            "ends": ", ".join(f"{code} {count}" for code, count in codes.most_common()),
            "stamp of a first token's event, after the token": spread(first_s for first_s, _ in delays_s),
            "stamp of an end's event, after the last token": spread(last_s for _, last_s in delays_s),
            "first token at its client, after the token": spread(client_first),
            "end at its client, after the last token": spread(client_last),
            "status published, after it was due": spread(gap - STATUS_PERIOD_S for gap in observer.gaps_s),
            "status heard, after it was published": spread(observer.heard_s),
            "goals in hand, second and last fifth": ", ".join(f"{mean([look.in_hand for look in part]):.0f}" for part in (early, late)),
            "cancel to end": spread(observer.cancels_s),
        }


def records_of(clients: Iterable[LoadClient]) -> dict[str, Record]:
    """What they noted of each goal."""
    return read(client.records for client in clients)


class Growth(NamedTuple):
    """Memory of a process, in bytes, at two times."""

    early: float
    late: float

    @property
    def share(self) -> float:
        return self.late / self.early - 1.0

    def __str__(self) -> str:
        return f"{self.share:+.1%} to {self.late / 2**20:.0f} MiB"


def attainment_of_halves(records: Mapping[str, Record]) -> tuple[float, float]:
    """Share of real-time goals that met their SLO, of the first half of those sent and of the second.

    Of less than that it is a matter of luck: now and then they alone are too many for some ten seconds.
    """
    control = sorted((r for r in records.values() if r.fields["label"] == "control"), key=lambda record: record.sent_s)
    attained = [bool(record.report.get("attained")) for record in control]
    half = max(1, len(control) // 2)
    return mean(attained[:half]), mean(attained[-half:])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goals", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--burst", type=int, default=1000)
    parser.add_argument("--crowd", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slowness", type=float, default=1.0, help="times are allowed to be so much longer, for a busy machine")
    parser.add_argument("--dispatcher", action="store_true", help="through a dispatcher, whose only member the server is")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for logs and records; default is a temporary one")
    arguments = parser.parse_args(argv)
    isolate(arguments.seed)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="soak"))
    folder.mkdir(parents=True, exist_ok=True)
    size = (arguments.goals, arguments.minutes, arguments.burst, arguments.crowd)
    try:
        soak = Soak(folder, *size, arguments.seed, arguments.slowness, dispatcher=arguments.dispatcher)
        soak.run()
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)
    return conclude("soak", soak.checks, soak.figures, arguments.json, {"seed": arguments.seed, "size": size})


if __name__ == "__main__":
    sys.exit(main())
