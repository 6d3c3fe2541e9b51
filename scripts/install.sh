#!/usr/bin/env bash
# Sets a virtual environment up: llama.cpp built for this machine, then this package with its tools for tests, checks and plots.
#
#   scripts/install.sh VENV
#
# Environment:
#   PYTHON      interpreter to use (default: python3)
#   CUDA=1      build llama.cpp for NVIDIA GPUs
#   RPC=1       build llama.cpp with its RPC backend, and the server for it, VENV/bin/ggml-rpc-server
#   CMAKE_ARGS  further arguments for llama.cpp's build
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LLAMA_CPP_PYTHON=0.3.36
PYTHON=${PYTHON:-python3}
CXX_USED=${CXX:-c++}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/slice_ros/wheels

[[ $# -eq 1 ]] || { echo "usage: scripts/install.sh VENV" >&2; exit 2; }
VENV=$1

say() { printf '%s\n' "install: $*"; }
die() { printf '%s\n' "install: $*" >&2; exit 1; }

check_tools() {
    command -v "$PYTHON" >/dev/null || die "there is no $PYTHON; get one with: sudo apt-get install python3 python3-venv"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$PYTHON is $("$PYTHON" -V 2>&1); 3.10 or later is needed: name another one with PYTHON=..."
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$PYTHON cannot make virtual environments; get what is missing with: sudo apt-get install python3-venv"
}

check_build_tools() {
    command -v "$CXX_USED" >/dev/null || die "there is no C++ compiler ($CXX_USED), which llama.cpp is built with; get one with: sudo apt-get install build-essential cmake"
    if [[ -n ${CUDA:-} ]]; then
        command -v nvcc >/dev/null || die "there is no nvcc, which CUDA=1 needs; get one with: sudo apt-get install nvidia-cuda-toolkit"
    fi
}

one_line() { tr '\n' ' ' <<<"$1"; }

# The arguments of llama.cpp's build, one a line.
build_flags() {
    echo -DLLAVA_BUILD=OFF
    # llama.cpp's AMX kernels crash at the first step of a quantised model. Without them, its other fast kernels are used.
    # A compiler that does not know these options, for another architecture or too old, makes no AMX code.
    local no_amx="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    if : | "$CXX_USED" $no_amx -x c++ -c -o /dev/null - 2>/dev/null; then
        printf '%s\n' "-DCMAKE_C_FLAGS='$no_amx'" "-DCMAKE_CXX_FLAGS='$no_amx'"
    fi
    [[ -z ${CUDA:-} ]] || echo -DGGML_CUDA=on
    [[ -z ${RPC:-} ]] || echo -DGGML_RPC=on
    [[ -z ${CMAKE_ARGS:-} ]] || printf '%s\n' "$CMAKE_ARGS"
}

# What a built wheel is good for: this version, built with these flags, for this Python, system and processor.
wheel_key() {
    local processor
    processor=$(grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null || uname -v)
    "$PYTHON" - "$LLAMA_CPP_PYTHON" "$FLAGS" "$processor" "$(cat /etc/os-release 2>/dev/null)" "$(nvcc --version 2>/dev/null || true)" <<'PY'
import hashlib, platform, sys

digest = hashlib.sha256("\0".join(sys.argv[1:]).encode()).hexdigest()[:12]
print(f"{sys.argv[1]}-cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}-{digest}")
PY
}

make_venv() {
    [[ -x $VENV/bin/python ]] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
    say "making the virtual environment $VENV"
    "$PYTHON" -m venv --clear "$VENV"
}

# Puts the wheel of a directory into the virtual environment, and says whether it works there.
install_wheel() {
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$1"/llama_cpp_python-*.whl &&
        "$VENV/bin/pip" install --quiet --disable-pip-version-check "llama-cpp-python==$LLAMA_CPP_PYTHON" &&
        "$VENV/bin/python" - <<'PY'
import sys

import llama_cpp

info = llama_cpp.llama_print_system_info().decode()
if "AMX" in info:
    sys.exit(f"this llama.cpp has AMX kernels, which crash: {info}")
llama_cpp.llama_backend_init()
PY
}

# CMake that builds llama.cpp's RPC server, too, and has the wheel put it beside the virtual environment's programs.
add_rpc_server() {
    local libraries
    libraries=$("$VENV/bin/python" -c 'import os, sysconfig; paths = sysconfig.get_paths(); print(os.path.relpath(paths["platlib"], paths["scripts"]))')
    cat <<CMAKE
add_subdirectory(vendor/llama.cpp/tools/rpc)
set_target_properties(ggml-rpc-server PROPERTIES INSTALL_RPATH "\$ORIGIN/$libraries/llama_cpp/lib")
install(TARGETS ggml-rpc-server RUNTIME DESTINATION "\${SKBUILD_SCRIPTS_DIR}")
CMAKE
}

# Builds the wheel into a directory. From pip's own cache it could get one that was built with other flags.
build_wheel() {
    local log=$1.log
    say "building llama.cpp $LLAMA_CPP_PYTHON for this machine with $(one_line "$FLAGS")"
    say "this takes some minutes (3 on two cores; with CUDA much longer); its log is $log"
    # llama-cpp-python insists on llama.cpp's utilities, two fifths of the work, which nothing here uses; a variable set in the project wins.
    echo 'set(LLAMA_BUILD_COMMON OFF)' >"$2/project.cmake"
    [[ -z ${RPC:-} ]] || add_rpc_server >>"$2/project.cmake"
    # Where CMake or Ninja is missing or too old, pip fetches it, or make is taken, which uses one core unless told otherwise.
    CMAKE_ARGS="$(one_line "$FLAGS") -DCMAKE_PROJECT_llama_cpp_INCLUDE='$2/project.cmake'" \
        CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)} \
        "$VENV/bin/pip" wheel --disable-pip-version-check --no-cache-dir --no-deps --no-binary llama-cpp-python \
        --verbose --wheel-dir "$2" "llama-cpp-python==$LLAMA_CPP_PYTHON" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        explain "$log" >&2
        die "llama.cpp could not be built; the end of $log is above"
    }
}

