"""A model over two RPC servers says what it says on this computer alone. Where llama.cpp was built with RPC=1."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import llama_cpp
import pytest

from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.engines.llama.shapes import START_SHAPE, make_start_model
from slice_ros.parameters.table import check_all
from slice_ros.scheduling.engine import EngineError

SERVER = Path(sys.executable).with_name("ggml-rpc-server")
needs_rpc = pytest.mark.skipif(not (llama_cpp.llama_supports_rpc() and SERVER.exists()), reason="llama.cpp was built without RPC=1")

SAY = """
import sys
from slice_ros.engines.llama import LlamaConfig, LlamaEngine
from slice_ros.goal import GoalRequest
from slice_ros.mask import Cell
from slice_ros.slo import Slo

engine = LlamaEngine(LlamaConfig(sys.argv[1], n_ctx=512, n_threads=1, rpc_servers=tuple(sys.argv[2:])))
tokens = engine.prepare(GoalRequest("g", Slo(), 40, prompt="Where is the charging station?"))
engine.open("g")
(output,) = engine.step((Cell("g", tokens),))
text = output.text
while output.finish is None:
    (output,) = engine.step((Cell("g"),))
    text += output.text
print(engine.info.device, text, sep="\\n")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.gguf"
    make_start_model(path, shape=replace(START_SHAPE, block_count=4))
    return path


@pytest.fixture
def addresses() -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        return [f"127.0.0.1:{open_.getsockname()[1]}" for open_ in sockets]


@pytest.fixture
def servers(addresses: list[str]) -> Iterator[list[str]]:
    processes = [
        subprocess.Popen([SERVER, "-H", "127.0.0.1", "-p", address.rpartition(":")[2], "-t", "1"], stdout=subprocess.DEVNULL)
        for address in addresses
    ]
    for address in addresses:
        host, port = address.split(":")
        end_s = time.monotonic() + 30.0
        while True:
            try:
                socket.create_connection((host, int(port))).close()
                break
            except OSError:
                assert time.monotonic() < end_s
                time.sleep(0.05)
    yield addresses
    for process in processes:
        process.kill()
        process.wait()


def say(model: Path, *servers: str) -> tuple[str, str]:
    """The device and the text, from a process of its own: the devices of a server stay known to a process."""
    run = subprocess.run([sys.executable, "-c", SAY, str(model), *servers], capture_output=True, text=True, check=True)
    device, text = run.stdout.splitlines()
    return device, text


@needs_rpc
def test_a_model_over_two_servers_says_what_it_says_here(model: Path, servers: list[str]) -> None:
    here, text = say(model)
    there, same = say(model, *servers)
    assert same == text
    assert there != here


@needs_rpc
def test_a_server_that_does_not_answer_is_told_and_how_to_start_it(model: Path, addresses: list[str]) -> None:
    with pytest.raises(EngineError, match=f"{addresses[0]}, which does not answer .*ggml-rpc-server -H 127.0.0.1"):
        LlamaEngine(LlamaConfig(model, rpc_servers=(addresses[0],)))


@pytest.mark.skipif(llama_cpp.llama_supports_rpc(), reason="llama.cpp was built with RPC=1")
def test_a_build_without_rpc_is_told_and_how_to_get_one(model: Path) -> None:
    with pytest.raises(EngineError, match="built without its RPC backend; build it with: make install RPC=1"):
        LlamaEngine(LlamaConfig(model, rpc_servers=("127.0.0.1:50052",)))


def test_the_parameter_names_servers_by_host_and_port() -> None:
    config = LlamaConfig.from_parameters(check_all({"gpu.rpc_servers": "10.0.0.2:50052, arm:1"}))
    assert config.rpc_servers == ("10.0.0.2:50052", "arm:1")
    with pytest.raises(EngineError, match=r"rpc_servers is '10\.0\.0\.2'"):
        LlamaConfig.from_parameters(check_all({"gpu.rpc_servers": "10.0.0.2"}))
