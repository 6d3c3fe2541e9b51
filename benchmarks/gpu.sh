#!/usr/bin/env bash
# Measures this package on a machine with an NVIDIA GPU, from nothing to one report in docs/results.
#
#   benchmarks/gpu.sh [--device cuda|cpu] [--model-shape NAME] [--type TYPE] [--pairs N] [--rates HZ,...] [--duration S] [--policies NAME,...]
#                     [--threads N] [--quick]
#
#   --device       cpu measures without a GPU (default: cuda)
#   --model-shape  whose shape the model has, with random weights (default: chatglm2-6b)
#   --type         of its matrices (default: q4_0)
#   --pairs        runs of the engine, and of llama-batched-bench beside it, with each number of sequences (default: 5)
#   --rates        goals a second for slice-ros bench (default: 30,50; an H200 serves about 50 of a 6 B model)
#   --duration     seconds of traffic at each rate (default: 12)
#   --policies     for slice-ros bench (default: slack,slice,orca; a baseline takes long to serve what came while it was overloaded)
#   --threads      of llama.cpp (default: 0, the physical cores)
#   --quick        a few steps of each kind: shows that everything runs; the figures mean nothing
#
# Environment:
#   VENV    virtual environment to use, made by scripts/install.sh if it is not there (default: .venv-gpu)
#   others  as for scripts/install.sh and pip. On a machine without a network, carry a folder of packages there and set
#           PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER; fill it where there is one, with the same Python, by
#             pip download -d FOLDER --no-binary llama-cpp-python '.[test,lint,plot]' && pip download -d FOLDER pip 'setuptools>=64' wheel scikit-build-core ninja cmake
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DEVICE=cuda SHAPE=chatglm2-6b TYPE=q4_0 PAIRS=5 RATES=30,50 DURATION=12 POLICIES=slack,slice,orca THREADS=0 QUICK=
VENV=${VENV:-.venv-gpu}

die() { printf '%s\n' "gpu: $*" >&2; exit 1; }
usage() { sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

while [[ $# -gt 0 ]]; do
    case $1 in
    --quick) QUICK=1; shift ;;
    --device | --model-shape | --type | --pairs | --rates | --duration | --policies | --threads)
        [[ $# -gt 1 ]] || usage
        name=${1#--}; name=${name#model-}; printf -v "${name^^}" %s "$2"; shift 2 ;;
    *) usage ;;
    esac
done

case $DEVICE in
cuda)
    GPU_LAYERS=-1
    command -v nvidia-smi >/dev/null || die "there is no nvidia-smi, so no NVIDIA driver; measure without a GPU with --device cpu"
    MACHINE=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -1)
    architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
    # Kernels for this GPU alone, without what one GPU has no use for: a build of minutes instead of an hour.
    export CUDA=1
    export CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=$architecture-real -DGGML_CUDA_NCCL=OFF -DGGML_CUDA_FA_ALL_QUANTS=OFF -DLLAMA_OPENSSL=OFF ${CMAKE_ARGS:-}"
    ;;
cpu) GPU_LAYERS=0 MACHINE="no GPU" ;;
*) die "--device is $DEVICE; it must be cuda or cpu" ;;
esac
MACHINE="$MACHINE; $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) cores"

[[ -x $VENV/bin/slice-ros ]] || bash scripts/install.sh "$VENV"
PYTHON=$VENV/bin/python
export COLUMNS=120
BUILD=build/gpu
mkdir -p "$BUILD" docs/results
MODEL=$BUILD/$SHAPE-$TYPE.gguf
NAME=$SHAPE-$TYPE-$DEVICE
REPORT=docs/results/$NAME.md
ENGINE=(--pairs "$PAIRS") STRUCTURED=() BENCH=(--rates "$RATES" --duration "$DURATION" --policies "$POLICIES")
if [[ -n $QUICK ]]; then
    ENGINE=(--sequences 1,4 --tokens 8 --pairs 1) STRUCTURED=(--repeats 1) BENCH=(--rates 0.5 --duration 4 --policies slack,orca)
fi

# A command and what it prints go into the report, its messages into the log.
measured() {
    printf '\n```\n$ %s\n' "$*" >>"$BUILD/$NAME.md"
    "$@" 2>>"$BUILD/$NAME.log" | tee -a "$BUILD/$NAME.md" ||
        die "$1 failed; the end of $BUILD/$NAME.log: $(tail -n 3 "$BUILD/$NAME.log")"
    printf '```\n' >>"$BUILD/$NAME.md"
}

[[ -f $MODEL ]] || "$PYTHON" -m slice_ros.engines.llama.shapes --shape "$SHAPE" --type "$TYPE" --output "$MODEL"
{
    echo "# $SHAPE $TYPE on $DEVICE"
    echo
    echo "Random weights in the shape of the public model: its speed, not its words. $MACHINE."
    echo "Commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(date -u +%Y-%m-%d), llama-cpp-python $("$PYTHON" -c 'import llama_cpp; print(llama_cpp.__version__)')."
    [[ -z $QUICK ]] || echo "**Made with --quick: the figures mean nothing.**"
} >"$BUILD/$NAME.md"
COMMON=(--model "$MODEL" --threads "$THREADS")
measured "$VENV/bin/slice-ros" calibrate "${COMMON[@]}" --gpu-layers "$GPU_LAYERS"
measured "$PYTHON" benchmarks/engine.py "${COMMON[@]}" --gpu-layers "$GPU_LAYERS" "${ENGINE[@]}" --json "$BUILD/$NAME-engine.json"
if [[ $DEVICE == cuda ]]; then
    measured "$PYTHON" benchmarks/cuda_graphs.py
    measured "$PYTHON" benchmarks/device_sampling.py "${COMMON[@]}"
fi
measured "$PYTHON" benchmarks/structured.py --threads "$THREADS" --gpu-layers "$GPU_LAYERS" "${STRUCTURED[@]}"
measured "$VENV/bin/slice-ros" bench --engine llama "${COMMON[@]}" "${BENCH[@]}" --seeds 1 --bounds-scale auto --json "$BUILD/$NAME-bench.json"
mv "$BUILD/$NAME.md" "$REPORT"
echo "gpu: the report is $REPORT"
