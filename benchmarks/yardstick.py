"""llama.cpp's own llama-batched-bench and llama-server, and llama-cpp-python's server: what the engine and the server are measured against.

They are of the source package of the installed llama-cpp-python release, the first two built and linked against its libllama, so that all
run the same kernels. The first use of each builds it, which takes some minutes; ``python benchmarks/yardstick.py`` does nothing else.

Environment:
    LLAMA_CPP_SOURCE: llama-cpp-python's source package (.tar.gz), where it cannot be downloaded.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import llama_cpp

from slice_ros.engines.llama.loading import NO_CUDA_GRAPHS
from slice_ros.paths import cache_dir

LIBRARIES = Path(llama_cpp.__file__).parent / "lib"
PACKAGE = f"llama-cpp-python=={llama_cpp.__version__}"
FOLDER = cache_dir() / "yardstick" / f"{llama_cpp.__version__}-{platform.machine()}"


class YardstickError(Exception):
    """The programs cannot be built; the message says why, and what to do."""


def program(name: str) -> str:
    """The path of ``llama-batched-bench`` or ``llama-server``; the first time it is built, or the rest of it after an interruption.

    Raises:
        YardstickError: it cannot be built.
    """
    path = FOLDER / "build" / "bin" / name
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        _build(name)
    return str(path)


WITHOUT_IMAGES = """
import runpy, sys, types
sys.modules["llama_cpp.mtmd_cpp"] = types.ModuleType("mtmd_cpp")  # of its part for images, which is not built here
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def python_server() -> tuple[list[str], dict[str, str]]:
    """The command that starts llama-cpp-python's server, and what it runs under: with the packages that its first lines name.

    Raises:
        YardstickError: they cannot be had.
    """
    script, packages = _package() / "examples" / "server" / "server.py", FOLDER / "python-server"
    if not packages.exists():
        head = script.read_text().partition("# ///\n\n")[0]
        needed = [name for name in re.findall(r'^#\s+"(.+)",$', head, re.MULTILINE) if name != "llama-cpp-python"]
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages), *needed)
        if subprocess.run(pip, check=False).returncode:
            shutil.rmtree(packages, ignore_errors=True)
            raise YardstickError(f"pip cannot install what {script} needs: {', '.join(needed)}")
    return [sys.executable, "-c", WITHOUT_IMAGES, str(script)], {**os.environ, "PYTHONPATH": str(packages)}


def environment() -> dict[str, str]:
    """What the programs run under: libllama where it is found, and CUDA graphs, which this package's engine turns off for itself."""
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{LIBRARIES}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    environment.pop(NO_CUDA_GRAPHS, None)
    return environment


def _build(name: str) -> None:
    log, build = FOLDER / f"{name}.log", FOLDER / "build"
    print(f"building {name}; the log is {log}", file=sys.stderr)
    cmake, source = _cmake(), _source()
    (FOLDER / "project").mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("yardstick.cmake"), FOLDER / "project" / "CMakeLists.txt")
    options = (f"-DSOURCE={source}", f"-DLIBRARIES={LIBRARIES}", "-DCMAKE_BUILD_TYPE=Release")
    parallel = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    with log.open("w") as output:
        for arguments in (
            ("-S", FOLDER / "project", "-B", build, *options),
            ("--build", build, "--parallel", parallel, "--target", name),
        ):
            if subprocess.run((cmake, *arguments), stdout=output, stderr=subprocess.STDOUT, check=False).returncode:
                raise YardstickError(f"{name} cannot be built; the end of {log} says why")


def _cmake() -> str:
    """The machine's CMake, else one from PyPI."""
    if found := shutil.which("cmake"):
        return found
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", str(FOLDER / "cmake"), "cmake>=3.18,<5")
    if subprocess.run(pip, check=False).returncode:
        raise YardstickError("there is no cmake, and pip cannot get one; install it with: sudo apt-get install cmake build-essential")
    return str(FOLDER / "cmake" / "cmake" / "data" / "bin" / "cmake")


def _source() -> Path:
    """llama.cpp's source, unpacked."""
    return _package() / "vendor" / "llama.cpp"


def _package() -> Path:
    """llama-cpp-python's source package, unpacked."""
    source = FOLDER / "package"
    if source.exists():
        return source
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        package = os.environ.get("LLAMA_CPP_SOURCE")
        if not package:
            pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python")
            if subprocess.run((*pip, "--dest", name, PACKAGE), check=False).returncode:
                raise YardstickError(f"pip cannot download the source of {PACKAGE}; name its .tar.gz in LLAMA_CPP_SOURCE")
            (package,) = map(str, Path(name).glob("*.tar.gz"))
        try:
            with tarfile.open(package) as archive:
                archive.extractall(name, filter="data")
            (llama_cpp_source,) = Path(name).glob("*/vendor/llama.cpp")
        except (OSError, tarfile.TarError, ValueError) as error:
            raise YardstickError(
                f"{package} is not the source package of {PACKAGE} ({error}); name its .tar.gz in LLAMA_CPP_SOURCE"
            ) from error
        llama_cpp_source.parent.parent.rename(source)
    return source


if __name__ == "__main__":
    try:
        print(*map(program, ("llama-batched-bench", "llama-server")), sep="\n")
    except YardstickError as error:
        sys.exit(f"yardstick: {error}")
