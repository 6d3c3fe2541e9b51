"""The little of Cyclone DDS that this layer needs: raw bytes in and out, waiting for events, and who else is there.

The only module that imports ``cyclonedds``. Bytes pass through unread; ``cdr`` makes messages of them. No Python code runs in Cyclone's own
threads: events are waited for with a wait set, so that nothing can hold the interpreter lock against a lock of Cyclone's.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

from rosbags.interfaces import Nodetype

from slice_ros.rclpy_dds import messages, network
from slice_ros.rclpy_dds.cdr import Description
from slice_ros.rclpy_dds.exceptions import InvalidHandle

try:
    from cyclonedds import core
    from cyclonedds.core import DDSStatus, GuardCondition, InstanceState, Policy, Qos, ReadCondition, SampleState, ViewState
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.idl import make_idl_struct
    from cyclonedds.idl import types as idl_types
    from cyclonedds.internal import DDS, dds_c_t
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
except ImportError as error:
    raise ImportError(
        "neither rclpy nor Eclipse Cyclone DDS's Python binding can be imported here; use a machine with ROS 2 (rclpy), or one for which "
        f"'pip install cyclonedds' finds a wheel (x86-64 Linux with Python 3.10 to 3.13): {error}"
    ) from error

__all__ = ["INFINITY_NS", "Condition", "Endpoint", "Guard", "Participant", "Policy", "Qos", "Reader", "Sample", "WaitSet", "Writer"]

Result = TypeVar("Result")
INFINITY_NS = (1 << 63) - 1
"""Cyclone's duration without end."""
_MOST_SAMPLES = 8192
"""Participants, or endpoints of one kind, that are looked at in a domain."""
_BUILTIN_TOPICS = 0x7FFF_0000
_SERVICE_HEADER = {"request_guid": idl_types.uint64, "request_seq": idl_types.int64}


class _Bytes(ctypes.Structure):
    """What the binding's C module takes as a sample: serialized bytes."""

    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_size_t)]


class _Participant(ctypes.Structure):
    """``dds_builtintopic_participant_t``."""

    _fields_ = [("key", ctypes.c_ubyte * 16), ("qos", ctypes.c_void_p)]


class _Endpoint(ctypes.Structure):
    """``dds_builtintopic_endpoint_t``."""

    _fields_ = [
        ("key", ctypes.c_ubyte * 16),
        ("participant_key", ctypes.c_ubyte * 16),
        ("participant_handle", ctypes.c_uint64),
        ("topic_name", ctypes.c_void_p),
        ("type_name", ctypes.c_void_p),
        ("qos", ctypes.c_void_p),
    ]


def _c(name: str, *arguments: Any, result: Any = ctypes.c_int32) -> Any:
    """A function of Cyclone's C library. The call releases the interpreter lock.

    Used where the binding falls short: its ``write`` keeps the lock, its wait set does not tell what triggered, its lists of matched
    endpoints fail when one more comes at the wrong moment, and its reading of QoS shares variables between threads.
    """
    function = DDS._dll_handle[name]
    function.argtypes = arguments
    function.restype = result
    return function


