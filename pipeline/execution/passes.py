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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX

from pipeline import __version__
from pipeline.config import ExecutionConfig
from pipeline.engines.base import EngineConfig, PoolConfig
from pipeline.errors import LemonpressError, ResumeError
from pipeline.execution.carry import Carry, ExtendingWorker
from pipeline.execution.compact import compact, worth_compacting
from pipeline.execution.progress import Counts, ProgressActor, ProgressLine
from pipeline.execution.worker import Worker
from pipeline.extend import ADVICE, Extension, difference, root
from pipeline.hashing import digest
from pipeline.records import NESTED
from pipeline.schema import METADATA_KEY, with_columns, with_provenance
from pipeline.stage import Stage
from pipeline.storage import BLOCKS, VERSION, RunFolder

logger = logging.getLogger(__name__)

_BLOCKS_GOAL = 1000  # about as many files as a pass writes, once it has enough rows
_ROWS_PER_BLOCK = (4, 2000)  # small runs lose next to nothing; 10 million prompts make 5,000 files
_CALLS_PER_ACTOR = (4, 64)
_SUMMARY_ROWS = 4096
_FILL = 1.5  # rows in flight x requests per row, as a multiple of what the engine works on at once


@dataclass
class PassSpec:
    """What one pass does.

    Attributes:
        name: unique in the run, e.g. ``select-reward``.
        job: recorded in ``usage`` and ``errors``.
        reads, writes: table folders below the run's root.
        stages: run in this order on every row.
        engine: the engine that the pool hosts; ``None`` for CPU-only stages.
        requests_per_row: engine requests that one row has in flight at once, about (for sizing the pool).
        fingerprint: the config that the result depends on; a resume with another one is refused.
        extension: what is there already, when the job's table is extended.
        earlier: names of the job's passes before this one.
        record: goes into the table's marker besides what the pass itself knows.
        counts: names of the stages whose usage and errors are this pass's; default: of ``stages``.
        skip: nothing is to be done; there is only a summary of what was done before.
        force: go on with another config's unfinished work, and record it.
    """

    name: str
    job: str
    reads: str
    writes: str
    stages: Sequence[Stage]
    engine: EngineConfig | None = None
    requests_per_row: int = 1
    fingerprint: dict[str, Any] = field(default_factory=dict)
    extension: Extension | None = None
    earlier: Sequence[str] = ()
    record: dict[str, Any] = field(default_factory=dict)
    counts: Sequence[str] = ()
    skip: bool = False
    force: bool = False

    @property
    def extends(self) -> bool:
        """Whether the pass writes the next version of a finished table."""
        return self.extension is not None and self.extension.table == self.writes


@dataclass
class PassSummary:
    """What one finished pass did; stored in its completion marker.

    Attributes:
        rows, failed: rows of the table, and those with an error of this pass.
        requests, prompt_tokens, cached_tokens, completion_tokens: spent by this pass on all rows, over all attempts.
        seconds: wall time, summed over attempts.
        resumed: rows that an earlier attempt had finished.
        mean_in_flight: mean rows in flight per busy actor, in the last attempt.
        skipped: the pass had been finished before and nothing was run (not stored).
    """

    name: str
    rows: int
    failed: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    resumed: int = 0
    mean_in_flight: float = 0.0
    skipped: bool = False


def rows_per_block(rows: int, config: ExecutionConfig) -> int:
    """Rows per block (k): what is redone at most per block after a crash, and what one output file holds."""
    if config.rows_per_checkpoint is not None:
        return config.rows_per_checkpoint
    low, high = _ROWS_PER_BLOCK
    return max(low, min(high, math.ceil(rows / _BLOCKS_GOAL)))


def calls_per_actor(k: int, requests_per_row: int, engine: EngineConfig | None, pool: PoolConfig) -> int:
    """Blocks that one actor works on at once (c): c x k x requests per row stays above 1.5 x the engine's appetite."""
    if pool.calls_per_actor is not None:
        return pool.calls_per_actor
    if engine is None:
        return 1
    low, high = _CALLS_PER_ACTOR
    return max(low, min(high, math.ceil(_FILL * engine.max_requests() / (k * max(1, requests_per_row)))))


