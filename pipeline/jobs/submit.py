"""``submit``, ``status``, ``logs``, ``stop``: a job on a Ray cluster, through its job server."""

from __future__ import annotations

import datetime
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.core.safety import redact, say, visible
from pipeline.execution.jobs import JobServer
from pipeline.jobs.job import update_manifest
from pipeline.jobs.shipping import CONFIG, absolute, keys_left, pack, variables


def submit(config: Config, job: str, address: str | None, detach: bool = False) -> int:
    """Send a job to a cluster and, unless ``detach``, stream its log until it ends.

    Its id goes into the run's manifest, so that ``out=`` finds it again.

    Returns:
        The job's exit code (see :meth:`~pipeline.execution.jobs.JobServer.follow`); 0 when detached.

    Raises:
        ConfigError: no address; the cluster cannot be reached, refuses the token or runs other versions.
    """
    server = JobServer(_address(address or config.ray.address))
    server.check_versions()
    sent = variables(config, os.environ)
    out = absolute(config.out, "out")
    job_id = f"lemonpress-{job}-{secrets.token_hex(4)}"
    note = {"id": job_id, "address": server.address, "job": job}
    with tempfile.TemporaryDirectory(prefix="lemonpress-") as folder:
        pack(config, Path(folder))
        try:
            update_manifest(RunFolder(out), {"submission": note})
        except OSError as error:
            say(f"{out} is not to be written here ({error}): note the job's id", file=sys.stderr)
        server.submit(job, job_id, Path(folder), CONFIG, sent, out)
    for name in keys_left(config, sent):
        say(f"{name} is not set here: the job needs it from the cluster", file=sys.stderr)
    names = f" with {', '.join(sent)}" if sent else ""
    say(f"submitted {job_id} to {server.address}{names}; out={out}", flush=True)
    return 0 if detach else _follow(server, job_id)


def status(server: JobServer, job_id: str | None) -> int:
    """Print one job's state, or that of all jobs that Lemonpress submitted to the cluster."""
    for info in [server.info(job_id)] if job_id else server.all():
        about = info.metadata or {}
        started = datetime.datetime.fromtimestamp((info.start_time or 0) / 1000).isoformat(" ", "seconds")
        said = (info.message or "").strip().splitlines()[:1]
        facts = (info.submission_id, info.status.value, about.get("job", "?"), f"since {started}")
        say("  ".join([*facts, f"out={about.get('out', '?')}", *map(redact, said)]))
    return 0


def logs(server: JobServer, job_id: str) -> int:
    """Print a job's log, and follow it until it ends; returns the job's exit code."""
    return _follow(server, job_id)


def stop(server: JobServer, job_id: str) -> int:
    """Stop a job; the same ``submit`` resumes it."""
    running = server.stop(job_id)
    say(f"{job_id}: {'asked to stop; submit it again to resume' if running else 'was not running'}")
    return 0


def main(job: str, words: Sequence[str], address: str | None, what: str, detach: bool) -> int:
    """Run one of the four commands from its words on the command line.

    Raises:
        ConfigError: a word that is neither a job's id nor ``out=``.
    """
    if job == "submit":
        return submit(load_config(words), what, address, detach)
    job_id, known = _find(job, words)
    server = JobServer(_address(address or known))
    if job == "status":
        return status(server, job_id)
    if job_id is None:
        raise ConfigError("which job? give its id, or out=FOLDER of its run")
    return {"logs": logs, "stop": stop}[job](server, job_id)


def _follow(server: JobServer, job_id: str) -> int:
    def write(text: str) -> None:
        sys.stdout.write(visible(text.replace("\r", "\n")))  # of others, too: libraries, models, endpoints
        sys.stdout.flush()

    try:
        code = server.follow(job_id, write)
    except KeyboardInterrupt:
        say(f"the job goes on; lemonpress logs|status|stop {job_id} --address {server.address}", file=sys.stderr)
        raise
    info = server.info(job_id)
    say(f"{job_id}: {info.status.value}, exit code {code}", file=sys.stderr)
    return code


def _address(address: str | None) -> str:
    found = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not found:
        raise ConfigError("no cluster: give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    if "@" in found or redact(found) != found:
        raise ConfigError(  # it would be kept in the manifest, and printed
            "the cluster's address holds credentials: leave them out, and set RAY_AUTH_TOKEN (or ~/.ray/auth_token)"
        )
    return found


def _find(job: str, words: Sequence[str]) -> tuple[str | None, str | None]:
    """(job's id, address) from the words: an id as it is, or a run's folder whose manifest has both."""
    if not words:
        return None, None
    if len(words) > 1 or ("=" in words[0] and not words[0].startswith("out=")):
        raise ConfigError(f"{job} takes one word, a job's id or out=FOLDER, not {' '.join(words)!r}")
    if "=" not in words[0]:
        return words[0], None
    out = words[0].removeprefix("out=")
    manifest: dict[str, Any] = RunFolder(out).manifest()
    note = manifest.get("submission")
    if not note:
        raise ConfigError(f"out={out}: no job of this run was submitted from here")
    return str(note["id"]), str(note["address"])