_entity, _pointer, _size = ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t
_waitset_attach = _c("dds_waitset_attach", _entity, _entity, ctypes.c_ssize_t)
_waitset_detach = _c("dds_waitset_detach", _entity, _entity)
_waitset_wait = _c("dds_waitset_wait", _entity, _pointer, _size, ctypes.c_int64)
_matched_publications = _c("dds_get_matched_publications", _entity, _pointer, _size)
_matched_subscriptions = _c("dds_get_matched_subscriptions", _entity, _pointer, _size)
_matched_publication_data = _c("dds_get_matched_publication_data", _entity, ctypes.c_uint64, result=ctypes.POINTER(_Endpoint))
_matched_subscription_data = _c("dds_get_matched_subscription_data", _entity, ctypes.c_uint64, result=ctypes.POINTER(_Endpoint))
_create_reader = _c("dds_create_reader", _entity, _entity, _pointer, _pointer)
_read = _c("dds_read_mask", _entity, _pointer, _pointer, _size, ctypes.c_uint32, ctypes.c_uint32)
_return_loan = _c("dds_return_loan", _entity, _pointer, ctypes.c_int32)
_get_userdata = _c("dds_qget_userdata", _pointer, _pointer, _pointer, result=ctypes.c_bool)
_free = _c("dds_free", _pointer, result=None)
_free_endpoint = _c("dds_builtintopic_free_endpoint", ctypes.POINTER(_Endpoint), result=None)
_write = _c("dds_write", _entity, _pointer)


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
    topic_name: str
    type_name: str
    user_data: dict[str, str]
    """What rmw writes there: ``key=value;key=value;``."""


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
        self._builtin: dict[int, int] = {}

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
        return self._read(3, _Endpoint, _endpoint)

    def subscriptions(self) -> list[Endpoint]:
        """Readers in the domain."""
        return self._read(4, _Endpoint, _endpoint)

    def participants(self) -> set[bytes]:
        """GUIDs of the participants in the domain."""
        return set(self._read(1, _Participant, lambda sample: bytes(sample.key)))

    def _read(self, topic: int, struct: Any, convert: Callable[[Any], Result]) -> list[Result]:
        """What DDS discovery knows: samples of one of Cyclone's built-in topics, 1 = participants, 3 = publications, 4 = subscriptions.

        Raises:
            RuntimeError: the participant was closed.
        """
        samples, infos = (ctypes.c_void_p * _MOST_SAMPLES)(), (dds_c_t.sample_info * _MOST_SAMPLES)()
        mask = SampleState.Any | ViewState.Any | InstanceState.Alive
        with self._lock:
            if topic not in self._builtin:
                self._builtin[topic] = _create_reader(self.entity._ref, _BUILTIN_TOPICS + topic, None, None)
            reader = self._builtin[topic]
            count = _read(reader, samples, infos, _MOST_SAMPLES, _MOST_SAMPLES, mask)
            if count < 0:
                raise RuntimeError(f"cannot see who is in the domain: {core.DDSException(count)}")
            try:
                return [convert(struct.from_address(samples[i])) for i in range(count) if infos[i].valid_data]
            finally:
                _return_loan(reader, samples, count)

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
        return _matched_endpoint(_matched_publication_data(self.entity._ref, handle))

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
        return _matched_endpoint(_matched_subscription_data(self.entity._ref, handle))


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
    """Instance handles that a C function gives, however many."""
    count, size = 16, 0
    while count > size:
        size = count
        handles = (ctypes.c_uint64 * size)()
        count = function(entity._ref, handles, size)
    return handles[: max(0, count)]


def _endpoint(found: _Endpoint) -> Endpoint:
    return Endpoint(bytes(found.key), _text(found.topic_name), _text(found.type_name), _user_data(found.qos))


def _matched_endpoint(found: Any) -> Endpoint | None:
    """Of what ``dds_get_matched_..._data`` gave, which is freed."""
    if not found:
        return None
    try:
        return _endpoint(found[0])
    finally:
        _free_endpoint(found)


def _text(pointer: int) -> str:
    return ctypes.string_at(pointer).decode(errors="replace")


def _user_data(qos: int) -> dict[str, str]:
    value, size = ctypes.c_void_p(), ctypes.c_size_t()
    if not _get_userdata(qos, ctypes.byref(value), ctypes.byref(size)) or not value.value:
        return {}
    try:
        text = ctypes.string_at(value.value, size.value).decode(errors="replace")
    finally:
        _free(value)
    return {key: content for key, _, content in (part.partition("=") for part in text.split(";") if part)}


def _delete(entity: Any) -> None:
    """End a Cyclone entity now, not when Python collects it (the binding has no other word for it)."""
    entity.__del__()
