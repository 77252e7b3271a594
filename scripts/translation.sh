#!/usr/bin/env bash
# The translation example: six languages into English with a 270M base model, from prompts to report. It resumes: run the
# same command again.
#
#   scripts/translation.sh MGSM_FOLDER [small] [key=value ...]
#
# MGSM_FOLDER holds mgsm_es.tsv and so on (https://github.com/google-research/url-nlp/tree/main/mgsm). `small` takes 8
# questions and 4 samples at one temperature, which is a matter of minutes; the whole takes most of an hour on two cores.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,9p' "$0" >&2; exit 2; }
mgsm="$(cd "$1" && pwd)"
shift
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

questions=30
words=()
out="$ROOT/runs/translation"
if [ "${1:-}" = small ]; then
    shift
    questions=8
    out="$ROOT/runs/translation-small"
    words=(sampling.n=5 plans.cool=null plans.hot=null)
fi
out="$(out_of "$out" "$@")"

echo "[translation] the model"
python "$ROOT/scripts/translation_model.py"
echo "[translation] the data"
python "$ROOT/scripts/mgsm_translation.py" "$mgsm" "$out-data" --questions "$questions"
echo "[translation] lemonpress run translation"
lemonpress run "$ROOT/conf/translation.yaml" "$out-data/examples.yaml" "${words[@]}" "$@" "out=$out"
echo "[translation] open the report: $out/report/index.html"
