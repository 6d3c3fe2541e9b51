"""The gateway's node, with a thread of its own, for coroutines of an asyncio loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from rcl_interfaces.srv import ListParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from slice_ros.client import STALE_S, SliceClient
from slice_ros.gateway.errors import AWAY_S, ApiError, retry_after
from slice_ros.gateway.reply import Reply
from slice_ros.goal import ChatMessage
from slice_ros.ros.interfaces import CheckSlo

CALL_S = 2.0
"""How long a service of the server may take to answer."""
LOOK_S = 0.1
LEAVE_S = 0.1
"""How long cancels may take to leave when the gateway ends; the server notices by itself, too."""
TURN_S = 0.5


class Link:
    """Sends goals to a server and asks it for what the gateway tells of it.

    Args:
        node: the gateway's own, in no executor.
        server: name of the server node.
    """

    def __init__(self, node: Node, server: str) -> None:
        self.server = server
        self._node = node
        self._client = SliceClient(node, server)
        self._replies: set[Reply] = set()
        self._list = node.create_client(ListParameters, f"{server}/list_parameters")
        self._check = node.create_client(CheckSlo, f"{server}/check_slo")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._is_over = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._spin, name="rclpy", daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._is_over.is_set():
            try:
                self._executor.spin_once(timeout_sec=TURN_S)
            except ExternalShutdownException:
                return
            except Exception as error:
                self._node.get_logger().error(f"a callback raised {error!r}, and the gateway goes on")

    @property
    def status(self) -> Any:
        """The server's latest ``SloStatus``; ``None`` where there is none of the last seconds."""
        return self._client.status

    async def next_status(self) -> Any:
        """The server's latest status, waiting for one where there is none; ``None`` if none comes."""
        for _ in range(round(STALE_S / LOOK_S)):
            if self.status is not None:
                break
            await asyncio.sleep(LOOK_S)
        return self.status

    def send(self, prompt: str | Sequence[ChatMessage], **goal: Any) -> Reply:
        """Send a goal; options as for ``SliceClient.send``.

        Raises:
            ApiError: 503, the gateway is being stopped.
        """
        if self._is_closing:
            raise self._away("this gateway is being stopped")
        reply = Reply(self._client.send(prompt, **goal))
        self._replies.add(reply)
        return reply

    @property
    def in_flight(self) -> int:
        """Goals that somebody waits for."""
        return len(self._replies)

    def forget(self, reply: Reply) -> None:
        """Nobody waits for it any more; one that has not ended is canceled."""
        reply.cancel()
        self._replies.discard(reply)

    async def parameters(self, prefix: str) -> Sequence[str]:
        """Names of the server's parameters that begin with this.

        Raises:
            ApiError: 503, it does not answer.
        """
        answer = await self._call(self._list, ListParameters.Request(prefixes=[prefix]))
        names: Sequence[str] = answer.result.names
        return names

    async def fits_in_s(self, request: Any) -> float:
        """When admission would take a goal, s from now; NaN is never, or not known.

        Args:
            request: of ``~/check_slo``.
        """
        try:
            answer = await self._call(self._check, request)
        except ApiError:
            return float("nan")
        return float(answer.fits_in_ms) / 1e3 if not answer.error_code else float("nan")

    async def _call(self, client: Any, request: Any) -> Any:
        if not client.service_is_ready():
            raise self._away(f"the server {self.server} is not there")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def tell(done: Any) -> None:
            if not answer.done():
                answer.set_result(done.result())

        pending = client.call_async(request)
        pending.add_done_callback(lambda done: loop.call_soon_threadsafe(partial(tell, done)))
        try:
            return await asyncio.wait_for(answer, CALL_S)
        except asyncio.TimeoutError as error:
            client.remove_pending_request(pending)
            raise self._away(f"the server {self.server} did not answer within {CALL_S:g} s") from error

    @staticmethod
    def _away(what: str) -> ApiError:
        return ApiError(503, f"{what}; try again in {AWAY_S:g} s", code="unavailable", headers=retry_after(AWAY_S))

    def end_all(self) -> None:
        """Give up every goal and take none any more; in the loop's thread."""
        self._is_closing = True
        for reply in list(self._replies):
            reply.give_up(self._away("this gateway is being stopped"))

    def close(self) -> None:
        """Give the node back; goals in flight are canceled."""
        self._client.destroy()
        self._is_over.wait(LEAVE_S)
        self._is_over.set()
        self._executor.wake()
        self._thread.join()
        self._executor.remove_node(self._node)
        self._executor.shutdown()
