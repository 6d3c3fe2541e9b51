"""Service clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from slice_ros.rclpy_dds import messages
from slice_ros.rclpy_dds.callback_groups import CallbackGroup
from slice_ros.rclpy_dds.cdr import DecodeError
from slice_ros.rclpy_dds.dds import Reader, WaitSet, Writer
from slice_ros.rclpy_dds.exceptions import RCLError
from slice_ros.rclpy_dds.qos import QoSProfile
from slice_ros.rclpy_dds.service import REQUEST_HEADER_SIZE, RequestId, endpoints
from slice_ros.rclpy_dds.task import Future
from slice_ros.rclpy_dds.waitable import Waitable

if TYPE_CHECKING:
    from slice_ros.rclpy_dds.node import Node

_LONGEST_WAIT_S = 0.1
"""Two threads may wait for one endpoint, and the first takes the news away from the second: it looks again after this long."""


def wait_for_match(node: Node, parts: list[Reader | Writer], ready: Callable[[], bool], timeout_sec: float | None) -> bool:
    """Block until ``ready()``, which can change when a counterpart of ``parts`` comes or goes; at most ``timeout_sec``."""
    if ready():
        return True
    end = None if timeout_sec is None else time.monotonic() + timeout_sec
    waitset = WaitSet(node.context.participant)
    try:
        for part in parts:
            waitset.attach(part.watch_matches())
        while node.context.ok():
            if ready():
                return True
            left = _LONGEST_WAIT_S if end is None else min(end - time.monotonic(), _LONGEST_WAIT_S)
            if left <= 0:
                break
            waitset.wait(int(left * 1e9))
            for part in parts:
                part.clear_matches()
        return ready()
    finally:
        waitset.close()


class Client(Waitable):
    """Asks a service. Made by ``Node.create_client``."""

    def __init__(self, node: Node, srv_type: Any, srv_name: str, qos_profile: QoSProfile, callback_group: CallbackGroup) -> None:
        self.srv_type = srv_type
        self.srv_name = srv_name
        self.qos_profile = qos_profile
        self.callback_group = callback_group
        self._node = node
        self._request_codec = messages.codec(srv_type.Request.__msgtype__)
        self._response_codec = messages.codec(srv_type.Response.__msgtype__)
        self._reader, self._writer = endpoints(node, srv_type, srv_name, qos_profile, server=False)
        self._id = self._writer.handle
        self.condition = self._reader.condition
        self.endpoints = [("readers", self._reader.guid), ("writers", self._writer.guid)]
        self._lock = threading.Lock()
        self._sequence = 0
        self._pending: dict[int, Future] = {}

    @property
    def service_name(self) -> str:
        return self.srv_name

    def call(self, request: Any, timeout_sec: float | None = None) -> Any:
        """Ask and block until the answer; not from a callback of the executor that would have to deliver it.

        Raises:
            TimeoutError: there was no answer in ``timeout_sec``.
        """
        arrived = threading.Event()
        future = self.call_async(request)
        future._resume_when_done(arrived.set)
        if not arrived.wait(timeout_sec):
            self.remove_pending_request(future)
            raise TimeoutError(f"{self.srv_name} did not answer in {timeout_sec} s")
        return future.result()

    def call_async(self, request: Any) -> Future:
        """Ask; the future completes with the response, in the executor.

        Raises:
            TypeError: the request is not of the service's type, or a field has a value that its type cannot hold.
            RCLError: the context was shut down.
        """
        if not self._node.context.ok():
            raise RCLError("Failed to send request: client's context is invalid")
        future = Future(executor=self._node.executor)
        with self._lock:
            self._sequence += 1
            request_id = RequestId(self._id, self._sequence)
        data = self._request_codec.encode(request, request_id.prefix())
        with self._lock:
            self._pending[request_id.sequence] = future
        try:
            self._writer.write(data)
        except RuntimeError:
            self.remove_pending_request(future)
            raise
        future._resume_when_done(partial(self._forget, request_id.sequence))
        return future

    def remove_pending_request(self, future: Future) -> None:
        """Ignore the answer to this request."""
        with self._lock:
            self._pending = {sequence: known for sequence, known in self._pending.items() if known is not future}

    def _forget(self, sequence: int) -> None:
        with self._lock:
            self._pending.pop(sequence, None)

    def take(self) -> Callable[[], Any] | None:
        while (sample := self._reader.take()) is not None:
            try:
                request_id = RequestId.of(sample.data)
                if request_id.client != self._id:
                    continue  # replies reach every client of the service
                with self._lock:
                    future = self._pending.pop(request_id.sequence, None)
                if future is None:
                    continue
                response = self._response_codec.decode(sample.data, REQUEST_HEADER_SIZE)
            except DecodeError as error:
                self._node.get_logger().error(f"dropped a reply of {self.srv_name}: {error}", throttle_duration_sec=1.0)
                continue
            return partial(future.set_result, response)
        return None

    def service_is_ready(self) -> bool:
        """Is there a server that gets requests and whose replies arrive? One server must do both: they share a ``serviceid``."""
        reading = {self._service_id(self._writer, handle) for handle in self._writer.matched()}
        writing = {self._service_id(self._reader, handle) for handle in self._reader.matched()}
        return bool((reading & writing) - {None}) or (bool(reading) and bool(writing) and reading == {""})

    def wait_for_service(self, timeout_sec: float | None = None) -> bool:
        """Block until a server is ready, at most ``timeout_sec``; says whether one is."""
        return wait_for_match(self._node, [self._reader, self._writer], self.service_is_ready, timeout_sec)

    @staticmethod
    def _service_id(part: Reader | Writer, handle: int) -> str | None:
        """The counterpart's id, "" where it has none, ``None`` where it has just gone."""
        endpoint = part.matched_endpoint(handle)
        return None if endpoint is None else endpoint.user_data.get("serviceid", "")

    def destroy(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.cancel()
        self._reader.close()
        self._writer.close()
