"""A pass: read Parquet, run stages on one engine pool, write Parquet. The unit of checkpoint and resume.

Its shape is the one that Ray Data's checkpoint covers: read files -> repartition -> map_batches -> write files.
Ray skips the rows whose ``row_id`` a committed block holds already, so the same command resumes an interrupted pass.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig

from pipeline import __version__
from pipeline.config import ExecutionConfig
from pipeline.engines.base import EngineConfig, PoolConfig
from pipeline.errors import LemonpressError, ResumeError
from pipeline.execution.placing import Placing
from pipeline.execution.progress import Counts, ProgressActor, ProgressLine
from pipeline.execution.worker import Worker
from pipeline.hashing import digest
from pipeline.schema import COLUMNS, METADATA_KEY, with_columns, with_provenance
from pipeline.stage import Stage
from pipeline.storage import MARKER, RunFolder

logger = logging.getLogger(__name__)

_BLOCKS_GOAL = 1000  # about as many files as a pass writes, once it has enough rows
_ROWS_PER_BLOCK = (4, 2000)  # small runs lose next to nothing; 10 million prompts make 5,000 files
_CALLS_PER_ACTOR = (4, 64)
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
    """

    name: str
    job: str
    reads: str
    writes: str
    stages: Sequence[Stage]
    engine: EngineConfig | None = None
    requests_per_row: int = 1
    fingerprint: dict[str, Any] = field(default_factory=dict)


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
    upstream = run.dataset(spec.reads)
    fingerprint = {**spec.fingerprint, "input": (run.marker(spec.reads) or {}).get("fingerprint_hash")}
    finished = run.marker(spec.writes)
    if finished is not None:
        _check_same(finished["fingerprint"], fingerprint, spec, run)
        return PassSummary(**{**finished["summary"], "skipped": True})
    work = ("work", spec.name)
    state = run.read_json(*work, "state.json") or {"fingerprint": fingerprint, "seconds": 0.0, "attempts": 0}
    _check_same(state["fingerprint"], fingerprint, spec, run)
    state["attempts"] += 1
    run.write_json(state, *work, "state.json")

    total = upstream.count_rows()
    started = time.monotonic()
    resumed = _durable_rows(run, spec)
    counts = Counts()
    try:
        if total:
            counts = _execute(spec, run, config, upstream, total, resumed)
    finally:
        state["seconds"] += time.monotonic() - started
        run.write_json(state, *work, "state.json")
    summary = _summarise(spec, run, total)
    summary.seconds = round(state["seconds"], 3)
    summary.resumed = resumed
    summary.mean_in_flight = round(counts.mean_in_flight, 2)
    run.write_json(
        {
            "pass": spec.name,
            "rows": total,
            "schema": [f"{f.name}: {f.type}" for f in run_schema(run, spec.writes)],
            "fingerprint": fingerprint,
            "fingerprint_hash": digest(fingerprint),
            "lemonpress": __version__,
            "attempts": state["attempts"],
            "summary": asdict(summary),
        },
        spec.writes,
        MARKER,
    )
    return summary


def run_schema(run: RunFolder, table: str) -> pa.Schema:
    """Schema of a table's first file."""
    return pads.dataset(run.data_files(table)[:1], filesystem=run.fs, format="parquet").schema


def _execute(
    spec: PassSpec, run: RunFolder, config: ExecutionConfig, upstream: pads.Dataset, total: int, resumed: int
) -> Counts:
    """Build the Ray Data plan and run it to its end."""
    pool = spec.engine.pool if spec.engine else PoolConfig()
    k = rows_per_block(total, config)
    c = calls_per_actor(k, spec.requests_per_row, spec.engine, pool)
    writes = sorted({n for stage in spec.stages for n in stage.writes})
    schema = with_provenance(with_columns(upstream.schema, [*writes, "usage", "errors"]), _provenance(spec))
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
    placing = Placing(spec.engine)
    line.start()
    complete = False
    try:
        data = ray.data.read_parquet(run.data_files(spec.reads), filesystem=run.fs)
        data.repartition(target_num_rows_per_block=k).map_batches(
            Worker,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                **_pool_size(pool),
                max_concurrent_calls_per_actor=c,
                max_tasks_in_flight_per_actor=2 * c,
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
            },
        ).write_parquet(run.make(spec.writes), filesystem=run.fs, compression="zstd")
        complete = True
    except ray.exceptions.RayError as error:
        raise LemonpressError(f"pass {spec.name}: {_cause(error)}; run the same command again to resume") from error
    finally:
        counts = line.finish(complete)
        context.checkpoint_config, context.enable_progress_bars = saved
        placing.release()
        ray.kill(actor)
    return counts


