"""``retry``: the rows of a run that failed go through its jobs again, and take their places in its tables."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline.config.config import Config, to_dict
from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError, ResumeError, UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.core.safety import say
from pipeline.execution.control import LEDGER, Control, hand_over
from pipeline.jobs import generate, judge, report, select, winrate
from pipeline.jobs.job import session, update_manifest
from pipeline.jobs.subset import Retry, Step, failed_rows
from pipeline.prompts.sources import RunSource

_JOBS: dict[str, Callable[[Config], None]] = {"generate": generate.run, "select": select.run, "judge": judge.run}


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
    steps = _finished(run_folder, config)
    with session(config, run_folder) as control:
        _retry(run_folder, config, steps, words, control)


def _retry(run: RunFolder, config: Config, steps: list[Step], words: Sequence[str], control: Control) -> None:
    from pipeline.execution.cluster import cluster
    from pipeline.sampling.adaptive.rounds import adopt

    retry = Retry(run, steps)
    rows = retry.rows
    if not rows:
        say("no row failed in a way that another try could mend")
        return
    begin = ", ".join(f"{len(ids):,} from {job}" for job, ids in retry.starts.items() if len(ids))
    say(f"{rows:,} rows to do again: {begin}")
    source = RunSource(path=retry.begin().name, table="prompts", sets=config.prompts.given_sets())
    execution = dataclasses.replace(config.execution, max_failed_rows=1.0)  # rows that fail again are counted below
    again = dataclasses.replace(config, out=retry.work.name, prompts=source, execution=execution)
    if not retry.work.exists(*LEDGER):
        hand_over(run, retry.work)  # limits are the run's
    try:
        with cluster(config.ray), session(again, retry.work, control):
            for step in steps:
                if retry.join(step):
                    _JOBS[step.job](again)
    finally:
        hand_over(retry.work, run)
    adopt(run, retry.work, retry.starts.get("generate", np.empty(0, np.int64)))
    retry.finish()
    left = len(np.unique(np.concatenate([failed_rows(run, step) for step in steps])))
    done = {"rows": rows, "failed_again": left, "settings": list(words)}
    update_manifest(run, {"retries": {datetime.now(UTC).isoformat(timespec="seconds"): done}})
    for job, output in ((winrate, "winrates.parquet"), (report, "report")):
        if run.exists(output):
            job.run(config)
    say(f"retried {rows:,} rows: {rows - left:,} are mended, {left:,} failed again")


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


def _finished(run: RunFolder, config: Config) -> list[Step]:
    """The jobs of the run whose tables are finished."""
    first = [Step("generate", "prompts", "candidates")] if config.all_plans() else []
    steps = [*first, Step("select", first[0].writes if first else "prompts", "selections")]
    steps.append(Step("judge", "selections", "games"))
    finished = [step for step in steps if run.marker(step.writes) is not None]
    if not finished:
        raise UnfinishedTableError(f"{run.name}: no job is finished; run it (again) first, it resumes")
    for step in steps:
        if _is_half_done(run, step):
            raise ResumeError(f"{run.name}: {step.job} is half done; finish it first, it resumes")
    return finished


def _is_half_done(run: RunFolder, step: Step) -> bool:
    """Whether a pass of the job was begun and not ended: towards its table, or towards the next version of it."""
    marker = run.marker(step.writes)
    for name in run.subfolders("work"):
        state = run.read_json("work", name, "state.json")
        if state is None or not any(part.startswith(f"{step.job}-") for part in name.split("+")):
            continue
        if marker is None or state.get("fingerprint", {}).get("base") == marker.get("version", 1):
            return True
    return False
