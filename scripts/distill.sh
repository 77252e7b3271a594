#!/usr/bin/env bash
# The distillation example: MGSM's questions in four languages, answered by two teachers (a 135M chat model at two
# temperatures), selected by vote, filtered, exported for SFT and for DPO, and loaded again. It resumes: run the same
# command again.
#
#   scripts/distill.sh MGSM_FOLDER [small] [key=value ...]
#
# MGSM_FOLDER holds mgsm_de.tsv and so on (https://github.com/google-research/url-nlp/tree/main/mgsm). `small` takes 8
# questions, which is a matter of minutes; the whole takes 60, and a quarter of an hour or so on two cores.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,9p' "$0" >&2; exit 2; }
mgsm="$(cd "$1" && pwd)"
shift
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

out="$ROOT/runs/distill-mgsm"
words=()
for language in de en es fr; do
    file="$mgsm/mgsm_$language.tsv"
    [ -f "$file" ] || { echo "$file: no such file" >&2; exit 2; }
    words+=("prompts.paths.$language=$file")
done
if [ "${1:-}" = small ]; then
    shift
    words+=(prompts.limit_clusters=8)
    out="$ROOT/runs/distill-mgsm-small"
fi
out="$(out_of "$out" "$@")"

echo "[distill] the model"
python "$ROOT/scripts/demo_model.py"
echo "[distill] lemonpress run distill-mgsm"
lemonpress run "$ROOT/conf/distill-mgsm.yaml" "${words[@]}" "$@" "out=$out"
echo "[distill] lemonpress export: SFT, the answers that most others agree with"
lemonpress export "$@" "out=$out" export.format=sft
echo "[distill] lemonpress export: DPO, pairs by MBR, whose scores differ more often than numbers of votes do"
lemonpress export "$@" "out=$out" export.format=dpo export.method=mbr
echo "[distill] datasets.load_dataset"
python - "$out/export/sft" "$out/export/dpo" <<'END'
import sys

from datasets import disable_progress_bars, load_dataset

disable_progress_bars()
for folder in sys.argv[1:]:
    for split, data in load_dataset(folder).items():
        print(f"{folder} {split}: {len(data)} rows")
    for name, feature in data.features.items():
        print(f"  {name}: {feature}")
END
echo "[distill] the cards: $out/export/sft/README.md and $out/export/dpo/README.md; the report: $out/report/index.html"
