#!/usr/bin/env bash
# All that needs a CUDA GPU, in one go: that CUDA truly runs, that no node falls back to the CPU,
# that the maps agree with the CPU's, and what an explanation costs there.
#
#   IBISA_ASSETS=path/to/assets benchmarks/gpu.sh [PYTHON]
#
# PYTHON is an interpreter with torch, onnxruntime-gpu (and no other onnxruntime), and this package's
# other requirements. Without IBISA_ASSETS only the embedded model is measured.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${1:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$python" cli.py doctor
"$python" -m pytest -m cuda tests

measure() { # model image preset...
    "$python" benchmarks/gpu.py "$1" "$2" "${@:3}"
    "$python" benchmarks/cost.py "$1" "$2" --provider cuda --repeat 20 "${@:3}"
    "$python" benchmarks/throughput.py "$1" "$2" --provider cuda --count 32 "${@:3}"
}

measure ibisa_onnx/demo/model.onnx ibisa_onnx/demo/scene.png
if [[ -n "${IBISA_ASSETS:-}" ]]; then
    photo="$IBISA_ASSETS/images/n02088466_bloodhound.JPEG"
    measure "$IBISA_ASSETS/models/squeezenet.onnx" "$photo" --preprocess caffe
    measure "$IBISA_ASSETS/models/mobilenetv2.onnx" "$photo" --preprocess tf
fi
