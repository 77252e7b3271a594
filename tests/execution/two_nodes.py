"""A Ray cluster of two raylets on this machine, in a process of its own, with its job server and token authentication.

Each has four GPUs that are not there.

    python -m tests.execution.two_nodes DASHBOARD_PORT TEMP_DIR      (the token comes from RAY_AUTH_TOKEN)

It prints ``ready`` once jobs can be submitted, and ends with its standard input.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient


def wait_for_jobs(address: str) -> None:
    """Until the head's agent, which starts jobs, is up: it takes longer than the server that speaks for it."""
    deadline = time.monotonic() + 180
    while True:
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
            return
        except (RuntimeError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def main(port: int, folder: str) -> None:
    """Start the cluster and keep it until standard input ends."""
    head = {
        "num_cpus": 4,
        "num_gpus": 4,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": port,
        "dashboard_agent_listen_port": None,  # any: the default one may belong to another Ray on this machine
        "temp_dir": folder,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    # As `ray start` does. Ray's job supervisor looks its own cluster up in this file, and takes any Ray that runs on
    # the machine where there is none (ray/dashboard/modules/job/job_supervisor.py, `_get_driver_env_vars`).
    Path(folder, "ray_current_cluster").write_text(cluster.address)
    cluster.add_node(num_cpus=4, num_gpus=4)
    cluster.wait_for_nodes()
    wait_for_jobs(f"http://127.0.0.1:{port}")
    print("ready", flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
