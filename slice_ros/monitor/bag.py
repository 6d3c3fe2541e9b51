"""Reads the goals of a bag back, for the benchmark's figures: what ``~/goal_events`` told, goal by goal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slice_ros.bench.simulate import Outcome
from slice_ros.bench.workload import Arrival
from slice_ros.engines.simulated import Lengths
from slice_ros.goal import ErrorCode, GoalRequest
from slice_ros.paths import share_dir
from slice_ros.ros.conversions import duration_s, report_of
from slice_ros.slo import OnMiss, ServiceClass, Slo

if TYPE_CHECKING:
    from slice_ros.bench.rows import Row

EVENT, STATUS = "slice_ros/msg/GoalEvent", "slice_ros/msg/SloStatus"
ACCEPTED, FINISHED = 0, 2
"""As in ``msg/GoalEvent.msg``."""


class BagError(Exception):
    """A bag cannot be read, or holds no goals; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a bag tells.

    Args:
        outcomes: the goals that ended, in order of arrival, by the policy in force when they came, with the server's name where there are
            several; seconds from the first.
        duration_s: first arrival to last end.
        served_s: for how long each of these was in force.
        devices: what computed; empty where no status was recorded.
    """

    outcomes: dict[str, list[Outcome]]
    duration_s: float
    served_s: Mapping[str, float]
    devices: Mapping[str, str]

    def rows(self, name: str) -> list[Row]:
        """One row of the benchmark for each policy; ``name`` stands for the workload."""
        from slice_ros.bench.rows import Row, measured

        rows = []
        for policy, outcomes in self.outcomes.items():
            real_time = sum(outcome.is_real_time for outcome in outcomes)
            rows.append(
                Row(
                    policy=policy, engine="recorded", device=self.devices[policy], workload=name,
                    rate_hz=round(len(outcomes) / max(self.served_s[policy], 1e-9), 2),
                    rt_share=real_time / len(outcomes), seed=0, duration_s=self.duration_s, rt_alone=False, bounds_scale=1.0,
                    wall_s=self.duration_s, **measured(outcomes),
                )
            )  # fmt: skip
        return rows


class _Served:
    """What was told of one server: its goals' beginnings and ends, with the time of each, by goal id."""

    def __init__(self) -> None:
        self.starts: dict[str, tuple[float, Any]] = {}
        self.ends: dict[str, tuple[float, Any]] = {}
        self.device = ""

    @property
    def goals(self) -> list[str]:
        """Those that both began and ended, in order of arrival."""
        return [goal_id for goal_id in self.starts if goal_id in self.ends]

    def served_s(self) -> Mapping[str, float]:
        """For how long each policy was in force: from each goal of it on until the next one comes, the last one until all have ended."""
        goals = self.goals
        arrivals = [self.starts[goal_id] for goal_id in goals]
        until_s = [*(at_s for at_s, _ in arrivals[1:]), max(self.ends[goal_id][0] for goal_id in goals)]
        seconds: dict[str, float] = defaultdict(float)
        for (at_s, start), end_s in zip(arrivals, until_s, strict=True):
            seconds[start.policy] += end_s - at_s
        return seconds


def read_bag(path: Path) -> Recording:
    """The goals of a rosbag2 directory (or of a single ``.mcap`` or ``.db3`` file in one).

    Raises:
        BagError: it is no bag, or no goal both began and ended in it.
    """
    found: dict[str, _Served] = defaultdict(_Served)
    for time_s, topic, typename, message in _messages(path):
        server = found[topic.rpartition("/")[0]]
        if typename == STATUS:
            server.device = message.device or server.device
        elif message.event in (ACCEPTED, FINISHED):
            (server.starts if message.event == ACCEPTED else server.ends).setdefault(bytes(message.goal_id.uuid).hex(), (time_s, message))
    servers = {name: server for name, server in found.items() if server.goals}
    if not servers:
        raise BagError(f"{path} holds no goal that began and ended; record the topic ~/goal_events of a server that gets goals")
    begin_s = min(server.starts[server.goals[0]][0] for server in servers.values())
    outcomes: dict[str, list[Outcome]] = {}
    served_s, devices, last_s = {}, {}, begin_s
    for name, server in servers.items():
        suffix = f" of {name}" if len(servers) > 1 else ""
        for policy, seconds in server.served_s().items():
            served_s[policy + suffix], devices[policy + suffix] = seconds, server.device
        for goal_id in server.goals:
            (at_s, start), (end_s, end) = server.starts[goal_id], server.ends[goal_id]
            outcomes.setdefault(start.policy + suffix, []).append(_outcome(goal_id, at_s - begin_s, start, end))
            last_s = max(last_s, end_s)
    return Recording(outcomes, last_s - begin_s, served_s, devices)


def _outcome(goal_id: str, at_s: float, start: Any, end: Any) -> Outcome:
    report = report_of(end.report)
    slo = Slo(
        ServiceClass(start.slo.service_class),
        duration_s(start.slo.ttft),
        duration_s(start.slo.tpot),
        duration_s(start.slo.deadline),
        float(start.slo.utility) or None,
        OnMiss(start.slo.on_miss),
    )
    request = GoalRequest(goal_id, slo, max(1, report.output_tokens), prompt="-", submitted_s=at_s, label=start.label)
    # Events tell when the first and the last token came; those between are put at even distances.
    gaps = max(report.output_tokens - 1, 1)
    tokens = tuple(at_s + report.ttft_s + (report.e2e_s - report.ttft_s) * i / gaps for i in range(report.output_tokens))
    return Outcome(Arrival(at_s, request, Lengths(report.prompt_tokens, report.output_tokens)), report, ErrorCode(end.error_code), tokens)


def _messages(path: Path) -> Iterator[tuple[float, str, str, Any]]:
    """Time of reception in seconds, topic, type and message."""
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError:
        raise BagError("reading bags needs rosbags; install it with: pip install rosbags") from None
    store = get_typestore(Stores.ROS2_JAZZY)
    for file in sorted((share_dir() / "msg").glob("*.msg")):  # bags of Humble do not carry their definitions
        store.register(get_types_from_msg(file.read_text(), f"slice_ros/msg/{file.stem}"))
    try:
        with AnyReader(_parts(path), default_typestore=store) as reader:
            wanted: Sequence[Any] = [connection for connection in reader.connections if connection.msgtype in (EVENT, STATUS)]
            for connection, time_ns, data in reader.messages(wanted) if wanted else ():
                yield time_ns / 1e9, connection.topic, connection.msgtype, reader.deserialize(data, connection.msgtype)
    except (AnyReaderError, OSError) as error:
        raise BagError(f"{path} cannot be read as a bag: {error}") from error


def _parts(path: Path) -> list[Path]:
    """What to read: the directory, or the files in one whose recorder was killed, so that nothing, or no file, is said of them."""
    about = path / "metadata.yaml"
    if path.is_dir() and not (about.exists() and "files: []" not in about.read_text()):
        return sorted([*path.glob("*.mcap"), *path.glob("*.db3")]) or [path]
    return [path]
