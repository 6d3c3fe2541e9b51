"""The little of Cyclone DDS that this layer needs: raw bytes in and out, waiting for events, and who else is there.

The only module that imports ``cyclonedds``. Bytes pass through unread; ``cdr`` makes messages of them. No Python code runs in Cyclone's own
threads: events are waited for with a wait set, so that nothing can hold the interpreter lock against a lock of Cyclone's.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from rosbags.interfaces import Nodetype

from slice_ros.rclpy_dds import messages, network
from slice_ros.rclpy_dds.cdr import Description
from slice_ros.rclpy_dds.exceptions import InvalidHandle

try:
    from cyclonedds import core
    from cyclonedds.builtin import (
        BuiltinDataReader,
        BuiltinTopicDcpsParticipant,
        BuiltinTopicDcpsPublication,
        BuiltinTopicDcpsSubscription,
    )
    from cyclonedds.core import DDSStatus, GuardCondition, InstanceState, Policy, Qos, ReadCondition, SampleState, ViewState
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.idl import make_idl_struct
    from cyclonedds.idl import types as idl_types
    from cyclonedds.internal import DDS
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
except ImportError as error:
    raise ImportError(
        "neither rclpy nor Eclipse Cyclone DDS's Python binding can be imported here; use a machine with ROS 2 (rclpy), or one for which "
        f"'pip install cyclonedds' finds a wheel (x86-64 Linux with Python 3.10 to 3.13): {error}"
    ) from error

__all__ = ["INFINITY_NS", "Condition", "Endpoint", "Guard", "Participant", "Policy", "Qos", "Reader", "Sample", "WaitSet", "Writer"]

INFINITY_NS = (1 << 63) - 1
"""Cyclone's duration without end."""
_MOST_SAMPLES = 8192
_SERVICE_HEADER = {"request_guid": idl_types.uint64, "request_seq": idl_types.int64}


def _c(name: str, *arguments: Any) -> Any:
    """A function of Cyclone's C library; the call releases the interpreter lock (the binding's own ``write`` does not)."""
    function = DDS._dll_handle[name]
    function.argtypes = arguments
    function.restype = ctypes.c_int32
    return function


_waitset_attach = _c("dds_waitset_attach", ctypes.c_int32, ctypes.c_int32, ctypes.c_ssize_t)
_waitset_detach = _c("dds_waitset_detach", ctypes.c_int32, ctypes.c_int32)
_waitset_wait = _c("dds_waitset_wait", ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
_matched_publications = _c("dds_get_matched_publications", ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t)
_matched_subscriptions = _c("dds_get_matched_subscriptions", ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t)
_write = _c("dds_write", ctypes.c_int32, ctypes.c_void_p)


class _Bytes(ctypes.Structure):
    """What the binding's C module takes as a sample: serialized bytes."""

    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_size_t)]


@dataclass(slots=True)
class Sample:
    """Serialized bytes, encapsulation header included, and where they came from."""

    data: bytes
    sample_info: Any = None

    @property
    def writer(self) -> int:
        """Instance handle of the writer."""
        return _unsigned(self.sample_info.publication_handle)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A reader or writer that discovery found, its own ones included."""

    guid: bytes
    participant: bytes
    topic_name: str
    type_name: str
    qos: Any

    @property
    def user_data(self) -> dict[str, str]:
        return user_data_of(self.qos)


def user_data_of(qos: Any) -> dict[str, str]:
    """USER_DATA as rmw writes it: ``key=value;key=value;``."""
    for policy in qos:
        if isinstance(policy, Policy.Userdata):
            pairs = (part.partition("=") for part in policy.data.decode(errors="replace").split(";") if part)
            return {key: value for key, _, value in pairs}
    return {}


@cache
def _struct(typename: str, is_service: bool) -> Any:
    """Cyclone's description of a type, which it sends to peers. Services carry a header before their own fields."""
    package, kind, name = typename.split("/")
    members = {field: _member(description) for field, description in messages.fields(typename)}
    if is_service:
        members = {**_SERVICE_HEADER, **members}
    struct = make_idl_struct(f"{name}_", f"{package}.{kind}.dds_.{name}_", members)
    # Readers hand the bytes to these, once a sample: keep them as they are.
    struct.deserialize = staticmethod(Sample)
    struct.deserialize_key = staticmethod(Sample)
    return struct


