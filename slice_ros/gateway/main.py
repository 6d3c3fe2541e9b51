"""The gateway's process: a node beside the server's, and an HTTP server, until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import rclpy
import uvicorn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from slice_ros.gateway.app import make_app
from slice_ros.gateway.connection import Connection
from slice_ros.gateway.guard import LOCAL_NAMES, Keys, is_loopback
from slice_ros.gateway.limits import Limits
from slice_ros.gateway.link import Link
from slice_ros.ros.distributions import RCLError, mind_the_dead, refusal

DRAIN_S = 2
"""How long the last answers may take to leave, whole seconds."""


class GatewayError(Exception):
    """The gateway cannot start; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Config:
    """Args:
    server: name of the server node.
    host, port: where to listen; port 0 takes a free one.
    key_file: keys that open the door, one a line; needed where others than this machine reach it.
    certificate, private_key: files in PEM, for HTTPS.
    hosts: further names that requests without a key may be for.
    origins: web pages that may use it.
    limits: of requests.
    """

    server: str = "/slice_server"
    host: str = "127.0.0.1"
    port: int = 8080
    key_file: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


class _Server(uvicorn.Server):
    """Ends goals before it waits for their answers to leave."""

    def __init__(self, config: uvicorn.Config, link: Link) -> None:
        super().__init__(config)
        self._link = link

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._link.end_all()
        await super().shutdown(sockets)


def main(config: Config, ros_arguments: Sequence[str] = ()) -> int:
    """Serve until SIGINT or SIGTERM.

    Returns:
        Exit status: 0 after a signal, 1 when the gateway could not start.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)  # uvicorn listens for them, and raises them anew when it has ended
    node: Node | None = None
    link: Link | None = None
    mind_the_dead()
    try:
        keys = _keys(config)
        listening = _listen(config)
        try:
            # rclpy's own handlers would take the context away before the answers have left.
            rclpy.init(args=list(ros_arguments), signal_handler_options=SignalHandlerOptions.NO)
            node = rclpy.create_node("slice_gateway")
            link = Link(node, config.server)
        except (RCLError, RuntimeError) as error:
            raise GatewayError(refusal(error)) from error
        _serve(config, keys, listening, node, link)
    except GatewayError as error:
        print(f"slice_gateway cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        if link is not None:
            link.close()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _keys(config: Config) -> Keys:
    """Raises:
    GatewayError: there are none where there must be some.
    """
    if config.key_file is not None:
        try:
            return Keys.of_file(config.key_file)
        except ValueError as error:
            raise GatewayError(str(error)) from error
    if not is_loopback(config.host):
        raise GatewayError(f"others than this machine reach {config.host}, so a key is required; give --api-key-file FILE")
    return Keys()


def _listen(config: Config) -> socket.socket:
    """Raises:
    GatewayError: the address cannot be had.
    """
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        family, address = found[0][0], found[0][4]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise GatewayError(
            f"cannot listen on {config.host}, port {config.port}: {error.strerror or error}; give another --host or --port"
        ) from error


def http_server(config: Config, keys: Keys, link: Link) -> uvicorn.Server:
    """The server of HTTP, still to be given its socket."""
    return _Server(
        uvicorn.Config(
            make_app(link, config.limits, keys, {*LOCAL_NAMES, *config.hosts}, config.origins),
            http=cast(Any, partial(Connection, config.limits)),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
            h11_max_incomplete_event_size=config.limits.head_bytes,
            ssl_certfile=config.certificate,
            ssl_keyfile=config.private_key,
        ),
        link,
    )


def _serve(config: Config, keys: Keys, listening: socket.socket, node: Node, link: Link) -> None:
    host, port = listening.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    scheme = "https" if config.certificate is not None else "http"
    node.get_logger().info(f"listening on {scheme}://{address}/v1 for {config.server}, {'with' if keys else 'without'} a key")
    try:
        asyncio.run(http_server(config, keys, link).serve([listening]))
    except OSError as error:
        raise GatewayError(f"the certificate or its key cannot be used: {error}") from error
