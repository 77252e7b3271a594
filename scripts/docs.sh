#!/usr/bin/env bash
# The documentation: set-up, then the pages in build/docs. A warning is an error; no network is needed.
#
#   scripts/docs.sh [sphinx-build's arguments ...]      e.g. scripts/docs.sh -v
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# -E -a: all pages anew, because an old page keeps its old list of pages.
python -m sphinx -W --keep-going -q -E -a -b html "$@" "$ROOT/docs" "$ROOT/build/docs"
echo "[docs] open $ROOT/build/docs/index.html"
