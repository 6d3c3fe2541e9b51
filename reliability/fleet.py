"""Kills, stops, freezes and cuts off the members of a fleet at random, seeded moments under load: ``python -m reliability.fleet``.

Real processes: servers with simulated engines, a dispatcher, clients that load it. Every goal has to end once, and real-time goals are to
be in time but for those that a fault leaves no time for.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from reliability import islands
from reliability.isolation import isolate
from reliability.processes import LoadClient, Server, wait_until
from reliability.records import Record, read
from reliability.report import Check, conclude
from slice_ros.ros.interfaces import GoalEvent, SloStatus
from slice_ros.ros.qos import GOAL_EVENTS

NAME = "fleet"
READY_S = 90.0
PROFILES = ("rtx4060ti-chatglm2-6b-int4-smooth", "h200-chatglm2-6b-q4_0", "rtx4060ti-chatglm2-6b-int4-smooth")
"""Of the members."""
SHADOW_S = 3.0
"""A goal that was in hand within so long before a fault, or came within so long after it, is one of those that the fault could harm."""


@dataclass(slots=True)
class Fault:
    kind: str
    member: str
    at_s: float
    used_s: float = float("nan")
    """Seconds from its repair until the dispatcher used the member again."""


@dataclass(slots=True)
class Rig:
    members: dict[str, Server]
    watcher: Watcher
    rng: random.Random
    pause_s: float
    islands: dict[str, islands.Island] = field(default_factory=dict)
    """The members' networks, if they can be cut."""
    faults: list[Fault] = field(default_factory=list)

    def some_time(self) -> None:
        self.watcher.spin(self.pause_s * self.rng.uniform(0.2, 1.0))


def killed(rig: Rig, member: str) -> None:
    server = rig.members[member]
    os.killpg(server.pid, signal.SIGKILL)
    server.wait(5.0)
    rig.some_time()
    rig.watcher.misses(member)
    server.start()


def stopped(rig: Rig, member: str) -> None:
    """As at the end of a launch file."""
    server = rig.members[member]
    server.send_signal(signal.SIGINT)
    rig.some_time()
    server.wait(10.0)
    rig.watcher.misses(member)
    server.start()


def frozen(rig: Rig, member: str) -> None:
    """To all others as if its network were gone, until it goes on with what it had in hand."""
    os.killpg(rig.members[member].pid, signal.SIGSTOP)
    rig.some_time()
    os.killpg(rig.members[member].pid, signal.SIGCONT)


def partitioned(rig: Rig, member: str) -> None:
    """Its network is cut while it goes on with what it has in hand."""
    rig.islands[member].cut()
    rig.some_time()
    rig.islands[member].mend()


def deactivated(rig: Rig, member: str) -> None:
    rig.watcher.change_state(member, "deactivate")
    rig.some_time()
    rig.watcher.change_state(member, "activate")


FAULTS: dict[str, Callable[[Rig, str], None]] = {f.__name__: f for f in (killed, stopped, frozen, deactivated, partitioned)}


