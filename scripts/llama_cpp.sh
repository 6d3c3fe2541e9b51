# Which llama.cpp is built, and how: sourced by what builds it. The caller sets PYTHON, and SAYS, the name that its messages begin with.

LLAMA_CPP_PYTHON=0.3.36
CXX_USED=${CXX:-c++}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/slice_ros
[[ -z ${CUDA:-} ]] || PATH=$PATH:/usr/local/cuda/bin

say() { printf '%s\n' "$SAYS: $*" >&2; }
die() { say "$@"; exit 1; }

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

# What a build is good for: this version, built with these flags, for this Python, system and processor.
build_key() {
    local processor
    processor=$(grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null || uname -v)
    "$PYTHON" - "$LLAMA_CPP_PYTHON" "$1" "$processor" "$(cat /etc/os-release 2>/dev/null)" "$(nvcc --version 2>/dev/null || true)" <<'PY'
import hashlib, platform, sys

digest = hashlib.sha256("\0".join(sys.argv[1:]).encode()).hexdigest()[:12]
print(f"{sys.argv[1]}-cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}-{digest}")
PY
}
