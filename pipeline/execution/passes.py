"""A pass: read Parquet, run stages on one engine pool, write Parquet. The unit of checkpoint and resume.

Its shape is the one that Ray Data's checkpoint covers: read files -> repartition -> map_batches -> write files.
Ray skips the rows whose ``row_id`` a committed block holds already, so the same command resumes an interrupted pass.
Its blocks are compacted into few files before the table's marker switches to them (:mod:`pipeline.core.folder`).
A finished table is extended by a pass that reads its input's current version and carries over what the table holds
already (:mod:`pipeline.execution.extend`). Several passes may work side by side in one: their pools follow one
another in its plan, and a block goes on to the next without being written between them
(:mod:`pipeline.execution.beside`).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import ray
from ray.data import DataContext
from ray.data.checkpoint import CheckpointConfig

from pipeline import __version__
from pipeline.config.sections import ExecutionConfig
from pipeline.core import tables
from pipeline.core.errors import STORAGE_ERRORS, LemonpressError, StorageError, UnreadableJudge
from pipeline.core.folder import VERSION, RunFolder
from pipeline.core.hashing import digest
from pipeline.core.memory import give_back
from pipeline.core.schema import METADATA_KEY, with_columns, with_provenance
from pipeline.engines.base import PriceConfig
from pipeline.execution.compact import compact, worth_compacting
from pipeline.execution.control import Control, Ledger
from pipeline.execution.extend import root
from pipeline.execution.hosting import Host, Outcome
from pipeline.execution.journal import JournalState
from pipeline.execution.observe import Histogram
from pipeline.execution.progress import Counts
from pipeline.execution.sizes import rows_per_block
from pipeline.execution.source import read_table
from pipeline.execution.spec import PassSpec, PassSummary, summaries
from pipeline.execution.summary import earlier_summaries, summarise, summary_before
from pipeline.execution.unfinished import (
    STATE,
    DurableRows,
    check_same,
    checkpoint_files,
    fingerprint,
    mend,
    open_state,
)
from pipeline.execution.watch import Watch
from pipeline.judging.verdicts import FIRST

logger = logging.getLogger(__name__)


def run_pass(spec: PassSpec, run: RunFolder, config: ExecutionConfig, control: Control | None = None) -> PassSummary:
    """Run one pass, or resume it, or return at once when it has been finished.

    Args:
        spec: what to do.
        run: the run's folder; ``spec.reads`` must be finished.
        config: checkpoint interval, progress, and how to deal with faults.
        control: what may stop the pass before its end.

    Raises:
        UnfinishedTableError: the input table is not finished.
        ResumeError: the folder holds work of this pass made with another config.
        LimitReached, Interrupted: stopped; what is done is stored.
        StorageError: the run's storage is full or read-only.
        LemonpressError: rows were lost or doubled, or Ray failed for good.
    """
    return run_pools(spec, run, config, control)[0]


def run_pools(
    spec: PassSpec, run: RunFolder, config: ExecutionConfig, control: Control | None = None
) -> list[PassSummary]:
    """As :func:`run_pass`; a summary for each of the passes whose pools work side by side in this one."""
    if spec.skip:
        return [summary_before(spec, run)]
    control = control or Control()
    control.check()
    marker = run.marker(spec.writes)
    upstream = run.dataset(spec.reads)
    source = run.marker(spec.reads) or {}
    now = fingerprint(spec, source)
    if marker is not None and not spec.extends:
        if marker["fingerprint"].get("base") == now.get("base") or not spec.is_between:
            check_same(marker["fingerprint"], now, spec, run)
            before = summaries(marker)
            return [PassSummary(**{**before[each.name], "skipped": True}) for each in spec.hosted]
        run.remove(spec.writes)  # between two passes of an extension before this one
    state = open_state(spec, run, now, source)
    total = upstream.count_rows()
    started = time.monotonic()
    mend(run, spec, state["blocks"])
    committed, pending = checkpoint_files(run, spec)
    resumed = pads.dataset(committed, filesystem=run.fs, format="parquet").count_rows() if committed else 0
    outcomes = [Outcome(Counts(), JournalState()) for _ in spec.hosted]
    forget = False
    try:
        if total and (resumed < total or pending):
            spec = replace(spec, stages=spec.prepare(run, spec.reads)) if spec.prepare else spec
            outcomes = _execute(spec, run, config, control, upstream, total, resumed, state["blocks"])
    except UnreadableJudge:
        forget = _only_first_verdicts(spec, run, resumed)
        raise
    finally:
        state["seconds"] += time.monotonic() - started
        state["latencies"] = _latencies(spec, state, outcomes)
        if forget:
            run.remove_file("work", spec.name, STATE)
        else:
            run.write_json(state, "work", spec.name, STATE)
    files = run.parquet_files(spec.writes, state["blocks"])
    done = [_summary(each, run, files, total, outcome) for each, outcome in zip(spec.hosted, outcomes, strict=True)]
    for summary in done:
        summary.seconds, summary.resumed = round(state["seconds"], 3), resumed
        summary.row_seconds = Histogram.from_json(state["latencies"][summary.name]).quantiles()
        summary.beside = spec.name if spec.pools else ""
    finish(spec, run, state, files, done)
    return done


def _only_first_verdicts(spec: PassSpec, run: RunFolder, resumed: int) -> bool:
    """Whether all that a stopped pass has stored are its workers' first rows: their verdicts are asked for again, by
    another judge if need be.
    """
    committed, _ = checkpoint_files(run, spec)
    stored = pads.dataset(committed, filesystem=run.fs, format="parquet").count_rows() if committed else 0
    return not resumed and stored <= FIRST * sum(each.engine.pool.most() for each in spec.hosted if each.engine)


def _summary(spec: PassSpec, run: RunFolder, files: list[str], total: int, outcome: Outcome) -> PassSummary:
    """What the files say of the pass, and what its pool did in this attempt."""
    summary = summarise(spec, run, files, total)
    counts, faults = outcome.counts, outcome.faults
    summary.mean_in_flight = round(counts.mean_in_flight, 2)
    summary.busy_seconds, summary.workers = round(counts.busy_seconds, 3), len(counts.workers)
    summary.span_seconds, summary.load = round(counts.span_seconds, 3), counts.load
    summary.restarts, summary.poisoned = faults.restarts, faults.poisoned
    return summary


def _latencies(spec: PassSpec, state: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Name of a pass -> histogram of its rows' seconds, over all attempts."""
    found = {}
    for each, outcome in zip(spec.hosted, outcomes, strict=True):
        latency = Histogram.from_json(state.get("latencies", {}).get(each.name))
        latency.merge(outcome.counts.latency)
        found[each.name] = latency.to_json()
    return found


