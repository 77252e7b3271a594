"""A pass: read Parquet, run stages on one engine pool, write Parquet. The unit of checkpoint and resume.

Its shape is the one that Ray Data's checkpoint covers: read files -> repartition -> map_batches -> write files.
Ray skips the rows whose ``row_id`` a committed block holds already, so the same command resumes an interrupted pass.
Its blocks are compacted into few files before the table's marker switches to them (:mod:`pipeline.storage`). A finished
table is extended by a pass that reads its input's current version and carries over what the table holds already
(:mod:`pipeline.extend`).
"""

from __future__ import annotations

import logging
import math
import re
import time
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig

from pipeline import __version__
from pipeline.config import ExecutionConfig
from pipeline.engines.base import EngineConfig, PoolConfig, PriceConfig
from pipeline.errors import STORAGE_ERRORS, LemonpressError, StorageError
from pipeline.execution.carry import Carry, ExtendingWorker
from pipeline.execution.compact import compact, worth_compacting
from pipeline.execution.control import Control, Ledger
from pipeline.execution.journal import JournalState, start_journal
from pipeline.execution.observe import Histogram
from pipeline.execution.placing import Placing
from pipeline.execution.progress import Counts, ProgressActor, ProgressLine
from pipeline.execution.source import read_table
from pipeline.execution.spec import PassSpec, PassSummary, summaries
from pipeline.execution.summary import earlier_summaries, summarise, summary_before
from pipeline.execution.together import SharedWorker, parts
from pipeline.execution.unfinished import STATE, DurableRows, check_same, checkpoint_files, fingerprint, open_state
from pipeline.execution.watch import Watch
from pipeline.execution.worker import Worker
from pipeline.extend import root
from pipeline.hashing import digest
from pipeline.memory import give_back
from pipeline.records import NESTED
from pipeline.schema import METADATA_KEY, with_columns, with_provenance
from pipeline.storage import VERSION, RunFolder

logger = logging.getLogger(__name__)

_BLOCKS_GOAL = 1000  # about as many files as a pass writes, once it has enough rows
_ROWS_PER_BLOCK = (4, 2000)  # small runs lose next to nothing; 10 million prompts make 5,000 files
_CALLS_PER_ACTOR = (8, 64)
_AHEAD = 4  # blocks beyond those that an actor may have open
# Rows at hand x requests per row, as a multiple of what the engine works on at once. A block stays open until its
# slowest row ends: with 4 rows a block, 4 candidates and exponentially distributed lengths, 1.5 keeps 44% of the engine
# busy and 4 all of it; log-normal ones (sigma 1.5) take 8. When they begin is the worker's business (its ``Intake``).
_FILL = 8


def rows_per_block(rows: int, config: ExecutionConfig) -> int:
    """Rows per block (k): what is redone at most per block after a crash, and what one output file holds."""
    if config.rows_per_checkpoint is not None:
        return config.rows_per_checkpoint
    low, high = _ROWS_PER_BLOCK
    return max(low, min(high, math.ceil(rows / _BLOCKS_GOAL)))


