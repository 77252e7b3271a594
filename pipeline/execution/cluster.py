"""Joining or starting the Ray cluster."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import ray
import ray.cloudpickle
import ray.data
from ray._private import ray_constants
from ray.job_config import JobConfig

from pipeline.config.sections import RayConfig
from pipeline.core import imports
from pipeline.core.errors import ConfigError

_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "PYTHONSAFEPATH": "1"}
_MIN_CPUS = 8
"""Ray's own tasks need CPUs beside the actor pools: with 2 logical CPUs a pass hung for ever."""


def ship_modules(names: Sequence[str]) -> None:
    """Send the user's own modules (selectors, tasks) to the workers by value: they are not installed there."""
    for name in names:
        ray.cloudpickle.register_pickle_by_value(importlib.import_module(name))


class _Workers(JobConfig):  # type: ignore[misc]
    """The job's workers look for modules where this process does, and not in the folder that it was started in.

    Ray adds that folder, and the script's, right before it sends this off.
    """

    def _serialize(self) -> str:
        self._py_driver_sys_path = imports.search_path()
        self._cached_pb = None
        return super()._serialize()  # type: ignore[no-any-return]


@contextmanager
def _apart() -> Iterator[None]:
    """Have a cluster of this machine alone listen on loopback, and its processes look for modules nowhere unasked.

    By default Ray takes the machine's outer address, and its servers listen on all of them. Only where it thinks that
    it cannot be a cluster of several machines (on macOS and Windows, or as a variable says) it takes 127.0.0.1, at
    which its servers listen on loopback alone. Its processes get the variables when they start, and whatever these
    start gets them from there; in this process the first has been read already.
    """
    saved, cluster = {name: os.environ.get(name) for name in _ALONE}, ray_constants.ENABLE_RAY_CLUSTER
    os.environ |= _ALONE
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = cluster
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _endpoint(address: str) -> tuple[str, int] | None:
    """(host, port) of an address that names both; nothing of ``auto`` or a URI."""
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and "/" not in host and port.isdigit() else None


def _is_on_loopback(address: str) -> bool:
    """Whether a cluster listens on loopback alone, as ours do: Ray would look for it at the outer address, for ever."""
    host, port = _endpoint(address) or ("", 0)
    if host not in ("127.0.0.1", "localhost"):
        return False
    try:
        socket.create_connection((ray.util.get_node_ip_address(), port), timeout=2).close()
    except OSError:
        return True
    return False


def _refuse_dead(address: str) -> None:
    """Find out in seconds that nothing answers at ``HOST:PORT``; Ray would try for minutes, and end the process.

    Raises:
        ConfigError: nobody listens there.
    """
    if (endpoint := _endpoint(address)) is None:
        return
    try:
        socket.create_connection(endpoint, timeout=5).close()
    except OSError as error:
        raise ConfigError(
            f"ray.address: nothing answers at {address} ({error}); it, or RAY_ADDRESS in the environment, names a "
            "cluster that runs; without both one is started here"
        ) from error


@contextmanager
def cluster(config: RayConfig) -> Iterator[None]:
    """Join the configured cluster, or start a local one that ends with the block.

    A Ray that this process had joined already (a notebook, a test) is used as it is and left running.

    Raises:
        ConfigError: nothing answers at the configured address.
    """
    # What fails is reported once, by us, without Ray Data's pages of traceback.
    logging.getLogger("ray.data").setLevel(logging.ERROR if config.worker_logs else logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    # Our own progress and errors are what a person should read; Ray's and the workers' full logs lie in its session
    # folder (/tmp/ray/session_latest/logs).
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options = {"logging_level": logging.ERROR, "log_to_driver": config.worker_logs, "namespace": "lemonpress"}
    options["job_config"] = _Workers()
    if address and address != "local":
        _refuse_dead(address)
        with _apart() if _is_on_loopback(address) else nullcontext():
            ray.init(address=address, **options)
    else:
        cpus = config.num_cpus or max(_MIN_CPUS, os.cpu_count() or 1)
        # Ray gives its workers a low priority (15), so that its own processes stay responsive. An engine on the CPU
        # then waits for Ray and the driver whenever they have something to do: some 7% of its speed on two cores.
        os.environ.setdefault("RAY_worker_niceness", "0")
        with _apart():
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **options)
    try:
        yield
    finally:
        ray.shutdown()
