"""Who is in the domain: nodes by the topic ``ros_discovery_info``, topics and services by DDS discovery itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from slice_ros.rclpy_dds import messages, names
from slice_ros.rclpy_dds.cdr import DecodeError
from slice_ros.rclpy_dds.dds import INFINITY_NS, Endpoint, Guard, Participant, Policy, Qos, WaitSet
from slice_ros.rclpy_dds.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, to_dds

_TOPIC, _TYPE = "ros_discovery_info", "rmw_dds_common/msg/ParticipantEntitiesInfo"


@dataclass(slots=True)
class NodeInfo:
    """A node and the GUIDs of its readers and writers."""

    name: str
    namespace: str
    readers: set[bytes] = field(default_factory=set)
    writers: set[bytes] = field(default_factory=set)

    @property
    def full_name(self) -> str:
        return names.join(self.namespace, self.name)


class Graph:
    """Tells the others about this process's nodes, and listens to what they tell; a thread waits for news, as rmw's does."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._codec = messages.codec(_TYPE)
        self._lock = threading.Condition()
        self._own: list[NodeInfo] = []
        self._others: dict[bytes, list[NodeInfo]] = {}
        user_data = f"typehash={messages.type_hash(_TYPE)};"
        transient = DurabilityPolicy.TRANSIENT_LOCAL
        self._writer = participant.writer(_TOPIC, _TYPE, to_dds(QoSProfile(depth=1, durability=transient), user_data))
        everything = QoSProfile(history=HistoryPolicy.KEEP_ALL, durability=transient)  # no key: "the last" would be one participant's
        qos = Qos(Policy.IgnoreLocal.Participant, base=to_dds(everything, user_data))
        self._reader = participant.reader(_TOPIC, _TYPE, qos)
        self._stop = Guard(participant)
        self._stopped = False
        self._waitset = WaitSet(participant)
        self._waitset.attach(self._reader.condition)
        self._waitset.attach(self._stop)
        self._thread = threading.Thread(target=self._listen, name="ros_discovery", daemon=True)
        self._thread.start()

    def add_node(self, info: NodeInfo) -> None:
        with self._lock:
            self._own.append(info)
            self._publish()

    def remove_node(self, info: NodeInfo) -> None:
        with self._lock:
            self._own.remove(info)
            self._publish()

    def changed(self, info: NodeInfo, *, add: Iterable[tuple[str, bytes]] = (), remove: Iterable[tuple[str, bytes]] = ()) -> None:
        """A node has new endpoints or lost some; each is ("readers" or "writers", GUID)."""
        with self._lock:
            for kind, guid in add:
                getattr(info, kind).add(guid)
            for kind, guid in remove:
                getattr(info, kind).discard(guid)
            if info in self._own:
                self._publish()

    def nodes(self) -> list[NodeInfo]:
        """All nodes that are known, this process's first."""
        alive = self._participant.participants()
        with self._lock:
            return [*self._own, *(node for guid, nodes in self._others.items() if guid in alive for node in nodes)]

    def endpoints(self) -> tuple[list[Endpoint], list[Endpoint]]:
        """Readers and writers in the domain."""
        return self._participant.subscriptions(), self._participant.publications()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Block until ``condition()``, which can change with the nodes that are known; at most ``timeout_s``."""
        with self._lock:
            return self._lock.wait_for(condition, timeout_s)

    def close(self) -> None:
        self._stopped = True
        self._stop.trigger()
        self._thread.join()

    def _publish(self) -> None:
        gid, entities = messages.message("rmw_dds_common/msg/Gid"), messages.message("rmw_dds_common/msg/NodeEntitiesInfo")
        info = self._codec.cls(
            gid=gid(data=self._participant.guid),
            node_entities_info_seq=[
                entities(
                    node_namespace=node.namespace,
                    node_name=node.name,
                    reader_gid_seq=[gid(data=guid) for guid in node.readers],
                    writer_gid_seq=[gid(data=guid) for guid in node.writers],
                )
                for node in self._own
            ],
        )
        self._writer.write(self._codec.encode(info))

    def _listen(self) -> None:
        while not self._stopped:
            try:
                self._waitset.wait(INFINITY_NS)
            except RuntimeError:
                return  # the participant is gone
            while not self._stopped and (sample := self._reader.take()) is not None:
                try:
                    info = self._codec.decode(sample.data)
                except DecodeError:
                    continue  # another program's topic of the same name
                nodes = [
                    NodeInfo(
                        node.node_name,
                        node.node_namespace,
                        {bytes(gid.data) for gid in node.reader_gid_seq},
                        {bytes(gid.data) for gid in node.writer_gid_seq},
                    )
                    for node in info.node_entities_info_seq
                ]
                alive = self._participant.participants()
                with self._lock:
                    self._others = {guid: known for guid, known in self._others.items() if guid in alive}
                    self._others[bytes(info.gid.data)] = nodes
                    self._lock.notify_all()
