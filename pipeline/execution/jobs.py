"""Ray's job server: submit a job to a cluster, follow its log, ask for it, stop it."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline import __version__
from pipeline.core.errors import ConfigError, LemonpressError

_PATIENCE = 300.0
"""Seconds for which the job server may be out of reach before the log is given up (the job goes on)."""
_PAUSE = 2.0
_CONNECT = 10.0
_TALKERS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)


class ClusterError(ConfigError):
    """The job server cannot be reached or refuses the caller, or cluster and caller do not fit together."""


class Unreachable(ClusterError):
    """Nothing answers at the address."""


class LostJob(LemonpressError):
    """The connection to a running job is gone; the job goes on."""


class JobServer:
    """A cluster's job server.

    Args:
        address: ``http://HEAD:8265``, or any other that Ray's job client takes (``auto``: a cluster on this machine).

    Raises:
        ClusterError: it cannot be reached, or the token is missing or wrong.
    """

    def __init__(self, address: str) -> None:
        _probe(address)
        from ray.job_submission import JobSubmissionClient

        for name in _TALKERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        self.address = address
        with self._errors(), _only_address(address):
            self._client = JobSubmissionClient(address)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what Ray's client raises into one line."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"{self.address} refuses the token ({_first(error)}): set RAY_AUTH_TOKEN, or put the cluster's token "
                "into ~/.ray/auth_token"
            ) from error
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise Unreachable(f"no Ray job server answers at {self.address}: {_first(error)}") from error
        except RuntimeError as error:  # all that the client has for every other answer of the server
            raise ClusterError(f"{self.address}: {_first(error)}") from error

    def check_versions(self) -> None:
        """Refuse a cluster whose Ray or Python is not the caller's: what they exchange is pickled.

        Raises:
            ClusterError: naming both versions.
        """
        import ray

        with self._errors():
            theirs = self._client._do_request("GET", "/api/version").json()["ray_version"]
            found = self._client._do_request("GET", "/api/v0/cluster_metadata")
        if theirs != ray.__version__:
            raise ClusterError(f"Ray {theirs} runs at {self.address}, and Ray {ray.__version__} here: install the same")
        python = found.json().get("data", {}).get("pythonVersion", "") if found.status_code == 200 else ""
        here = platform.python_version()
        if python and python.split(".")[:2] != here.split(".")[:2]:
            raise ClusterError(f"Python {python} runs at {self.address}, and Python {here} here: use the same")

    def submit(self, job: str, job_id: str, folder: Path, config: str, variables: Mapping[str, str], out: str) -> None:
        """Start a job with this very version of Lemonpress on all nodes.

        Args:
            job: the job's name: ``run`` ...
            job_id: a new id.
            folder: what the job's working directory shall hold.
            config: the config file's name in it.
            variables: environment variables of the job and its workers.
            out: the run's folder, kept in the job's record.
        """
        runtime_env = {
            "working_dir": str(folder),
            "py_modules": [str(Path(__file__).parents[1])],
            "env_vars": {"PYTHONUNBUFFERED": "1", **variables},
        }
        with self._errors():
            self._client.submit_job(
                entrypoint=f"python -m pipeline.cli {shlex.quote(job)} {shlex.quote(config)}",
                submission_id=job_id,
                runtime_env=runtime_env,
                metadata={"lemonpress": __version__, "job": job, "out": out},
            )

    def info(self, job_id: str) -> Any:
        """Ray's record of one job (``JobDetails``).

        Raises:
            ClusterError: there is no such job.
        """
        with self._errors():
            return self._client.get_job_info(job_id)

    def all(self) -> list[Any]:
        """Ray's records of the jobs that Lemonpress submitted, the oldest first."""
        with self._errors():
            jobs = [j for j in self._client.list_jobs() if "lemonpress" in (j.metadata or {})]
        return sorted(jobs, key=lambda j: j.start_time or 0)

    def stop(self, job_id: str) -> bool:
        """Ask a job to end; returns whether it was running."""
        with self._errors():
            return bool(self._client.stop_job(job_id))

    def log(self, job_id: str) -> str:
        """Everything that the job has printed."""
        with self._errors():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], object] = sys.stdout.write) -> int:
        """Stream a job's log until it ends, over lost connections.

        Args:
            write: called with pieces of the log, each once.

        Returns:
            The job's exit code; 130 when it was stopped, 1 when it ended without one.

        Raises:
            ClusterError: there is no such job.
            LostJob: the job server was out of reach for minutes.
        """
        self.info(job_id)  # an unknown job is an error, a silent server later on is not
        seen, heard = 0, time.monotonic()
        while True:
            try:
                seen = asyncio.run(self._tail(job_id, seen, write))
                info = self.info(job_id)
                heard = time.monotonic()
                if info.status.is_terminal():
                    return _exit_code(info)
            except Unreachable as error:
                if time.monotonic() - heard > _PATIENCE:
                    raise LostJob(f"{error}; the job goes on: lemonpress logs {job_id} --address ADDRESS") from error
            time.sleep(_PAUSE)

    async def _tail(self, job_id: str, seen: int, write: Callable[[str], object]) -> int:
        """Pass on the log from its character ``seen`` on, until the stream ends; returns how far it got.

        Every connection streams the log from its beginning.
        """
        import aiohttp

        position = 0
        try:
            async for text in self._client.tail_job_logs(job_id):
                fresh = text[max(0, seen - position) :]
                position += len(text)
                if fresh:
                    write(fresh)
                    seen = position
        except (aiohttp.ClientError, RuntimeError, OSError):
            logging.getLogger(__name__).info("the log's connection was lost; trying again")
        return seen


@contextmanager
def _only_address(address: str) -> Iterator[None]:
    """Ray's job client lets two environment variables win over the address that it is given."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


def _probe(address: str) -> None:
    """Fail within seconds where nothing listens: Ray's clients wait for minutes, or print pages."""
    url = urlsplit(address)
    if address != "auto" and not url.hostname:
        raise ClusterError(f"{address!r} is no address of a job server: write http://HEAD:8265 (or auto)")
    if url.scheme in ("http", "https"):
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((str(url.hostname), port), timeout=_CONNECT).close()
        except OSError as error:
            raise Unreachable(f"no Ray job server answers at {address}: {_first(error)}") from error


def _exit_code(info: Any) -> int:
    status = str(info.status.value)
    if status == "SUCCEEDED":
        return 0
    return 130 if status == "STOPPED" else int(info.driver_exit_code or 1)


def _first(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