def _member(description: Description) -> Any:
    kind, detail = description
    if kind == Nodetype.NAME:
        return _struct(detail, False)
    if kind == Nodetype.BASE:
        name, bound = detail
        if name == "string":
            return idl_types.bounded_str[bound] if bound else str
        return {"bool": bool, "byte": idl_types.uint8}.get(name) or getattr(idl_types, name)
    element, length = _member(detail[0]), detail[1]
    if kind == Nodetype.ARRAY:
        return idl_types.array[element, length]
    return idl_types.sequence[element, length] if length else idl_types.sequence[element]


class Participant:
    """This process on the network: one DDS participant, and the topics it has used.

    Args:
        domain_id: the DDS domain.

    Raises:
        RuntimeError: Cyclone refuses, for example for a bad configuration or too many participants; the sentence names the network.
    """

    _domains: ClassVar[dict[int, Any]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, domain_id: int) -> None:
        with self._lock:
            config = network.configuration()
            try:
                if config is not None and domain_id not in self._domains:
                    self._domains[domain_id] = Domain(domain_id, config)
                self.entity = DomainParticipant(domain_id, qos=Qos(Policy.Userdata(data=b"enclave=/;")))
            except core.DDSException as error:
                raise RuntimeError(f"cannot join {network.describe_network()}: {error}") from error
        self.guid = bytes(self.entity.guid.bytes)
        self._topics: dict[tuple[str, str], Any] = {}
        self._ids = 0
        self._builtin: dict[Any, Any] = {}

    def topic(self, name: str, typename: str, is_service: bool) -> Any:
        # Topics live as long as their participant: their end takes the interpreter lock in a thread of Cyclone's.
        with self._lock:
            topic = self._topics.get((name, typename))
            if topic is None:
                topic = self._topics[name, typename] = Topic(self.entity, name, _struct(typename, is_service))
            return topic

    def reader(self, name: str, typename: str, qos: Any, is_service: bool = False) -> Reader:
        return Reader(DataReader(self.entity, self.topic(name, typename, is_service), qos=qos))

    def writer(self, name: str, typename: str, qos: Any, is_service: bool = False) -> Writer:
        return Writer(DataWriter(self.entity, self.topic(name, typename, is_service), qos=qos))

    def unique_id(self) -> str:
        """An id for a service or client, as rmw_cyclonedds makes and writes it: this participant's GUID prefix and a counter."""
        with self._lock:
            self._ids += 1
            return ".".join(f"{byte:x}" for byte in self.guid[:12] + self._ids.to_bytes(4, "big"))

    def publications(self) -> list[Endpoint]:
        """Writers in the domain."""
        return [_endpoint(sample) for sample in self._read(BuiltinTopicDcpsPublication)]

    def subscriptions(self) -> list[Endpoint]:
        """Readers in the domain."""
        return [_endpoint(sample) for sample in self._read(BuiltinTopicDcpsSubscription)]

    def participants(self) -> set[bytes]:
        """GUIDs of the participants in the domain."""
        return {bytes(sample.key.bytes) for sample in self._read(BuiltinTopicDcpsParticipant)}

    def _read(self, topic: Any) -> list[Any]:
        with self._lock:
            if topic not in self._builtin:
                self._builtin[topic] = BuiltinDataReader(self.entity, topic)
            samples = self._builtin[topic].read(_MOST_SAMPLES)
        return [sample for sample in samples if sample.sample_info.valid_data and sample.sample_info.instance_state == InstanceState.Alive]

    def close(self) -> None:
        """Leave the network; peers notice at once. Everything made here is gone with it."""
        self._topics.clear()
        self._builtin.clear()
        _delete(self.entity)


class Condition:
    """Something a ``WaitSet`` can wait for."""

    def __init__(self, entity: Any) -> None:
        self.entity = entity

    @property
    def key(self) -> int:
        return int(self.entity._ref)

    def close(self) -> None:
        _delete(self.entity)


class Guard(Condition):
    """A condition that is triggered by hand, from any thread."""

    def __init__(self, participant: Participant) -> None:
        super().__init__(GuardCondition(participant.entity))

    def trigger(self) -> None:
        with suppress(core.DDSException):  # closed with its participant, as below: nobody waits for it any more
            self.entity.set(True)

    def take(self) -> bool:
        """Was it triggered? Not any more after this."""
        with suppress(core.DDSException):
            return bool(self.entity.take())
        return False


