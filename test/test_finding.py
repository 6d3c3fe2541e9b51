"""Models by name: every way to name one leads to its file, or to a sentence that says what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gguf
import pytest
from smollm2 import SMOLLM2, needs_smollm2

from slice_ros.cli import main
from slice_ros.engines.llama import LlamaConfig, LlamaEngine, shapes
from slice_ros.engines.llama.catalogue import facts
from slice_ros.engines.llama.finding import cached, find, packaged
from slice_ros.engines.llama.shapes import default_model_path, make_start_model
from slice_ros.parameters.table import check_all
from slice_ros.scheduling.engine import EngineError


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "start.gguf"
    make_start_model(path)
    return path


def refusal(name: str) -> str:
    with pytest.raises(EngineError) as caught:
        find(name)
    return str(caught.value)


def test_a_file_a_folder_and_a_link_lead_to_the_file(start: Path, tmp_path: Path) -> None:
    link = tmp_path / "current.gguf"
    link.symlink_to(start)
    assert find(str(start)) == start
    assert find(str(start.parent)) == start
    assert find(str(link)) == link
    assert find("") == find("robot") == default_model_path()


def test_a_split_model_is_named_by_its_first_part_its_folder_or_a_link(tmp_path: Path) -> None:
    parts = [tmp_path / f"big-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for part in parts[:2]:
        part.touch()
    assert "big-00003-of-00003.gguf is not beside it" in refusal(str(parts[0]))
    parts[2].touch()
    link = tmp_path / "link"
    link.symlink_to(parts[0])
    for name in (parts[0], tmp_path, link):
        assert find(str(name)) == parts[0]
    assert "is part 2 of 3; name the first, big-00001-of-00003.gguf" in refusal(str(parts[1]))


def test_what_is_no_model_is_refused_with_what_there_is(tmp_path: Path) -> None:
    assert "holds no GGUF file" in refusal(str(tmp_path))
    for name in ("a", "b"):
        (tmp_path / f"{name}.gguf").touch()
    assert "holds 2 models: a.gguf, b.gguf; name one of them" in refusal(str(tmp_path))
    assert "is 'smollm2' meant?" in refusal("smollm3")
    assert "robot, smollm2" in refusal("/no/such/file.gguf")


@needs_smollm2
def test_a_package_brings_a_model_by_name() -> None:
    assert find("smollm2") == packaged()["smollm2"] == SMOLLM2
    config = LlamaConfig.from_parameters(check_all({"model.path": "smollm2", "model.chat_template": "chatml"}))
    assert (config.model_path, config.chat_template) == (SMOLLM2, "chatml")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slice_ros.engines.llama.finding.find_spec", lambda _: None)
    assert "pip install 'slice_ros[smollm2]'" in refusal("smollm2")


class Hub(BaseHTTPRequestHandler):
    """A hub on this machine, which has one repository with two models; one of them in two parts, each in a folder."""

    files = ("robot.gguf", "q4/m-00001-of-00002.gguf", "q4/m-00002-of-00002.gguf")
    content = default_model_path().read_bytes()

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        name = self.path.removeprefix("/owner/repo/resolve/main/")
        if name in self.files:
            self.send_response(200)
            etag = sha256(name.encode()).hexdigest()
            headers = {"X-Repo-Commit": "a" * 40, "ETag": f'"{etag}"', "Content-Length": str(len(self.content))}
        else:
            self.send_response(404)
            headers = {"X-Error-Code": "EntryNotFound", "Content-Length": "0"}
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)


def from_hub(port: int, home: Path, *names: str) -> tuple[list[str], list[str]]:
    """Where files of the hub are after another process has asked for them, or why not; and what its cache holds then."""
    code = """
import json, sys
from slice_ros.engines.llama.finding import cached, find
from slice_ros.scheduling.engine import EngineError
def found(name):
    try:
        return str(find(name))
    except EngineError as error:
        return str(error)
print(json.dumps([[found(name) for name in sys.argv[1:]], list(cached())]))
"""
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", code, *names], env=environment, capture_output=True, text=True, check=True, timeout=120)
    found, held = json.loads(done.stdout.splitlines()[-1])
    return found, held


def test_files_of_the_hub_are_fetched_once_with_all_their_parts_and_are_there_without_it(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    whole, split = "hf:owner/repo/robot.gguf", "hf:owner/repo/q4/m-00001-of-00002.gguf"
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        serving = threading.Thread(target=hub.serve_forever)
        serving.start()
        try:
            found, held = from_hub(hub.server_port, tmp_path, whole, split, "hf:owner/repo/other.gguf")
        finally:
            hub.shutdown()
            serving.join()
    assert [Path(path).name for path in found[:2]] == ["robot.gguf", "m-00001-of-00002.gguf"]
    assert Path(found[0]).read_bytes() == Hub.content
    assert Path(found[1]).with_name("m-00002-of-00002.gguf").exists()
    assert "hf:owner/repo/other.gguf cannot be fetched (404" in found[2]
    assert "see that its name is right and that the network is there" in found[2]
    assert held == [split, whole]
    again, _ = from_hub(hub.server_port, tmp_path, whole, split)
    assert again == found[:2]


def test_what_names_no_file_of_the_hub_is_refused() -> None:
    assert "is not of the form hf:OWNER/REPO/FILE.gguf" in refusal("hf:owner/repo")


def test_without_the_hubs_package_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'slice_ros[hf]'" in refusal("hf:owner/repo/x.gguf")
    assert cached() == {}


def test_facts_are_read_without_the_weights(start: Path) -> None:
    found = facts(start)
    assert (found.architecture, found.template, found.tools, found.reasons, found.memory) == ("llama", True, "", False, "all tokens")
    assert (found.context, found.unfit, found.size) == (shapes.START_SHAPE.context_length, "", start.stat().st_size)


def test_models_are_listed_with_what_they_can_do(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    assert "robot" in json.loads(capsys.readouterr().out)
    assert main(["models", str(start), "/no/such.gguf"]) == 1
    printed = capsys.readouterr()
    assert "llama" in printed.out
    assert "all tokens" in printed.out
    assert "there is no model '/no/such.gguf'" in printed.err


@pytest.mark.parametrize("mark", ["causal", "pooling"])
def test_a_model_that_makes_embeddings_is_refused_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    add = shapes._add_vocabulary

    def add_marked(writer: gguf.GGUFWriter, size: int) -> None:
        add(writer, size)
        if mark == "causal":
            writer.add_causal_attention(False)
        else:
            writer.add_pooling_type(gguf.PoolingType.MEAN)

    monkeypatch.setattr(shapes, "_add_vocabulary", add_marked)
    make_start_model(tmp_path / "embeds.gguf")
    assert facts(tmp_path / "embeds.gguf").unfit == "makes embeddings and no text"
    with pytest.raises(EngineError, match="makes embeddings and no text; take a model that generates text"):
        LlamaEngine(LlamaConfig(tmp_path / "embeds.gguf"))
