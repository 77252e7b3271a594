"""``retry``: the rows of a run that failed go through its jobs again, and take their places in its tables."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.config import Config, to_dict
from pipeline.config.load import load_config
from pipeline.core.columns import Ints, nested
from pipeline.core.errors import ConfigError, ResumeError, UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.core.layers import read_layers
from pipeline.core.safety import say
from pipeline.execution.schedule import Step
from pipeline.jobs import report, winrate
from pipeline.jobs import run as run_job
from pipeline.jobs.job import job as job_named
from pipeline.jobs.job import session, update_manifest
from pipeline.jobs.steps import RETRY, Retried, run_steps
from pipeline.judging.names import CUT, JUDGE_FAILED, UNREADABLE

_BASE = b"base"
_TABLES = {"generate": "candidates", "select": "selections", "judge": "games"}
_OF_JOB = {
    "generate": {"candidates": {"plan", "origin", "error"}},
    "select": {"selections": {"detail"}},
    "judge": {"games": {"verdict", "reason"}},
}


def run(folder: str, words: Sequence[str] = ()) -> None:
    """Run the failed rows of a run again: each from the first job in which it failed; no other row is touched.

    Settings that other rows' results do not depend on may be changed (``engines.X.truncate_prompt``, time limits,
    pools); all others are the run's own.

    Args:
        folder: the run.
        words: settings, as ``key=value``.

    Raises:
        ConfigError: there is no such run, or a setting is wrong.
        ResumeError: a setting would make the retried rows differ from the others, or a job is half done.
        UnfinishedTableError: no job of the run is finished.
        RunBusy: another process works on the run.
    """
    run_folder = RunFolder(folder)
    config = own_config(run_folder, words)
    jobs = _finished(run_folder, config)
    with session(config, run_folder):
        _retry(run_folder, config, jobs, words)


def _retry(run: RunFolder, config: Config, jobs: list[str], words: Sequence[str]) -> None:
    again = _retried(run, jobs)
    retried, seen = again.rows, again.rows[jobs[-1]]
    if not len(seen):
        say("no row failed in a way that another try could mend")
        return
    firsts = [len(retried[jobs[i - 1]]) if i else 0 for i in range(len(jobs))]
    begin = [
        f"{len(retried[job]) - n:,} from {job}" for job, n in zip(jobs, firsts, strict=True) if len(retried[job]) > n
    ]
    say(f"{len(seen):,} rows to do again: {', '.join(begin)}")
    execution = dataclasses.replace(config.execution, max_failed_rows=1.0)  # rows that fail again are counted below
    with job_named("retry", dataclasses.replace(config, execution=execution)) as current:
        run_steps(current, _steps(config, run, jobs), "prompts", again)
    run.remove_file(*RETRY)
    left = len(np.unique(np.concatenate([failed_rows(run, job) for job in jobs])))
    done = {"rows": len(seen), "failed_again": left, "settings": list(words)}
    update_manifest(run, {"retries": {datetime.now(UTC).isoformat(timespec="seconds"): done}})
    for after, output in ((winrate, "winrates.parquet"), (report, "report")):
        if run.exists(output):
            after.run(config)
    say(f"retried {len(seen):,} rows: {len(seen) - left:,} are mended, {left:,} failed again")


def _retried(run: RunFolder, jobs: Sequence[str]) -> Retried:
    """The rows that jobs do again: each goes through its jobs again from the first in which it failed. Those of a retry
    that was interrupted are the ones that it began with.
    """
    known = run.read_table(*RETRY)
    if known is None:
        found, seen = [], np.empty(0, np.int64)
        for i, job in enumerate(jobs):
            new = np.setdiff1d(failed_rows(run, job), seen)
            seen = np.union1d(seen, new)
            found.append(pa.table({"row_id": new, "job": np.full(len(new), i)}))
        base = max(layer.number for layer in read_layers(run)) + 1
        known = pa.concat_tables(found).replace_schema_metadata({_BASE: str(base).encode()})
        if len(known):
            run.make("work")
            with run.whole(*RETRY) as path:
                pq.write_table(known, path, filesystem=run.fs)
    ids, starts = known.column("row_id").to_numpy(), known.column("job").to_numpy()
    base = int((known.schema.metadata or {})[_BASE])
    return Retried({job: np.sort(ids[starts <= i]) for i, job in enumerate(jobs)}, base)


def failed_rows(run: RunFolder, job: str) -> Ints:
    """The ``row_id`` of every row that failed in a job, ascending; those that could not be read as prompts never do.

    A row failed in a job when it has an error of it, or when a request was refused: one of its candidates has no text,
    a selector or the judge went without an answer. A verdict that cannot be read is no failure, for it would be the
    same again, unless it was cut: with a larger ``verdict_tokens`` it may be read.
    """
    wanted = {"row_id": {""}, "errors": {"job"}, **_OF_JOB[job]}
    found = [np.empty(0, np.int64)]
    for batch in run.leaves(_TABLES[job], lambda name, leaf: leaf in wanted.get(name, ())):
        jobs = [{each for (each,) in errors} for errors in nested(batch, "errors", "job")]
        requests = _refused(batch, job)
        failed = [
            "prompts" not in seen and (job in seen or refused) for seen, refused in zip(jobs, requests, strict=True)
        ]
        found.append(batch.column("row_id").to_numpy()[np.array(failed, bool)])
    return np.sort(np.concatenate(found))


def _refused(batch: pa.RecordBatch, job: str) -> list[bool]:
    if job == "generate":
        sets = nested(batch, "candidates", "origin", "error")
        return [any(error is not None and origin != "given" for origin, error in one) for one in sets]
    if job == "select":
        return [any(_has_failure(detail) for (detail,) in one) for one in nested(batch, "selections", "detail")]
    games = nested(batch, "games", "verdict", "reason")
    return [any(v == "invalid" and (r or "").startswith((JUDGE_FAILED, CUT)) for v, r in one) for one in games]


def _has_failure(detail: str | None) -> bool:
    if not detail or ('"failure"' not in detail and '"unreadable"' not in detail):
        return False
    try:
        found = json.loads(detail)
    except ValueError:  # a user's own selector may have written anything
        return False
    if not isinstance(found, dict):
        return False
    return bool(found.get("failure")) or f"{UNREADABLE}{found.get('unreadable')}".startswith(CUT)


def _steps(config: Config, run: RunFolder, jobs: Sequence[str]) -> list[Step]:
    """The steps of some jobs, for what their tables hold."""
    return [step for step in run_job.steps(config, run) if step.job in jobs]


def own_config(
    run: RunFolder,
    words: Sequence[str],
    why: str = "retried rows would differ from the others of the run",
    load: Callable[[str, Sequence[str]], Config] = lambda path, words: load_config([path, *words]),
) -> Config:
    """The run's own config with the settings ``words``.

    Args:
        why: what is wrong with settings that results depend on.
        load: reads the config at a path, with settings.

    Raises:
        ConfigError: there is no such run.
        ResumeError: a setting is not the run's.
    """
    if not run.exists("config.yaml"):
        raise ConfigError(f"no such run folder: {run.name} (there is no config.yaml in it)")
    path = run.uri("config.yaml")
    stored, config = load(path, ()), load(path, words)
    before, now = (json.dumps(_settings(c), indent=1, sort_keys=True).splitlines() for c in (stored, config))
    if before != now:
        lines = [
            line for line in difflib.unified_diff(before, now, "the run", "now", lineterm="", n=0) if line[:2] != "@@"
        ]
        raise ResumeError(f"{why}:\n" + "\n".join(lines[2:]))
    return dataclasses.replace(config, out=run.name)


def _settings(config: Config) -> dict[str, Any]:
    """What results depend on."""
    names = ("seed", "sampling", "plans", "selectors", "selection", "tasks", "policy", "judge", "answers")
    engines = {name: engine.identity() for name, engine in config.engines.items()}
    return {"engines": engines, **{name: to_dict(getattr(config, name)) for name in names}}


def _finished(run: RunFolder, config: Config) -> list[str]:
    """The jobs of the run whose tables are finished."""
    jobs = {**({"generate": "candidates"} if config.all_plans() else {}), "select": "selections", "judge": "games"}
    finished = [job for job, table in jobs.items() if run.marker(table) is not None]
    if not finished:
        raise UnfinishedTableError(f"{run.name}: no job is finished; run it (again) first, it resumes")
    return finished
