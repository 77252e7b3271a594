#!/usr/bin/env bash
# A run on a Slurm cluster: one Ray node on each of the job's nodes, one token for them, the run's own exit code.
#
#   sbatch --nodes=4 --gpus-per-node=4 scripts/cluster/slurm.sh m-arena-hard models/command-a models/gpt-4o \
#       out=/shared/runs/m-arena-hard engines.generator.pool.size=4
#
# out= must lie on storage that all nodes share. Submit the same line again and it resumes. LEMONPRESS_VENV names the
# environment that all nodes see, with lemonpress in it (default: .venv where sbatch was called).
#SBATCH --job-name=lemonpress
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --output=lemonpress-%j.log
#SBATCH --signal=B:TERM@120
set -euo pipefail

[ $# -gt 0 ] || {
    echo "usage: sbatch slurm.sh CONFIG ... key=value ..." >&2
    exit 2
}
VENV="${LEMONPRESS_VENV:-$SLURM_SUBMIT_DIR/.venv}"
export PATH="$VENV/bin:$PATH"
PORT="${LEMONPRESS_PORT:-$((20000 + SLURM_JOB_ID % 10000))}" # two jobs that share a node do not meet
CPUS="${SLURM_CPUS_ON_NODE:-$(nproc)}"
GPUS="${SLURM_GPUS_ON_NODE:-0}"

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD="${NODES[0]}"
HEAD_IP="$(getent ahostsv4 "$HEAD" | awk '{ print $1; exit }')"
# Whoever has the token may run code as you on these nodes: it is this job's alone, and only in its environment.
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_ADDRESS="$HEAD_IP:$PORT"

STEPS=()
# shellcheck disable=SC2329 # by the trap
finish() {
    local pid
    for pid in "${STEPS[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    wait || true
}
trap finish EXIT
# shellcheck disable=SC2329 # by the trap: Slurm's time limit, two minutes ahead: the run ends its pass in order, and the next job resumes.
stop_run() { kill -TERM "$RUN" 2>/dev/null && INTERRUPTED=1 || true; }

start() { # node, ray's arguments
    local node="$1"
    shift
    srun --nodes=1 --ntasks=1 --overlap --nodelist="$node" \
        ray start "$@" --num-cpus="$CPUS" --num-gpus="$GPUS" --disable-usage-stats --block &
    STEPS+=("$!")
}

start "$HEAD" --head --port="$PORT" --node-ip-address="$HEAD_IP" --include-dashboard=false
for _ in $(seq 60); do
    ray status >/dev/null 2>&1 && break
    sleep 2
done
for node in "${NODES[@]:1}"; do start "$node" --address="$RAY_ADDRESS"; done

# The run waits for its nodes, so that the planner sees all of them.
python - "${#NODES[@]}" <<'PYTHON'
import sys
import time

import ray

ray.init(log_to_driver=False)
wanted, deadline = int(sys.argv[1]), time.monotonic() + 300
while (up := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > deadline:
        raise SystemExit(f"only {up} of {wanted} nodes came up")
    time.sleep(1)
PYTHON

trap stop_run TERM
lemonpress run "$@" &
RUN=$!
while :; do
    INTERRUPTED="" CODE=0
    wait "$RUN" || CODE=$?
    [ -n "$INTERRUPTED" ] || break # a trapped signal ends `wait` early, with a code of its own: wait again
done
exit "$CODE"
