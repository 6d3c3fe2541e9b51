"""llama.cpp's own llama-batched-bench and llama-server, which the engine and the server are measured against.

They are built from the source package of the installed llama-cpp-python release and linked against its libllama, so that both sides run
the same kernels. The first use builds them, which takes some minutes; ``python benchmarks/yardstick.py`` does nothing else.

Environment:
    LLAMA_CPP_SOURCE: llama-cpp-python's source package (.tar.gz), where it cannot be downloaded.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import llama_cpp

from slice_ros.paths import cache_dir

PROGRAMS = ("llama-batched-bench", "llama-server")
LIBRARIES = Path(llama_cpp.__file__).parent / "lib"
PACKAGE = f"llama-cpp-python=={llama_cpp.__version__}"


class YardstickError(Exception):
    """The programs cannot be built; the message says why, and what to do."""


def program(name: str) -> str:
    """The path of one of ``PROGRAMS``; the first time it is built.

    Raises:
        YardstickError: it cannot be built.
    """
    folder = cache_dir() / "yardstick" / f"{llama_cpp.__version__}-{platform.machine()}"
    if not all((folder / each).exists() for each in PROGRAMS):
        folder.mkdir(parents=True, exist_ok=True)
        _build(folder)
    return str(folder / name)


def environment() -> dict[str, str]:
    """What the programs run under: libllama where it is found."""
    return {**os.environ, "LD_LIBRARY_PATH": f"{LIBRARIES}:{os.environ.get('LD_LIBRARY_PATH', '')}"}


def _build(folder: Path) -> None:
    log = folder / "build.log"
    print(f"building {' and '.join(PROGRAMS)}; the log is {log}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building.") as name, log.open("w") as output:
        work = Path(name)
        cmake, source = _cmake(work), _source(work)
        shutil.copy(Path(__file__).with_name("yardstick.cmake"), work / "CMakeLists.txt")
        options = (f"-DSOURCE={source}", f"-DLIBRARIES={LIBRARIES}", "-DCMAKE_BUILD_TYPE=Release")
        parallel = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        for arguments in (
            ("-S", name, "-B", f"{name}/build", *options),
            ("--build", f"{name}/build", "--parallel", parallel, "--target", *PROGRAMS),
        ):
            if subprocess.run((cmake, *arguments), stdout=output, stderr=subprocess.STDOUT, check=False).returncode:
                raise YardstickError(f"llama.cpp's programs cannot be built; the end of {log} says why")
        for each in PROGRAMS:
            shutil.move(work / "build" / "bin" / each, folder / each)


def _cmake(work: Path) -> str:
    """The machine's CMake, else one from PyPI."""
    if found := shutil.which("cmake"):
        return found
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", str(work / "cmake"), "cmake>=3.18,<5")
    if subprocess.run(pip, check=False).returncode:
        raise YardstickError("there is no cmake, and pip cannot get one; install it with: sudo apt-get install cmake build-essential")
    return str(work / "cmake" / "bin" / "cmake")


def _source(work: Path) -> Path:
    """llama.cpp's source, unpacked."""
    package = os.environ.get("LLAMA_CPP_SOURCE")
    if not package:
        pip = (
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            "llama-cpp-python",
            "--dest",
            str(work),
            PACKAGE,
        )
        if subprocess.run(pip, check=False).returncode:
            raise YardstickError(f"pip cannot download the source of {PACKAGE}; name its .tar.gz in LLAMA_CPP_SOURCE")
        (package,) = map(str, work.glob("*.tar.gz"))
    try:
        with tarfile.open(package) as archive:
            archive.extractall(work, filter="data")
        (source,) = work.glob("*/vendor/llama.cpp")
    except (OSError, tarfile.TarError, ValueError) as error:
        raise YardstickError(f"{package} is not the source package of {PACKAGE} ({error}); name its .tar.gz in LLAMA_CPP_SOURCE") from error
    return source


if __name__ == "__main__":
    try:
        print(Path(program(PROGRAMS[0])).parent)
    except YardstickError as error:
        sys.exit(f"yardstick: {error}")
