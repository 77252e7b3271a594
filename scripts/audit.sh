#!/usr/bin/env bash
# Known vulnerabilities of what Lemonpress is installed with: its dependencies resolved at the lowest versions that
# pyproject.toml allows, and at the newest. Ends with 1 when either set has one.
#
#   scripts/audit.sh                    # the core and the extras openai and transformers
#   scripts/audit.sh gpu                # other extras
#   AUDIT_RESOLVE_ONLY=1 scripts/audit.sh   # the resolution only, without asking for advisories
#
# It needs the network: pip's registry for the resolution (AUDIT_INDEX names it for uv, which does not read pip's
# settings), and an advisory database: pip-audit's default one, or AUDIT_SERVICE=osv. Nothing is installed into the
# environment that it is called from.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
say() { printf '[audit] %s\n' "$*"; }

extras=()
for name in "${@:-openai transformers}"; do
    for extra in $name; do extras+=(--extra "$extra"); done
done

"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit uv
failed=0
for bound in lowest-direct highest; do
    "$work/venv/bin/uv" pip compile --quiet --resolution "$bound" "${extras[@]}" --no-header --no-annotate \
        ${AUDIT_INDEX:+--default-index "$AUDIT_INDEX"} -o "$work/$bound.txt" "$ROOT/pyproject.toml"
    say "$bound: $(grep -c == "$work/$bound.txt") packages"
    if [ -n "${AUDIT_RESOLVE_ONLY:-}" ]; then
        cat "$work/$bound.txt"
        continue
    fi
    # Pinned and complete, so that nothing has to be resolved (or built) again. --strict: a package that the database was
    # not asked about is a failure; else a machine without a way to it would report "no known vulnerabilities".
    "$work/venv/bin/pip-audit" --requirement "$work/$bound.txt" --no-deps --disable-pip --strict \
        --vulnerability-service "${AUDIT_SERVICE:-pypi}" --progress-spinner off || failed=1
done
exit "$failed"
