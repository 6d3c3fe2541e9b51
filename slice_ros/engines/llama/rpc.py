"""Devices of other computers, which llama.cpp's RPC backend computes layers on."""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Sequence

import llama_cpp

from slice_ros.scheduling.engine import EngineError

CONNECT_S = 5.0
"""How long a server may take to answer."""

_added: set[str] = set()


def add_servers(servers: Sequence[str]) -> None:
    """Make the devices of RPC servers known to llama.cpp, for every model that this process loads from now on.

    Args:
        servers: each ``host:port``.

    Raises:
        EngineError: this llama.cpp has no RPC backend, or a server does not answer.
    """
    if not servers:
        return
    if not llama_cpp.llama_supports_rpc():
        raise EngineError(
            f"rpc_servers is {','.join(servers)!r}, and this llama.cpp was built without its RPC backend; build it with: make install RPC=1"
        )
    for server in servers:
        if server not in _added:
            _check(server)
            _add(server)
            _added.add(server)


def _check(server: str) -> None:
    """llama.cpp ends the process where a server does not answer."""
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise EngineError(
            f"rpc_servers names {server}, which does not answer ({error.strerror or error}); start it there with: "
            f"ggml-rpc-server -H {host} -p {port}"
        ) from error


def _add(server: str) -> None:
    library = llama_cpp.llama_cpp._lib
    by_name, address, register = library.ggml_backend_reg_by_name, library.ggml_backend_reg_get_proc_address, library.ggml_backend_register
    by_name.argtypes, by_name.restype = [ctypes.c_char_p], ctypes.c_void_p
    address.argtypes, address.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_void_p
    register.argtypes, register.restype = [ctypes.c_void_p], None
    add = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(address(by_name(b"RPC"), b"ggml_backend_rpc_add_server"))
    register(add(server.encode()))