def calls_per_actor(k: int, requests_per_row: int, engine: EngineConfig | None, pool: PoolConfig) -> int:
    """Blocks that one actor may have open (c): c x k x requests per row is 8 x the engine's appetite, or more."""
    if pool.calls_per_actor is not None:
        return pool.calls_per_actor
    if engine is None:
        return 1
    low, high = _CALLS_PER_ACTOR
    return max(low, min(high, math.ceil(_FILL * engine.max_requests() / (k * max(1, requests_per_row)))))


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
    if spec.skip:
        return summary_before(spec, run)
    control = control or Control()
    control.check()
    marker = run.marker(spec.writes)
    upstream = run.dataset(spec.reads)
    source = run.marker(spec.reads) or {}
    now = fingerprint(spec, source)
    if marker is not None and not spec.extends:
        if marker["fingerprint"].get("base") == now.get("base") or not spec.is_between:
            check_same(marker["fingerprint"], now, spec, run)
            return PassSummary(**{**marker["summary"], "skipped": True})
        run.remove(spec.writes)  # between two passes of an extension before this one
    state = open_state(spec, run, now, source)
    total = upstream.count_rows()
    started = time.monotonic()
    committed, pending = checkpoint_files(run, spec)
    resumed = pads.dataset(committed, filesystem=run.fs, format="parquet").count_rows() if committed else 0
    counts, faults = Counts(), JournalState()
    latency = Histogram.from_json(state.get("latency"))
    try:
        if total and (resumed < total or pending):
            spec = replace(spec, stages=spec.prepare(run)) if spec.prepare else spec
            counts, faults = _execute(spec, run, config, control, upstream, total, resumed, state["blocks"])
    finally:
        state["seconds"] += time.monotonic() - started
        latency.merge(counts.latency)
        state["latency"] = latency.to_json()
        run.write_json(state, "work", spec.name, STATE)
    files = run.parquet_files(spec.writes, state["blocks"])
    summary = summarise(spec, run, files, total)
    give_back()
    summary.seconds = round(state["seconds"], 3)
    summary.resumed = resumed
    summary.mean_in_flight = round(counts.mean_in_flight, 2)
    summary.busy_seconds, summary.workers = round(counts.busy_seconds, 3), len(counts.workers)
    summary.span_seconds = round(counts.span_seconds, 3)
    summary.load = counts.load
    summary.row_seconds = latency.quantiles()
    summary.restarts, summary.poisoned = faults.restarts, faults.poisoned
    finish(spec, run, state, files, summary)
    return summary


def finish(spec: PassSpec, run: RunFolder, state: dict[str, Any], files: list[str], summary: PassSummary) -> None:
    """Compact the blocks, switch the table to them, and remove what is not needed any more."""
    source = run.marker(spec.reads) or {}
    before = (run.marker(spec.writes) or {}) if spec.extends else {}
    version = before.get("version", 1) + 1 if spec.extends else 1
    folder = state["blocks"]
    if not spec.is_between and worth_compacting(files, run.fs):
        folder = f"{VERSION}{version}"
        run.remove(spec.writes, folder)  # half of one, when a compaction was interrupted
        written = compact(files, run.make(spec.writes, folder), run.fs)
        give_back()
        if written != summary.rows:
            raise LemonpressError(f"pass {spec.name}: {summary.rows} rows went into compaction, {written} came out")
    passes = {**summaries(before), **earlier_summaries(spec, run)}
    if spec.name in passes:
        summary.seconds = round(summary.seconds + passes[spec.name]["seconds"], 3)
    passes[spec.name] = asdict(summary)
    mixed = [*source.get("mixed", ()), *before.get("mixed", ()), *state["mixed"], *spec.record.get("mixed", ())]
    run.switch(
        spec.writes,
        {
            "pass": spec.name,
            "rows": summary.rows,
            "schema": [f"{f.name}: {f.type}" for f in _schema(run, files)],
            "fingerprint": state["fingerprint"],
            "fingerprint_hash": digest(state["fingerprint"]),
            "lemonpress": __version__,
            "attempts": state["attempts"],
            "summary": passes[spec.name],
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
    return pads.dataset(files[:1], filesystem=run.fs, format="parquet").schema


def _execute(
    spec: PassSpec,
    run: RunFolder,
    config: ExecutionConfig,
    control: Control,
    upstream: pads.Dataset,
    total: int,
    resumed: int,
    blocks: str,
) -> tuple[Counts, JournalState]:
    """Build the Ray Data plan and run it to its end."""
    pool = spec.engine.pool if spec.engine else PoolConfig()
    ledger = Ledger(run, spec.name, spec.engine.price if spec.engine else PriceConfig(), pool.most())
    control.check_spent(*ledger.total())
    control.check()
    k = rows_per_block(total, config)
    share = max(1, math.ceil((total - resumed) / k / pool.most()))  # the first actor to come up must not take it all
    c = min(share, calls_per_actor(k, spec.requests_per_row, spec.engine, pool))
    writes = sorted({n for stage in spec.stages for n in stage.writes})
    schema = with_provenance(with_columns(upstream.schema, [*writes, "usage", "errors"]), provenance(spec))
    extending = {"extension": spec.extension, "carry": _carry(spec, run, upstream.schema)} if spec.extension else {}
    actor = ProgressActor.remote()  # type: ignore[attr-defined]
    line = ProgressLine(actor, spec.name, resumed, total, config.progress)
    journal = start_journal(run, spec.name, [s.name for s in spec.stages], config.poison_attempts, config.max_restarts)
    watch = Watch(control, journal, actor, ledger, config, DurableRows(run, spec))
    context = DataContext.get_current()
    saved = (context.checkpoint_config, context.enable_progress_bars)
    context.checkpoint_config = CheckpointConfig(
        id_column="row_id",
        checkpoint_path=run.make("work", spec.name, "checkpoint"),
        override_filesystem=run.fs,
        delete_checkpoint_on_success=False,
    )
    context.enable_progress_bars = False
    placing = Placing(spec.engine)
    line.start()
    watch.start()
    complete = False
    faults = JournalState()
    try:
        control.begin_pass()
        data = read_table(run, spec.reads)
        data.repartition(target_num_rows_per_block=k).map_batches(
            SharedWorker if spec.parts else ExtendingWorker if extending else Worker,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                **_pool_size(pool),
                max_concurrent_calls_per_actor=c,
                max_tasks_in_flight_per_actor=min(share, 2 * c, c + _AHEAD),
                enable_true_multi_threading=True,
            ),
            **placing.resources(),
            udf_modifying_row_count=False,
            fn_constructor_kwargs={
                "engine": spec.engine,
                "stages": list(spec.stages),
                "job": spec.job,
                "progress": actor,
                "metadata": {METADATA_KEY: schema.metadata[METADATA_KEY]},
                "labels": {"run": (run.read_json("manifest.json") or {}).get("run_id", ""), "pass": spec.name},
                "journal": journal,
                "attempts": config.poison_attempts,
                "row_seconds": config.row_seconds,
                **extending,
                **({"parts": parts(spec.parts)} if spec.parts else {}),
            },
        ).write_parquet(run.make(*filter(None, (spec.writes, blocks))), filesystem=run.fs, compression="zstd")
        complete = True
        faults = ray.get(journal.state.remote())
    except (ray.exceptions.RayError, OSError) as error:
        control.check()  # a pass that is told to stop ends with an error; the reason says more
        raise _failure(spec, run, error) from error
    finally:
        control.draining = False
        watch.finish()
        counts = line.finish(complete)
        context.checkpoint_config, context.enable_progress_bars = saved
        placing.release()
        ray.kill(actor)
        ray.kill(journal)
    return counts, faults


def _failure(spec: PassSpec, run: RunFolder, error: Exception) -> LemonpressError:
    """What a person can act on, from Ray's error."""
    again = "run the same command again to resume"
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, OSError) and cause.errno in STORAGE_ERRORS:
        return StorageError(f"pass {spec.name}: cannot write to {run.root}: {cause.strerror or cause}; {again}")
    return LemonpressError(f"pass {spec.name}: {_cause(error)}; {again}")


