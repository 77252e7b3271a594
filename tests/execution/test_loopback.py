"""A cluster that we start is this machine's alone."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import ray


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_rays_servers_listen_on_loopback() -> None:
    """Ray takes the machine's outer address otherwise, and anyone who can reach a port of Ray can run code."""
    here = psutil.Process()
    pids = {process.pid for process in [here, *here.children(recursive=True)]}
    listening = [c for c in psutil.net_connections("tcp") if c.pid in pids and c.status == psutil.CONN_LISTEN]
    assert len(listening) > 3
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} <= {"127.0.0.1", "::1"}


@ray.remote
def _path() -> tuple[list[str], str | None]:
    import sys

    return sys.path, os.environ.get("PYTHONSAFEPATH")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_are_not_told_of_the_drivers_folder(tmp_path: Path) -> None:
    """Ray puts the folder that the driver was started in before all others; here only PYTHONPATH may name it."""
    path, safe = ray.get(_path.remote())
    named = os.environ["PYTHONPATH"].split(os.pathsep)
    assert os.getcwd() not in path or os.getcwd() in named
    assert safe == "1" and "PYTHONSAFEPATH" not in os.environ