class _Matched:
    """What readers and writers share: knowing their counterparts."""

    entity: Any
    _status: int
    _closed = False

    @property
    def guid(self) -> bytes:
        return bytes(self.entity.guid.bytes)

    @property
    def handle(self) -> int:
        """Instance handle."""
        return _unsigned(self.entity.instance_handle)

    def watch_matches(self) -> Condition:
        """A condition that triggers when a counterpart comes or goes, until ``clear_matches``."""
        self.entity.set_status_mask(self._status)
        return Condition(self.entity)

    def clear_matches(self) -> None:
        self.entity.take_status(self._status)

    def matched(self) -> list[int]:
        """Instance handles of the counterparts."""
        raise NotImplementedError

    def matched_endpoint(self, handle: int) -> Endpoint | None:
        raise NotImplementedError

    def close(self) -> None:
        self._closed = True
        _delete(self.entity)


class Reader(_Matched):
    """Takes serialized samples."""

    _status = DDSStatus.SubscriptionMatched

    def __init__(self, entity: Any) -> None:
        self.entity = entity
        self.condition = Condition(ReadCondition(entity, SampleState.Any | ViewState.Any | InstanceState.Any))

    def take(self) -> Sample | None:
        """The next sample, ``None`` when there is none. What is no data (a writer that ended) is passed over."""
        while not self._closed:
            try:
                samples = self.entity.take(1)
            except core.DDSException:
                if self._closed:  # meanwhile, by another thread
                    break
                raise
            if not samples:
                break
            if isinstance(samples[0], Sample):
                return samples[0]
        return None

    def matched(self) -> list[int]:
        return _handles(_matched_publications, self.entity)

    def matched_endpoint(self, handle: int) -> Endpoint | None:
        found = self.entity.get_matched_publication_data(handle)
        return _endpoint(found) if found is not None else None

    def close(self) -> None:
        self._closed = True
        self.condition.close()
        super().close()


class Writer(_Matched):
    """Sends serialized samples."""

    _status = DDSStatus.PublicationMatched

    def __init__(self, entity: Any) -> None:
        self.entity = entity
        self._ref = int(entity._ref)

    def write(self, data: bytes) -> None:
        """Send; ``data`` begins with its encapsulation header and is a multiple of four bytes long.

        Raises:
            InvalidHandle: this writer was closed.
            RuntimeError: Cyclone refuses, for example because the bytes are no sample of the topic's type.
        """
        if self._closed:
            raise InvalidHandle("cannot send: the entity was destroyed")
        code = _write(self._ref, ctypes.byref(_Bytes(data, len(data))))
        if code < 0:
            raise RuntimeError(f"cannot send {len(data)} bytes: {core.DDSException(code)}")

    def matched(self) -> list[int]:
        return _handles(_matched_subscriptions, self.entity)

    def matched_endpoint(self, handle: int) -> Endpoint | None:
        found = self.entity.get_matched_subscription_data(handle)
        return _endpoint(found) if found is not None else None


class WaitSet:
    """Waits for several conditions at once. Conditions come and go from any thread, also during a wait."""

    _SIZE = 64

    def __init__(self, participant: Participant) -> None:
        self._entity = core.WaitSet(participant.entity)
        self._ref = int(self._entity._ref)
        self._triggered = (ctypes.c_ssize_t * self._SIZE)()

    def attach(self, condition: Condition) -> None:
        _waitset_attach(self._ref, condition.entity._ref, condition.key)

    def detach(self, condition: Condition) -> None:
        _waitset_detach(self._ref, condition.entity._ref)

    def wait(self, timeout_ns: int) -> Iterable[int]:
        """Keys of the conditions that are triggered, after at most ``timeout_ns``; empty when there are none. One thread at a time.

        Raises:
            RuntimeError: the wait set or its participant was closed.
        """
        count = _waitset_wait(self._ref, self._triggered, self._SIZE, timeout_ns)
        if count < 0:
            raise RuntimeError(f"cannot wait any more: {core.DDSException(count)}")
        return self._triggered[: min(count, self._SIZE)]

    def close(self) -> None:
        _delete(self._entity)


def _unsigned(handle: int) -> int:
    """An instance handle as C has it; the binding gives some with a sign."""
    return handle & 0xFFFF_FFFF_FFFF_FFFF


def _handles(function: Any, entity: Any) -> list[int]:
    """Instance handles that a C function gives; the binding's own ways fail when one more comes at the wrong moment."""
    count, size = 16, 0
    while count > size:
        size = count
        handles = (ctypes.c_uint64 * size)()
        count = function(entity._ref, handles, size)
    return handles[: max(0, count)]


def _endpoint(found: Any) -> Endpoint:
    return Endpoint(bytes(found.key.bytes), bytes(found.participant_key.bytes), found.topic_name, found.type_name, found.qos)


def _delete(entity: Any) -> None:
    """End a Cyclone entity now, not when Python collects it (the binding has no other word for it)."""
    entity.__del__()
