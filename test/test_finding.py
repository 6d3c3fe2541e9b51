"""Models by name: every way to name one leads to its file, or to a sentence that says what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

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


@pytest.fixture
def hub(start: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A stand-in for the hub's package, as nothing leaves this machine: what was asked of it."""
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        if repository == "no/network":
            raise OSError("We have no connection to it\nand more")
        return str(start)

    file = SimpleNamespace(file_name="start.gguf", file_path=start)
    repo = SimpleNamespace(
        repo_id="a/b", revisions=[SimpleNamespace(files=[file, SimpleNamespace(file_name="README.md", file_path=start)])]
    )
    module, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    module.hf_hub_download, module.scan_cache_dir = download, lambda: SimpleNamespace(repos=[repo])  # type: ignore[attr-defined]
    errors.CacheNotFound = ValueError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return asked


def test_a_file_of_the_hub_is_fetched_with_all_its_parts(hub: list[tuple[str, str]], start: Path) -> None:
    assert find("hf:owner/repo/folder/model-q4.gguf") == start
    find("hf:owner/repo/m-00001-of-00002.gguf")
    assert hub == [
        ("owner/repo", "folder/model-q4.gguf"),
        ("owner/repo", "m-00001-of-00002.gguf"),
        ("owner/repo", "m-00002-of-00002.gguf"),
    ]
    assert cached() == {"hf:a/b/start.gguf": start}
    assert "cannot be fetched (We have no connection to it); see that its name is right" in refusal("hf:no/network/x.gguf")
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
