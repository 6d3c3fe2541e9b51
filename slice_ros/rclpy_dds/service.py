"""Service servers, and what both ends of a service share."""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from slice_ros.rclpy_dds import messages, qos
from slice_ros.rclpy_dds.callback_groups import CallbackGroup, ReentrantCallbackGroup
from slice_ros.rclpy_dds.cdr import HEADER_SIZE, LITTLE, DecodeError
from slice_ros.rclpy_dds.dds import Reader, Writer
from slice_ros.rclpy_dds.exceptions import RCLError
from slice_ros.rclpy_dds.qos import QoSProfile
from slice_ros.rclpy_dds.waitable import Waitable

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.node import Node

_HEADERS = {True: struct.Struct("<Qq"), False: struct.Struct(">Qq")}
_NATIVE = _HEADERS[sys.byteorder == "little"]
REQUEST_HEADER_SIZE = _NATIVE.size
_DEPTH = 1000
"""Requests and replies that are kept at least until they are taken. The 10 of ROS's default lose the rest of a burst, and who waits for a
lost reply waits for ever. A depth is not matched between peers."""


class RequestId(NamedTuple):
    """Whose request: the first bytes of each request and reply, and (not on the wire) the writer it came from."""

    client: int
    sequence: int
    writer: int = 0

    def prefix(self) -> bytes:
        return _NATIVE.pack(self.client, self.sequence)

    @classmethod
    def of(cls, data: bytes, writer: int = 0) -> RequestId:
        """Raises:
        DecodeError: too short.
        """
        if len(data) < HEADER_SIZE + REQUEST_HEADER_SIZE:
            raise DecodeError(f"{len(data)} bytes are too short for a service message")
        client, sequence = _HEADERS[data[:2] == LITTLE[:2]].unpack_from(data, HEADER_SIZE)
        return cls(client, sequence, writer)


def endpoints(node: Node, srv_type: Any, service: str, profile: QoSProfile, *, server: bool) -> tuple[Reader, Writer]:
    """The reader and writer of one end of a service; both carry the same id, by which the other end knows that they belong together."""
    participant = node.context.participant
    parts = (("rq", "Request", srv_type.Request), ("rr", "Reply", srv_type.Response))
    (read, write) = parts if server else parts[::-1]
    identity = f"{'serviceid' if server else 'clientid'}={participant.unique_id()};"
    deep = QoSProfile(**{**vars(profile), "depth": max(profile.depth, _DEPTH)})

    def policies(message: Any) -> Any:
        return qos.to_dds(deep, f"{identity}typehash={messages.type_hash(message.__msgtype__)};")

    reader = participant.reader(f"{read[0]}{service}{read[1]}", read[2].__msgtype__, policies(read[2]), is_service=True)
    writer = participant.writer(f"{write[0]}{service}{write[1]}", write[2].__msgtype__, policies(write[2]), is_service=True)
    return reader, writer


class Service(Waitable):
    """Answers requests. Made by ``Node.create_service``.

    A reply is kept back until the client that asked can hear it: discovery may connect a client's requests before its replies.

    Args:
        callback: gets the request and an empty response, returns the response; may be a coroutine function.
    """

    def __init__(
        self,
        node: Node,
        srv_type: Any,
        srv_name: str,
        callback: Callable[[Any, Any], Any],
        callback_group: CallbackGroup,
        qos_profile: QoSProfile,
    ) -> None:
        self.srv_type = srv_type
        self.srv_name = srv_name
        self.callback = callback
        self.callback_group = callback_group
        self._node = node
        self._request_codec = messages.codec(srv_type.Request.__msgtype__)
        self._response_codec = messages.codec(srv_type.Response.__msgtype__)
        self._reader, self._writer = endpoints(node, srv_type, srv_name, qos_profile, server=True)
        self.condition = self._reader.condition
        self.endpoints = [("readers", self._reader.guid), ("writers", self._writer.guid)]
        self.replies = _Replies(self._reader, self._writer)

    @property
    def service_name(self) -> str:
        return self.srv_name

    def take(self) -> Callable[[], Any] | None:
        sample = self._reader.take()
        if sample is None:
            return None
        try:
            request_id = RequestId.of(sample.data, sample.writer)
            request = self._request_codec.decode(sample.data, REQUEST_HEADER_SIZE)
        except DecodeError as error:
            self._node.get_logger().error(f"dropped a request to {self.srv_name}: {error}", throttle_duration_sec=1.0)
            return None
        return partial(self.handle, request, request_id)

    async def handle(self, request: Any, request_id: RequestId) -> None:
        """Call back and answer."""
        response = self.callback(request, self.srv_type.Response())
        if hasattr(response, "__await__"):
            response = await response
        self.send_response(response, request_id)

    def send_response(self, response: Any, request_id: RequestId) -> None:
        """Answer a request; from any thread.

        Raises:
            TypeError: the response is not of the service's type, or a field has a value that its type cannot hold.
            RCLError: the context was shut down.
        """
        data = self._response_codec.encode(response, request_id.prefix())
        if not self._node.context.ok():
            raise RCLError("Failed to send response: service's context is invalid")
        self.replies.send(data, request_id.writer)

    def destroy(self) -> None:
        self._reader.close()
        self._writer.close()


class DeferredService(Service):
    """A service whose callback gets the request and its id, and answers with ``send_response`` when it can."""

    async def handle(self, request: Any, request_id: RequestId) -> None:
        await self.callback(request, request_id)


class _Replies(Waitable):
    """Sends replies to clients that can hear them, and keeps the others until discovery has connected their reader."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.callback_group = ReentrantCallbackGroup()
        self._reader, self._writer = reader, writer
        self.condition = writer.watch_matches()
        self._lock = threading.Lock()
        self._hearing: set[int] = set()  # request writers whose replies arrive
        self._kept: list[tuple[bytes, int]] = []

    def send(self, data: bytes, request_writer: int) -> None:
        with self._lock:
            if request_writer not in self._hearing:
                self._look()
                if request_writer not in self._hearing:
                    self._kept.append((data, request_writer))
                    return
        self._writer.write(data)

    def take(self) -> Callable[[], Any] | None:
        self._writer.clear_matches()
        with self._lock:
            if not self._kept:
                return None
            self._look()
            connected = set(self._reader.matched())
            ready = [data for data, request_writer in self._kept if request_writer in self._hearing]
            self._kept = [kept for kept in self._kept if kept[1] not in self._hearing and kept[1] in connected]
        for data in ready:
            self._writer.write(data)
        return None

    def _look(self) -> None:
        """Which clients hear? A client's writer and reader carry the same ``clientid``; one without an id is taken to hear, as by rmw."""
        readers = (self._writer.matched_endpoint(handle) for handle in self._writer.matched())
        ids = {reader.user_data.get("clientid") for reader in readers if reader is not None}
        self._hearing = set()
        for handle in self._reader.matched():
            endpoint = self._reader.matched_endpoint(handle)
            if endpoint is not None and endpoint.user_data.get("clientid") in {None, *ids}:
                self._hearing.add(handle)
