#!/usr/bin/env bash
# The documentation: set-up, then the pages in build/docs. A warning is an error; no network is needed.
#
#   scripts/docs.sh [sphinx-build's arguments ...]      e.g. scripts/docs.sh -E (read every page again)
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

python -m sphinx -W --keep-going -q -b html "$@" "$ROOT/docs" "$ROOT/build/docs"
echo "[docs] open $ROOT/build/docs/index.html"