def _pool_size(pool: PoolConfig) -> dict[str, int]:
    if pool.min_size is not None or pool.max_size is not None:
        low = pool.min_size or 1
        return {"min_size": low, "max_size": max(low, pool.max_size or low)}
    return {"size": pool.size or 1}


def provenance(spec: PassSpec) -> dict[str, Any]:
    """What the metadata of the pass's files say."""
    return {"lemonpress": __version__, "pass": spec.name, "fingerprint": spec.fingerprint}


def _carry(spec: PassSpec, run: RunFolder, schema: pa.Schema) -> Carry | None:
    """For the first pass that extends a table: what its version before holds, beyond the input's columns."""
    extension = spec.extension
    if extension is None or spec.earlier:
        return None
    files = run.data_files(extension.table)
    own = [c for c in _schema(run, files).names if c not in schema.names or c in extension.columns]
    return Carry(extension, files, run.fs, [c for c in own if c in NESTED and c not in ("usage", "errors")])


def _cause(error: BaseException) -> str:
    """One line that says what went wrong inside a Ray worker: the last exception named in Ray's message."""
    named = re.findall(r"^[\w.]*(?:Error|Exception|Exit)\b: .+$", str(error), flags=re.MULTILINE)
    return named[-1].strip() if named else f"{type(error).__name__}: {error}"


__all__ = ["PassSpec", "PassSummary", "calls_per_actor", "rows_per_block", "run_pass"]