def run_pass(spec: PassSpec, run: RunFolder, config: ExecutionConfig) -> PassSummary:
    """Run one pass, or resume it, or return at once when it has been finished.

    Args:
        spec: what to do.
        run: the run's folder; ``spec.reads`` must be finished.
        config: checkpoint interval and progress.

    Raises:
        UnfinishedTableError: the input table is not finished.
        ResumeError: the folder holds work of this pass made with another config.
        LemonpressError: rows were lost or doubled, or Ray failed for good.
    """
    marker = run.marker(spec.writes)
    if spec.skip:
        return _summary_before(spec, run, marker or {})
    upstream = run.dataset(spec.reads)
    source = run.marker(spec.reads) or {}
    fingerprint = _fingerprint(spec, source)
    if marker is not None and not spec.extends:
        if marker["fingerprint"].get("base") == fingerprint.get("base") or not spec.writes.startswith("work/"):
            _check_same(marker["fingerprint"], fingerprint, spec, run)
            return PassSummary(**{**marker["summary"], "skipped": True})
        run.remove(spec.writes)  # between two passes of an extension before this one
    state = _open_state(spec, run, fingerprint, source)
    total = upstream.count_rows()
    started = time.monotonic()
    committed, pending = _checkpoint_files(run, spec)
    resumed = pads.dataset(committed, filesystem=run.fs, format="parquet").count_rows() if committed else 0
    counts = Counts()
    try:
        if total and (resumed < total or pending):
            counts = _execute(spec, run, config, upstream, total, resumed, state["blocks"])
    finally:
        state["seconds"] += time.monotonic() - started
        run.write_json(state, "work", spec.name, "state.json")
    files = run.parquet_files(spec.writes, state["blocks"])
    summary = _summarise(spec, run, files, total)
    summary.seconds = round(state["seconds"], 3)
    summary.resumed = resumed
    summary.mean_in_flight = round(counts.mean_in_flight, 2)
    _finish(spec, run, state, files, summary)
    return summary


