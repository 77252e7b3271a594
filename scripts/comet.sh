#!/usr/bin/env bash
# Makes the Python environment that the engine kind `comet` runs COMET and XCOMET in: a separate one, because
# unbabel-comet needs older numpy, transformers and protobuf than Lemonpress and vLLM do. About 2 GB with PyTorch for the
# CPU, more with CUDA. Quick when it has been done before.
#
#   PYTHON=python3.11       the Python to build it with (unbabel-comet's numpy 1.26 has wheels for up to 3.12)
#   TORCH=torch==2.8.0      the PyTorch to install (default: what pip takes; on a GPU machine that is right)
#   LEMONPRESS_COMET=FOLDER where it goes (default: comet in Lemonpress's cache folder); then set
#                           LEMONPRESS_COMET_PYTHON=FOLDER/bin/python for the runs
set -euo pipefail

CACHE="${LEMONPRESS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lemonpress}"
VENV="${LEMONPRESS_COMET:-$CACHE/comet}"
PACKAGES=("unbabel-comet==2.2.7" "setuptools<81") # it imports pkg_resources, which later setuptools lack

if ! "$VENV/bin/python" -c "import comet" >/dev/null 2>&1; then
    "${PYTHON:-python3}" -m venv "$VENV"
    "$VENV/bin/python" -m pip install "${TORCH:-torch}" "${PACKAGES[@]}"
    "$VENV/bin/python" -c "import comet" # a broken set-up shows here
fi
echo "COMET's Python: $VENV/bin/python"