def _pool_size(pool: PoolConfig) -> dict[str, int]:
    if pool.min_size is not None or pool.max_size is not None:
        low = pool.min_size or 1
        return {"min_size": low, "max_size": max(low, pool.max_size or low)}
    return {"size": pool.size or 1}


def _provenance(spec: PassSpec) -> dict[str, Any]:
    return {"lemonpress": __version__, "pass": spec.name, "fingerprint": spec.fingerprint}


def _durable_rows(run: RunFolder, spec: PassSpec) -> int:
    """Rows that an earlier attempt committed."""
    path = run.path("work", spec.name, "checkpoint")
    try:
        data = pads.dataset(path, filesystem=run.fs, format="parquet", exclude_invalid_files=True)
        return int(data.count_rows())
    except (FileNotFoundError, pa.ArrowInvalid):
        return 0


def _summarise(spec: PassSpec, run: RunFolder, total: int) -> PassSummary:
    """Check that rows out = rows in, each once, and add up what the pass spent; reads three columns only."""
    summary = PassSummary(spec.name, total)
    if not total:
        return summary
    names = {stage.name for stage in spec.stages}
    ids: list[pa.Array] = []
    data = pads.dataset(run.data_files(spec.writes), filesystem=run.fs, format="parquet")
    for batch in data.to_batches(columns=["row_id", "usage", "errors"]):
        ids.append(batch.column("row_id"))
        for usage, errors in zip(batch.column("usage").to_pylist(), batch.column("errors").to_pylist(), strict=True):
            summary.failed += any(e["job"] == spec.job and e["stage"] in names for e in errors or [])
            for item in usage or []:
                if item["job"] == spec.job and item["stage"] in names:
                    for key in ("requests", "prompt_tokens", "cached_tokens", "completion_tokens"):
                        setattr(summary, key, getattr(summary, key) + item[key])
    found = pa.chunked_array(ids, pa.int64())
    unique = pc.count_distinct(found).as_py()
    if len(found) != total or unique != total:
        raise LemonpressError(
            f"pass {spec.name}: {total} rows went in, {len(found)} came out ({unique} different); please report this, "
            f"with the folder {run.path('work', spec.name)}"
        )
    return summary


def _check_same(before: dict[str, Any], now: dict[str, Any], spec: PassSpec, run: RunFolder) -> None:
    """Refuse to mix the results of two configs in one table."""
    old, new = (json.dumps(json.loads(json.dumps(x)), indent=1, sort_keys=True).splitlines() for x in (before, now))
    if old == new:
        return
    diff = [d for d in difflib.unified_diff(old, new, "in the folder", "now", lineterm="", n=0) if d[:2] != "@@"]
    raise ResumeError(
        f"{run.path(spec.writes)} holds work of pass {spec.name} that was made with another config:\n"
        + "\n".join(diff[2:])
        + "\nuse another folder (out=...), or the config that the folder was made with"
    )


def _cause(error: BaseException) -> str:
    """One line that says what went wrong inside a Ray worker: the last exception named in Ray's message."""
    named = re.findall(r"^[\w.]*(?:Error|Exception|Exit)\b: .+$", str(error), flags=re.MULTILINE)
    return named[-1].strip() if named else f"{type(error).__name__}: {error}"


__all__ = ["COLUMNS", "PassSpec", "PassSummary", "calls_per_actor", "rows_per_block", "run_pass"]