def _finish(spec: PassSpec, run: RunFolder, state: dict[str, Any], files: list[str], summary: PassSummary) -> None:
    """Compact the blocks, switch the table to them, and remove what is not needed any more."""
    source = run.marker(spec.reads) or {}
    before = (run.marker(spec.writes) or {}) if spec.extends else {}
    version = before.get("version", 1) + 1 if spec.extends else 1
    folder = state["blocks"]
    if worth_compacting(files, run.fs):
        folder = f"{VERSION}{version}"
        run.remove(spec.writes, folder)  # half of one, when a compaction was interrupted
        written = compact(files, run.make(spec.writes, folder), run.fs)
        if written != summary.rows:
            raise LemonpressError(f"pass {spec.name}: {summary.rows} rows went into compaction, {written} came out")
    passes = {**before.get("passes", {}), **_earlier_summaries(spec, run)}
    if spec.name in passes:
        summary.seconds = round(summary.seconds + passes[spec.name]["seconds"], 3)
    passes[spec.name] = asdict(summary)
    fingerprint = state["fingerprint"]
    mixed = [*source.get("mixed", ()), *before.get("mixed", ()), *state["mixed"], *spec.record.get("mixed", ())]
    run.switch(
        spec.writes,
        {
            "pass": spec.name,
            "rows": summary.rows,
            "schema": [f"{f.name}: {f.type}" for f in _schema(run, files)],
            "fingerprint": fingerprint,
            "fingerprint_hash": digest(fingerprint),
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
    run.remove_file("work", spec.name, "state.json")
    if not spec.writes.startswith("work/"):
        for name in {*spec.earlier, spec.name}:
            run.remove("work", name)


def _fingerprint(spec: PassSpec, source: dict[str, Any]) -> dict[str, Any]:
    """What a pass's unfinished work depends on; ``base`` only where a table is extended."""
    base = {"base": spec.extension.version} if spec.extension else {}
    return {**spec.fingerprint, "input": source.get("fingerprint_hash"), **base}


def check_unfinished(spec: PassSpec, run: RunFolder) -> None:
    """Raise ResumeError when another config has left unfinished work of this pass; nothing is started or changed."""
    state, source = run.read_json("work", spec.name, "state.json"), run.marker(spec.reads)
    if state is None or source is None or spec.skip or spec.force:
        return
    now = _fingerprint(spec, source)
    if state["fingerprint"].get("base") == now.get("base") and not _only_more_rows(state, now, source):
        _check_same(state["fingerprint"], now, spec, run)


def _open_state(spec: PassSpec, run: RunFolder, now: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """Where the pass stands; counts this attempt.

    Raises:
        ResumeError: it was left unfinished by another config.
    """
    state: dict[str, Any] | None = run.read_json("work", spec.name, "state.json")
    if state is not None and state["fingerprint"].get("base") != now.get("base"):
        run.remove("work", spec.name)  # towards a version that has been finished since, or given up
        state = None
    if state is None:
        version = spec.extension.version + 1 if spec.extends and spec.extension else 1
        state = {"fingerprint": now, "seconds": 0.0, "attempts": 0, "blocks": f"{BLOCKS}{version}"}
        run.remove("work", spec.name, "checkpoint")
        run.remove(spec.writes, state["blocks"])
    state = {"blocks": "", "mixed": [], **state}  # earlier versions put the blocks into the table's own folder
    if not _only_more_rows(state, now, source):
        state["mixed"] += _check_same(state["fingerprint"], now, spec, run)
    state["fingerprint"] = now
    state["attempts"] += 1
    run.write_json(state, "work", spec.name, "state.json")
    return state


def _only_more_rows(state: dict[str, Any], now: dict[str, Any], source: dict[str, Any]) -> bool:
    """Whether nothing changed but that rows were added to the input."""
    before = state["fingerprint"]
    return before.get("input") in source.get("earlier", ()) and {**before, "input": now["input"]} == now


def _summary_before(spec: PassSpec, run: RunFolder, marker: dict[str, Any]) -> PassSummary:
    """The summary of a pass whose work is in a finished table."""
    found = marker.get("passes", {}).get(spec.name) or (run.marker(f"work/{spec.name}/table") or {}).get("summary")
    return PassSummary(**{**(found or {"name": spec.name, "rows": marker.get("rows", 0)}), "skipped": True})


def _earlier_summaries(spec: PassSpec, run: RunFolder) -> dict[str, dict[str, Any]]:
    markers = {name: run.marker(f"work/{name}/table") for name in spec.earlier}
    return {name: marker["summary"] for name, marker in markers.items() if marker}


def _schema(run: RunFolder, files: list[str]) -> pa.Schema:
    """Schema of a table's first file."""
    return pads.dataset(files[:1], filesystem=run.fs, format="parquet").schema


def _execute(
    spec: PassSpec,
    run: RunFolder,
    config: ExecutionConfig,
    upstream: pads.Dataset,
    total: int,
    resumed: int,
    blocks: str,
) -> Counts:
    """Build the Ray Data plan and run it to its end."""
    pool = spec.engine.pool if spec.engine else PoolConfig()
    k = rows_per_block(total, config)
    c = calls_per_actor(k, spec.requests_per_row, spec.engine, pool)
    writes = sorted({n for stage in spec.stages for n in stage.writes})
    schema = with_provenance(with_columns(upstream.schema, [*writes, "usage", "errors"]), _provenance(spec))
    extending = {"extension": spec.extension, "carry": _carry(spec, run, upstream.schema)} if spec.extension else {}
    actor = ProgressActor.remote()  # type: ignore[attr-defined]
    line = ProgressLine(actor, spec.name, resumed, total, config.progress)
    context = DataContext.get_current()
    saved = (context.checkpoint_config, context.enable_progress_bars)
    context.checkpoint_config = CheckpointConfig(
        id_column="row_id",
        checkpoint_path=run.make("work", spec.name, "checkpoint"),
        override_filesystem=run.fs,
        delete_checkpoint_on_success=False,
    )
    context.enable_progress_bars = False
    line.start()
    complete = False
    try:
        data = ray.data.read_parquet(run.data_files(spec.reads), filesystem=run.fs)
        data.repartition(target_num_rows_per_block=k).map_batches(
            ExtendingWorker if extending else Worker,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                **_pool_size(pool),
                max_concurrent_calls_per_actor=c,
                max_tasks_in_flight_per_actor=2 * c,
                enable_true_multi_threading=True,
            ),
            num_cpus=pool.num_cpus,
            num_gpus=(spec.engine.gpus() if pool.num_gpus is None and spec.engine else pool.num_gpus) or None,
            udf_modifying_row_count=False,
            fn_constructor_kwargs={
                "engine": spec.engine,
                "stages": list(spec.stages),
                "job": spec.job,
                "progress": actor,
                "metadata": {METADATA_KEY: schema.metadata[METADATA_KEY]},
                **extending,
            },
        ).write_parquet(run.make(*filter(None, (spec.writes, blocks))), filesystem=run.fs, compression="zstd")
        complete = True
    except ray.exceptions.RayError as error:
        raise LemonpressError(f"pass {spec.name}: {_cause(error)}; run the same command again to resume") from error
    finally:
        counts = line.finish(complete)
        context.checkpoint_config, context.enable_progress_bars = saved
        ray.kill(actor)
    return counts


def _pool_size(pool: PoolConfig) -> dict[str, int]:
    if pool.min_size is not None or pool.max_size is not None:
        low = pool.min_size or 1
        return {"min_size": low, "max_size": max(low, pool.max_size or low)}
    return {"size": pool.size or 1}


def _provenance(spec: PassSpec) -> dict[str, Any]:
    return {"lemonpress": __version__, "pass": spec.name, "fingerprint": spec.fingerprint}


def _carry(spec: PassSpec, run: RunFolder, schema: pa.Schema) -> Carry | None:
    """For the first pass that extends a table: what its version before holds, beyond the input's columns."""
    extension = spec.extension
    if extension is None or spec.earlier:
        return None
    files = run.data_files(extension.table)
    own = [c for c in _schema(run, files).names if c not in schema.names or c in extension.columns]
    return Carry(extension, files, run.fs, [c for c in own if c in NESTED and c not in ("usage", "errors")])


def _checkpoint_files(run: RunFolder, spec: PassSpec) -> tuple[list[str], list[str]]:
    """The files that list committed rows, and those of writes that were under way when an attempt ended."""
    files = run.parquet_files("work", spec.name, "checkpoint")
    pending = [path for path in files if path.endswith(f"{PENDING_CHECKPOINT_SUFFIX}.parquet")]
    return [path for path in files if path not in set(pending)], pending


def _summarise(spec: PassSpec, run: RunFolder, files: list[str], total: int) -> PassSummary:
    """Check that rows out = rows in, each once, and add up what the pass spent; reads three columns only."""
    summary = PassSummary(spec.name, total)
    if not total:
        return summary
    names = pa.array(sorted({stage.name for stage in spec.stages} | set(spec.counts)), pa.string())
    seen = np.zeros(total, bool)  # a byte a row: row_ids count the prompts from 0
    rows = 0
    data = pads.dataset(files, filesystem=run.fs, format="parquet")
    for batch in data.to_batches(columns=["row_id", "usage", "errors"], batch_size=_SUMMARY_ROWS):
        rows += batch.num_rows
        seen[batch.column("row_id").to_numpy()] = True
        summary.failed += len(_of_pass(batch.column("errors"), spec.job, names)[1].unique())
        usage, _ = _of_pass(batch.column("usage"), spec.job, names)
        for key in ("requests", "prompt_tokens", "cached_tokens", "completion_tokens"):
            setattr(summary, key, getattr(summary, key) + (pc.sum(pc.struct_field(usage, key)).as_py() or 0))
    if rows != total or not seen.all():
        raise LemonpressError(
            f"pass {spec.name}: {total} rows went in, {rows} came out ({int(seen.sum())} different); please report "
            f"this, with the folder {run.path('work', spec.name)}"
        )
    return summary


def _of_pass(column: pa.ListArray, job: str, stages: pa.Array) -> tuple[pa.StructArray, pa.Array]:
    """The items of a ``usage`` or ``errors`` column that these stages made, and the position of each one's row."""
    items = column.flatten()
    ours = pc.and_(pc.equal(pc.struct_field(items, "job"), job), pc.is_in(pc.struct_field(items, "stage"), stages))
    return items.filter(ours), pc.list_parent_indices(column).filter(ours)


def _check_same(before: dict[str, Any], now: dict[str, Any], spec: PassSpec, run: RunFolder) -> list[str]:
    """Refuse to mix the results of two configs in one table, or return how they differ where that is forced."""
    lines = difference(before, now, spec.name)
    if not lines:
        return []
    if spec.force:
        return [lines]
    raise ResumeError(
        f"{run.path(spec.writes)} holds work of pass {spec.name} that was made with another config:\n{lines}\n{ADVICE}"
        f"; or remove {run.path('work', spec.name)}, which throws the pass's unfinished work away"
    )


def _cause(error: BaseException) -> str:
    """One line that says what went wrong inside a Ray worker: the last exception named in Ray's message."""
    named = re.findall(r"^[\w.]*(?:Error|Exception|Exit)\b: .+$", str(error), flags=re.MULTILINE)
    return named[-1].strip() if named else f"{type(error).__name__}: {error}"
