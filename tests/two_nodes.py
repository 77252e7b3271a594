"""A Ray cluster of two raylets on this machine, with its job server and token authentication, in a process of its own.

    python -m tests.two_nodes DASHBOARD_PORT TEMP_DIR      (the token comes from RAY_AUTH_TOKEN)

It prints ``ready`` and ends with its standard input.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster


def main(port: int, folder: str) -> None:
    """Start the cluster and keep it until standard input ends."""
    head = {
        "num_cpus": 4,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": port,
        "temp_dir": folder,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=4)
    cluster.wait_for_nodes()
    print("ready", flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