# What CMake's complaints about CUDA mean.
explain() {
    local missing
    missing=$(grep -oE '^ *CUDA::[a-zA-Z_]+$' "$1" | sort -u | tr -d ' ' | paste -sd ' ')
    if grep -q 'no GPU was detected' "$1"; then
        say "CUDA=1 builds for the GPU of this machine, and there is none; name the compute capability of another machine's, 87 for a" \
            "Jetson Orin, with CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=87"
    fi
    [[ -z $missing ]] || say "the CUDA toolkit lacks $missing; get all of it with: sudo apt-get install nvidia-cuda-toolkit"
}

main() {
    check_tools
    [[ -z ${CUDA:-} ]] || PATH=$PATH:/usr/local/cuda/bin
    FLAGS=$(build_flags)
    local wheel_dir
    wheel_dir=$CACHE/$(wheel_key)
    make_venv
    if [[ -d $wheel_dir ]]; then
        say "taking the llama.cpp $LLAMA_CPP_PYTHON that was built before, in $wheel_dir"
        if ! install_wheel "$wheel_dir"; then
            say "it does not work any more and is built again"
            rm -rf "$wheel_dir"
        fi
    fi
    if [[ ! -d $wheel_dir ]]; then
        check_build_tools
        mkdir -p "$CACHE"
        building=$(mktemp -d "$CACHE/.building.XXXXXX")
        trap 'rm -rf "$building"' EXIT
        build_wheel "$wheel_dir" "$building"
        install_wheel "$building" || die "the llama.cpp just built does not work; see the message above and $wheel_dir.log"
        mv -T "$building" "$wheel_dir" 2>/dev/null || true  # another install was quicker
    fi
    say "installing slice_ros and its tools"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check -e ".[test,lint,plot]"
    say "done; try: $VENV/bin/slice-ros --help"
}

main
