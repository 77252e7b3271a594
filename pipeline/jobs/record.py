"""What a job leaves behind besides tables: its log, and its entry in the run's manifest."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.config.config import Config
from pipeline.core.errors import ConfigError
from pipeline.core.layers import TABLES
from pipeline.core.remote import model_commit
from pipeline.core.safety import redact
from pipeline.execution.observe import job_log
from pipeline.judging.templates import load_template

if TYPE_CHECKING:
    from pipeline.jobs.job import Job

logger = logging.getLogger("lemonpress")


@contextmanager
def recorded(current: Job) -> Iterator[None]:
    """Log a job and keep its entry in the manifest up to date: ``running``, then ``done``, ``failed`` or
    ``interrupted``; one that was killed stays ``running``.

    The entry ``jobs.NAME`` has ``state``, ``started`` and ``ended`` (UTC), ``attempts``, ``seconds`` (over all
    attempts that ended), ``log`` (of the last attempt) and ``error`` (of one that failed). Beside it stand ``run_id``,
    ``engines``, ``templates``, ``tables`` (rows) and ``passes`` (counts, durations, histograms).
    """
    from pipeline.jobs.job import update_manifest

    run, name = current.run, current.name
    manifest: dict[str, Any] = run.manifest()
    run_id = manifest.get("run_id") or uuid.uuid4().hex[:12]
    before = manifest.get("jobs", {}).get(name, {})
    entry: dict[str, Any] = {
        "state": "running",
        "started": _now(),
        "ended": None,
        "attempts": before.get("attempts", 0) + 1,
    }
    entry |= {"seconds": before.get("seconds", 0.0), "log": None, "error": None}
    started = time.monotonic()

    def save(state: str) -> None:
        entry.update(state=state, ended=_now(), seconds=round(entry["seconds"] + time.monotonic() - started, 3))
        passes = {s.name: asdict(s) for s in current.passes if not s.skipped}
        markers = {table: run.marker(table) for table in TABLES}
        tables = {table: marker["rows"] for table, marker in markers.items() if marker}
        update_manifest(run, {"jobs": {name: entry}, "passes": passes, "tables": tables, **provenance(current.config)})
        logger.info("%s %s", name, state, extra={"fields": entry})

    with job_log(run, name, run_id) as path:
        entry["log"] = path.removeprefix(run.root).lstrip("/")
        update_manifest(run, {"run_id": run_id, "jobs": {name: entry}, **provenance(current.config)})
        logger.info("%s started", name, extra={"fields": {"folder": run.name}})
        try:
            yield
        except BaseException as error:
            entry["error"] = redact(f"{type(error).__name__}: {error}", 2000)
            with suppress(OSError):  # a full disk is what the job may have failed of: its own error counts
                save("failed" if isinstance(error, Exception) else "interrupted")
            raise
        save("done")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(config: Config) -> dict[str, Any]:
    """Engines with the commit of their weights, and the judge templates with their hashes."""
    engines = {}
    for name, engine in config.engines.items():
        commit = model_commit(engine.model, engine.revision) if engine.model else None
        engines[name] = {"kind": engine.kind, "model": engine.model, "revision": engine.revision, "commit": commit}
    templates = {f"selectors.{n}": t for n, s in config.selectors.items() if (t := s.templates())}
    with suppress(ConfigError):  # a job that never judges may run with a template that is not here
        templates["judge"] = {config.judge.template: load_template(config.judge.template).hash}
    return {"engines": engines, "templates": templates}
