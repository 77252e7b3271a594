#!/usr/bin/env bash
# The demo: set-up, a small model, and one whole run with a real engine on the CPU, from prompts to report. It resumes: run
# the same command again.
#
#   scripts/demo.sh [judge] [key=value ...]      e.g. scripts/demo.sh sampling.n=3 out=runs/three
#
# Without a word: sentences in eight languages, translated by a model of 270M parameters and scored by references, with a
# finding at the head of its report. `judge`: questions in seven languages, with a reward model and a judge; the models are
# too small for its win-rates to mean anything, and it shows everything that a report can hold.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

preset=demo-translation model=translation_model.py out="$ROOT/runs/demo"
if [ "${1:-}" = judge ]; then
    shift
    preset=demo model=demo_model.py out="$ROOT/runs/demo-judge"
fi
out="$(out_of "$out" "$@")"

echo "[demo] the model"
python "$ROOT/scripts/$model"
echo "[demo] lemonpress run $preset $*"
status=0
lemonpress run "$ROOT/conf/$preset.yaml" "$@" "out=$out" || status=$?
if [ "$status" = 0 ]; then
    echo "[demo] open the report: $out/report/index.html"
else
    echo "[demo] the run ended with exit code $status" >&2
fi
exit "$status"
