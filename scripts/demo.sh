#!/usr/bin/env bash
# The demo: set-up, demo model, and one whole run with a real engine on the CPU, from prompts to report.
#
#   scripts/demo.sh [key=value ...]      e.g. scripts/demo.sh sampling.n=3 out=runs/three
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

out="$(out_of "" "$@")"
[ -n "$out" ] || set -- "$@" "out=${out:=$ROOT/runs/demo}"

echo "[demo] the demo models"
python "$ROOT/scripts/demo_model.py"
echo "[demo] lemonpress run conf/demo.yaml $*"
status=0
lemonpress run "$ROOT/conf/demo.yaml" "$@" || status=$?
if [ "$status" = 0 ]; then
    echo "[demo] open the report: $out/report/index.html"
else
    echo "[demo] the run ended with exit code $status" >&2
fi
exit "$status"