def finish(
    spec: PassSpec, run: RunFolder, state: dict[str, Any], files: list[str], done: Sequence[PassSummary]
) -> None:
    """Compact the blocks, switch the table to them, and remove what is not needed any more."""
    rows = done[0].rows
    source = run.marker(spec.reads) or {}
    before = (run.marker(spec.writes) or {}) if spec.extends else {}
    version = before.get("version", 1) + 1 if spec.extends else 1
    folder = state["blocks"]
    if not spec.is_between and worth_compacting(files, run.fs):
        folder = f"{VERSION}{version}"
        run.remove(spec.writes, folder)  # half of one, when a compaction was interrupted
        written = compact(files, run.make(spec.writes, folder), run.fs)
        give_back()
        if written != rows:
            raise LemonpressError(f"pass {spec.name}: {rows} rows went into compaction, {written} came out")
    passes = {**summaries(before), **earlier_summaries(spec, run)}
    for summary in done:
        if summary.name in passes:
            summary.seconds = round(summary.seconds + passes[summary.name]["seconds"], 3)
        passes[summary.name] = asdict(summary)
    mixed = [*source.get("mixed", ()), *before.get("mixed", ()), *state["mixed"], *spec.record.get("mixed", ())]
    run.switch(
        spec.writes,
        {
            "pass": spec.name,
            "rows": rows,
            "schema": [f"{f.name}: {f.type}" for f in _schema(run, files)],
            "fingerprint": state["fingerprint"],
            "fingerprint_hash": digest(state["fingerprint"]),
            "lemonpress": __version__,
            "attempts": state["attempts"],
            "summary": passes[done[-1].name],
            "passes": passes,
            "version": version,
            "folder": folder,
            "root": root(run, spec.reads),
            **spec.record,
            "mixed": list(dict.fromkeys(mixed)),
        },
    )
    # Only now: until the marker stands, the same command finishes from what lies there.
    run.remove("work", spec.name, "checkpoint")
    run.remove_file("work", spec.name, STATE)
    if not spec.is_between:
        for name in {*spec.earlier, spec.name}:
            run.remove("work", name)


