#!/usr/bin/env bash
# Builds llama.cpp's own llama-batched-bench, llama-server and ggml-rpc-server, which the engine and the server are measured against,
# from the source package of the llama-cpp-python release that scripts/install.sh installs, with the same flags.
#
#   benchmarks/yardstick.sh      prints the directory of the programs; the first time it builds for some minutes
#
# Environment:
#   SOURCE_DIR  llama.cpp's source, where the package cannot be downloaded
#   others      as for scripts/install.sh: PYTHON, CUDA, CMAKE_ARGS, XDG_CACHE_HOME
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SAYS=yardstick
source scripts/llama_cpp.sh

PYTHON=${PYTHON:-python3}
TARGETS=(llama-batched-bench llama-server ggml-rpc-server)

# A cmake for this build: the machine's, else one from PyPI beside the source.
find_cmake() {
    command -v cmake && return
    say "there is no cmake; getting it with pip"
    "$PYTHON" -m venv "$1/venv" && "$1/venv/bin/pip" install --quiet --disable-pip-version-check 'cmake>=3.21,<5' ||
        die "cmake could not be installed; get it with: sudo apt-get install cmake"
    echo "$1/venv/bin/cmake"
}

get_source() {
    [[ -z ${SOURCE_DIR:-} ]] || { echo "$SOURCE_DIR"; return; }
    say "getting the source of llama-cpp-python $LLAMA_CPP_PYTHON"
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python --dest "$1" \
        "llama-cpp-python==$LLAMA_CPP_PYTHON" >&2 ||
        die "the source package could not be downloaded; name llama.cpp's source with SOURCE_DIR=..."
    tar -xzf "$1"/llama_cpp_python-*.tar.gz -C "$1"
    echo "$1/llama_cpp_python-$LLAMA_CPP_PYTHON/vendor/llama.cpp"
}

main() {
    command -v "$CXX_USED" >/dev/null || die "there is no C++ compiler ($CXX_USED); get one with: sudo apt-get install build-essential"
    local flags programs work cmake source
    flags=$(build_flags)
    programs=$CACHE/yardstick/$(build_key "$flags")
    if [[ ! -d $programs ]]; then
        mkdir -p "$CACHE/yardstick"
        work=$(mktemp -d "$CACHE/yardstick/.building.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        cmake=$(find_cmake "$work")
        source=$(get_source "$work")
        say "building ${TARGETS[*]}; the log is $programs.log"
        {
            # One argument a line; xargs takes the quotes away.
            (one_line "$flags"; echo) | xargs "$cmake" -S "$source" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
                -DGGML_RPC=ON -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_TESTS=OFF \
                -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
                -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DCMAKE_BUILD_RPATH_USE_ORIGIN=ON &&
                "$cmake" --build "$work/build" --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" --target "${TARGETS[@]}"
        } >"$programs.log" 2>&1 || {
            tail -n 40 "$programs.log" >&2
            die "llama.cpp's programs could not be built; the end of $programs.log is above"
        }
        mv -T "$work/build/bin" "$programs" 2>/dev/null || true  # another build was quicker
    fi
    echo "$programs"
}

main
