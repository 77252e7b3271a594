#!/usr/bin/env bash
# The tests: set-up, demo model, ruff, mypy, pytest. CI runs this.
#
#   scripts/test.sh [pytest's arguments ...]      e.g. scripts/test.sh -m "not engine and not slow" -k hedged
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"

echo "[test] the demo models"
python scripts/demo_model.py

# From here on nothing may need a network, and nothing reports home.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 VLLM_NO_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0 DO_NOT_TRACK=1
export TOKENIZERS_PARALLELISM=false

echo "[test] ruff check"
ruff check .
echo "[test] ruff format --check"
ruff format --check .

# mypy beside the tests: it needs one core for a minute, and they leave one free now and then.
types="$(mktemp)"
trap 'rm -f "$types"' EXIT
mypy pipeline >"$types" 2>&1 &
typing=$!

# One process for the tests on Ray, one for those with an engine, the others where there is room (tests/conftest.py).
echo "[test] pytest $*"
status=0
python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder --durations=10 "$@" || status=$?
echo "[test] mypy pipeline"
wait "$typing" || status=1
cat "$types"
exit "$status"