def _schema(run: RunFolder, files: list[str]) -> pa.Schema:
    """Schema of a table's first file."""
    return tables.read_schema(files[0], run.fs) if files else pa.schema([])


def _execute(
    spec: PassSpec,
    run: RunFolder,
    config: ExecutionConfig,
    control: Control,
    upstream: pads.Dataset,
    total: int,
    resumed: int,
    blocks: str,
) -> list[Outcome]:
    """Build the Ray Data plan and run it to its end."""
    ledger = Ledger(run, {s.name: _price(s) for s in spec.hosted})
    control.check_spent(*ledger.total())
    control.check()
    k = rows_per_block(total, config, any(each.engine for each in spec.hosted))
    writes = sorted({n for stage in spec.stages for n in stage.writes})
    schema = with_provenance(with_columns(upstream.schema, [*writes, "usage", "errors"]), provenance(spec))
    hosts = [Host(each, spec.name, run, config, resumed, total, k) for each in spec.hosted]
    watch = Watch(control, hosts, ledger, config, DurableRows(run, spec))
    context = DataContext.get_current()
    saved = (context.checkpoint_config, context.enable_progress_bars)
    context.checkpoint_config = CheckpointConfig(
        id_column="row_id",
        checkpoint_path=run.make("work", spec.name, "checkpoint"),
        override_filesystem=run.fs,
        delete_checkpoint_on_success=False,
    )
    context.enable_progress_bars = False
    watch.start()
    complete = False
    faults = [JournalState() for _ in hosts]
    try:
        control.begin_pass()
        data = read_table(run, spec.reads).repartition(target_num_rows_per_block=k)
        for host in hosts:
            data = host.onto(data, upstream.schema, schema.metadata[METADATA_KEY])
        data.write_parquet(run.make(*filter(None, (spec.writes, blocks))), filesystem=run.fs, compression="zstd")
        complete = True
        faults = [host.faults() for host in hosts]
    except (ray.exceptions.RayError, OSError) as error:
        control.check()  # a pass that is told to stop ends with an error; the reason says more
        for host in hosts:
            host.check_stopped()
        raise _failure(spec, run, error) from error
    finally:
        control.draining = False
        watch.finish()
        counts = [host.finish(complete) for host in hosts]
        context.checkpoint_config, context.enable_progress_bars = saved
    return [Outcome(*each) for each in zip(counts, faults, strict=True)]


def _price(spec: PassSpec) -> tuple[PriceConfig, int]:
    """Price of the pass's engine, and actors that are paid by the hour."""
    return (spec.engine.price, spec.engine.pool.most()) if spec.engine else (PriceConfig(), 1)


def _failure(spec: PassSpec, run: RunFolder, error: Exception) -> LemonpressError:
    """What a person can act on, from Ray's error."""
    again = "run the same command again to resume"
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, OSError) and cause.errno in STORAGE_ERRORS:
        return StorageError(f"pass {spec.name}: cannot write to {run.root}: {cause.strerror or cause}; {again}")
    return LemonpressError(f"pass {spec.name}: {_cause(error)}; {again}")


def provenance(spec: PassSpec) -> dict[str, Any]:
    """What the metadata of the pass's files say."""
    return {"lemonpress": __version__, "pass": spec.name, "fingerprint": spec.fingerprint}


def _cause(error: BaseException) -> str:
    """One line that says what went wrong inside a Ray worker: the last exception named in Ray's message."""
    named = re.findall(r"^[\w.]*(?:Error|Exception|Exit)\b: .+$", str(error), flags=re.MULTILINE)
    return named[-1].strip() if named else f"{type(error).__name__}: {error}"


__all__ = ["PassSpec", "PassSummary", "run_pass", "run_pools"]