class Watcher:
    """A node of this process that hears the dispatcher."""

    def __init__(self) -> None:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("watcher")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self.status: Any = SloStatus()
        self.ends: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self._node.create_subscription(SloStatus, f"/{NAME}/slo_status", self._hear, 10)
        self._node.create_subscription(GoalEvent, f"/{NAME}/goal_events", self._note, GOAL_EVENTS)

    def _hear(self, status: Any) -> None:
        self.status = status

    def _note(self, event: Any) -> None:
        goal_id = bytes(event.goal_id.uuid).hex()
        self.ends[goal_id] += event.event == GoalEvent.FINISHED
        self.sent[goal_id] += event.event == GoalEvent.SENT

    def spin(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def used(self) -> set[str]:
        """The members that goals are sent to."""
        return {member.name for member in self.status.members if member.state == "used"}

    def uses(self, *members: str) -> bool:
        """Whether the dispatcher comes to use all of these in time."""
        return wait_until(lambda: self.used() >= set(members), READY_S, lambda: self.spin(0.05))

    def misses(self, member: str) -> bool:
        """Whether the dispatcher comes to use this one no more, in time."""
        return wait_until(lambda: member not in self.used(), READY_S, lambda: self.spin(0.05))

    def change_state(self, member: str, label: str) -> None:
        client = self._node.create_client(ChangeState, f"{member}/change_state")
        if client.wait_for_service(timeout_sec=READY_S):
            future = client.call_async(ChangeState.Request(transition=Transition(label=label)))
            wait_until(future.done, READY_S, lambda: self.spin(0.05))
        self._node.destroy_client(client)

    def close(self) -> None:
        self._node.destroy_node()
        rclpy.try_shutdown()


def run(
    folder: Path, faults: int, seed: int, rate: float, gap_s: float, pause_s: float, slowness: float
) -> tuple[list[Check], list[Fault], dict[str, object]]:
    """Do it all; everything it started is gone afterwards."""
    rng = random.Random(seed)
    arguments = [("--engine", "simulated", "--device-profile", profile) for profile in PROFILES]
    networks = {f"/m{i}": islands.Island(i) for i in range(len(PROFILES))} if islands.INSIDE in os.environ else {}
    members = {
        f"/m{i}": Server(f"m{i}", folder / f"m{i}.log", arguments[i], prefix=networks[f"/m{i}"].prefix if networks else ())
        for i in range(len(PROFILES))
    }
    dispatcher = Server(NAME, folder / "dispatcher.log", ("--members", ",".join(members)), verb="dispatch")
    watcher = Watcher()
    rig = Rig(members, watcher, rng, pause_s, networks)
    clients: list[LoadClient] = []
    try:
        for server in (*members.values(), dispatcher):
            server.start()
        if not watcher.uses(*members):
            raise RuntimeError(f"the fleet did not start: {dispatcher.log.read_text()[-500:]}")
        clients = [
            LoadClient(NAME, folder / f"client{i}.jsonl", "--seed", str(i), "--rate", str(rate / 2), "--patience", "90") for i in range(2)
        ]
        watcher.spin(5.0)
        possible = [kind for kind in FAULTS if networks or kind != partitioned.__name__]
        kinds = [possible[i % len(possible)] for i in range(faults)]
        rng.shuffle(kinds)
        for kind in kinds:
            watcher.spin(rng.uniform(0.2, 1.8) * gap_s)
            fault = Fault(kind, rng.choice(list(members)), time.monotonic())
            rig.faults.append(fault)
            FAULTS[kind](rig, fault.member)
            began_s = time.monotonic()
            fault.used_s = time.monotonic() - began_s if watcher.uses(fault.member) else float("inf")
            print(f"{len(rig.faults)}/{faults} {fault.member} {kind}: used again after {fault.used_s:.2f} s", file=sys.stderr)  # noqa: T201
        ended = [client.finish(90.0) for client in clients]
        watcher.spin(2.0)
        records = read(client.records for client in clients)
        checks, figures = judge(records, watcher, rig.faults, ended=all(ended), slowness=slowness)
        return (
            [*checks, Check("the dispatcher outlives all faults", dispatcher.is_running, dispatcher.log.read_text()[-200:])],
            rig.faults,
            figures,
        )
    finally:
        for client in clients:
            client.kill()
        for server in (dispatcher, *members.values()):
            server.stop()
        watcher.close()
        for network in networks.values():
            network.remove()


def judge(
    records: dict[str, Record], watcher: Watcher, faults: list[Fault], *, ended: bool, slowness: float
) -> tuple[list[Check], dict[str, object]]:
    lost = sum(len(record.ends) != 1 for record in records.values())
    twice = sum(count > 1 for count in watcher.ends.values())
    codes = Counter(record.code for record in records.values())
    unexpected = {code: count for code, count in codes.items() if code not in ("NONE", "SLO_MISSED")}
    control = [record for record in records.values() if record.fields["label"] == "control" and record.ends]
    near = [r for r in control if any(r.sent_s - SHADOW_S < fault.at_s < r.ends[0] + SHADOW_S for fault in faults)]
    far = [record for record in control if record not in near]
    slowest = max((fault.used_s for fault in faults), default=0.0)
    moved = sum(count > 1 for count in watcher.sent.values())
    checks = [
        Check(
            "every goal ends once",
            ended and not lost and not twice,
            f"{len(records)} goals, {lost} not once at their client, {twice} twice",
        ),
        Check("no goal fails for the loss of a member", not unexpected, ", ".join(f"{c} {n}" for c, n in codes.items())),
        Check("a member that is back is used again", slowest < READY_S, f"slowest after {slowest:.1f} s"),
        Check(
            "real-time goals away from faults are in time",
            attained(far) >= 1.0 - 0.05 * slowness,
            f"{attained(far):.3f} of {len(far)}",
        ),
    ]
    return checks, {
        "goals": len(records),
        "goals that went on elsewhere": moved,
        f"real-time attainment within {SHADOW_S:g} s of a fault": f"{attained(near):.3f} of {len(near)}",
        "real-time attainment else": f"{attained(far):.3f} of {len(far)}",
        **{
            f"{kind}: until used again, s": f"median {median(of):.2f}, at most {max(of):.2f} ({len(of)} times)"
            for kind in FAULTS
            if (of := [fault.used_s for fault in faults if fault.kind == kind])
        },
    }


def attained(records: list[Record]) -> float:
    return sum(bool(record.report.get("attained")) for record in records) / len(records) if records else 1.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=4.0, help="goals a second")
    parser.add_argument("--gap", type=float, default=2.0, help="mean time between two faults, s")
    parser.add_argument("--pause", type=float, default=5.0, help="how long a fault lasts at most, s")
    parser.add_argument("--slowness", type=float, default=1.0, help="so much more may be late, on a busy machine")
    parser.add_argument(
        "--islands", action="store_true", help="network namespaces for the members, whose network is cut then, too; as root"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for logs and records; default is a temporary one")
    arguments = parser.parse_args(argv)
    isolate(arguments.seed)
    if arguments.islands:
        if not islands.are_possible():
            parser.error("--islands needs root, unshare and ip")
        islands.enter("reliability.fleet", sys.argv[1:] if argv is None else argv)
    folder = (arguments.keep or Path(tempfile.mkdtemp(prefix="fleet"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        checks, faults, figures = run(
            folder, arguments.faults, arguments.seed, arguments.rate, arguments.gap, arguments.pause, arguments.slowness
        )
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)
    return conclude("fleet", checks, figures, arguments.json, {"seed": arguments.seed, "faults": [asdict(fault) for fault in faults]})


if __name__ == "__main__":
    sys.exit(main())
