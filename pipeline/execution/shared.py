"""Shared passes: neighbouring jobs' stages on one engine run in one pass, so that the model loads once.

The shared pass is an ordinary one with a table of its own under ``work/``: the same checkpoint, the same resume. When
it is finished, every job's table is a projection of that one, with the columns and the ``usage``, ``errors`` and other
values that the row had after that job, and with the marker that the job's own pass would have written. From there on
nothing differs from jobs that ran one after the other: they can be resumed, extended and read singly.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.sections import ExecutionConfig
from pipeline.core import tables
from pipeline.core.folder import BLOCKS, RunFolder
from pipeline.core.schema import COLUMNS, with_columns, with_provenance
from pipeline.execution.control import Control
from pipeline.execution.passes import finish, provenance, run_pass, run_pools
from pipeline.execution.spec import PassSpec, PassSummary, joined, summaries
from pipeline.execution.summary import summarise
from pipeline.execution.together import Part, kept_as, parts
from pipeline.execution.unfinished import fingerprint, is_fresh

logger = logging.getLogger(__name__)

_BATCH = 512
_FOLDER = f"{BLOCKS}1"
_TIMES = (
    *("seconds", "resumed", "mean_in_flight", "busy_seconds", "span_seconds", "load"),
    *("workers", "row_seconds", "restarts", "poisoned"),
)

Planned = Callable[[], Sequence[PassSpec]]
"""Plans a later job's passes; called again when the table that they read is finished."""


def run_with_companions(
    spec: PassSpec, later: Sequence[Planned], run: RunFolder, config: ExecutionConfig, control: Control
) -> list[PassSummary]:
    """Run a pass, together with the first ones of later jobs where they can share it; returns a summary each.

    Raises:
        LemonpressError: as :func:`~pipeline.execution.passes.run_pass`.
    """
    if (name := _left_by(spec, run)) is not None:
        return [_mark(spec, name, run)]
    found = companions(spec, later, run) if spec.prepare is None else []
    if found:
        return run_shared(spec, found, run, config, control)
    if is_fresh(spec, run):
        warn_of_shared_work(spec, run)
    return run_pools(spec, run, config, control)


def warn_of_shared_work(spec: PassSpec, run: RunFolder) -> None:
    """Say so when a shared pass was interrupted, and this pass does not go on with its work."""
    for name in run.subfolders("work"):
        if name.startswith(f"{spec.name}+"):
            logger.warning(
                "%s holds unfinished work of a pass that jobs share: pass %s by itself begins anew; lemonpress run "
                "with the config that began it goes on with it",
                run.path("work", name),
                spec.name,
            )


def companions(first: PassSpec, later: Sequence[Planned], run: RunFolder) -> list[Planned]:
    """The later jobs whose first pass can share ``first``: same engine, nothing of either begun."""
    found: list[Planned] = []
    last = first
    for plan in later:
        specs = plan() if is_fresh(last, run) else ()
        if not specs or not is_fresh(specs[0], run) or specs[0].reads != last.writes:
            break
        if specs[0].engine is None or specs[0].engine != (first.wanted or first.engine):
            break
        found.append(plan)
        last = specs[0]
        if len(specs) > 1:
            break
    return found


def run_shared(
    first: PassSpec, later: Sequence[Planned], run: RunFolder, config: ExecutionConfig, control: Control
) -> list[PassSummary]:
    """Run a pass together with the first ones of later jobs; returns a summary each."""
    specs = [first, *(plan()[0] for plan in later)]
    whole = merge(specs)
    logger.info("one pass for %s", ", ".join(s.name for s in specs))
    total = run_pass(whole, run, config, control)
    every = parts(specs)
    for i, spec in enumerate(specs):
        project(whole, spec, every[i], specs[: i + 1], run)
    done = [_mark(first, whole.name, run, {name: getattr(total, name) for name in _TIMES})]
    for plan in later:
        done.append(_mark(plan()[0], whole.name, run))  # planned again: what it reads is finished now
    return done


def _mark(spec: PassSpec, shared: str, run: RunFolder, times: Mapping[str, Any] | None = None) -> PassSummary:
    """Finish one part's table, whose files are there; with the last one, the shared pass's own table goes."""
    whole = run.marker(f"work/{shared}/table") or {}
    files = run.parquet_files(spec.writes, _FOLDER)
    summary = replace(summarise(spec, run, files, whole["rows"]), shared=shared, **(times or {}))
    now = fingerprint(spec, run.marker(spec.reads) or {})
    state = {"blocks": _FOLDER, "fingerprint": now, "attempts": whole["attempts"], "mixed": []}
    finish(spec, run, state, files, [summary])
    if shared.endswith(f"+{spec.name}"):
        run.remove("work", shared)
    return summary


def _left_by(spec: PassSpec, run: RunFolder) -> str | None:
    """The finished shared pass that has done this one's work, where a crash came between its jobs' markers."""
    for name in run.subfolders("work"):
        if spec.name not in name.split("+")[1:] or not is_fresh(spec, run):
            continue
        by = {each.get("shared") for each in summaries(run.marker(spec.reads) or {}).values()}
        made = (run.marker(f"work/{name}/table") or {}).get("fingerprint", {}).get(spec.name)
        if name in by and made == json.loads(json.dumps(spec.fingerprint)):
            return name
    return None


def merge(specs: Sequence[PassSpec]) -> PassSpec:
    """One pass that does what ``specs`` do one after the other."""
    return joined(
        specs,
        job="+".join(spec.job for spec in specs),
        engine=specs[0].engine,
        requests_per_row=min(spec.requests_per_row for spec in specs),
        parts=specs,
    )


def project(whole: PassSpec, spec: PassSpec, part: Part, until: Sequence[PassSpec], run: RunFolder) -> None:
    """Write the files of one part's table: a streaming copy of the shared pass's table without what later parts added.

    Args:
        part: what later parts changed.
        until: the passes up to this one.
    """
    reads = run.dataset(whole.reads).schema
    writes = {name for each in until for stage in each.stages for name in stage.writes} | {"usage", "errors"}
    schema = with_provenance(with_columns(reads, [n for n in COLUMNS if n in writes]), provenance(spec))
    names = [kept_as(f.name, part.job) if f.name in part.changed else f.name for f in schema]
    run.remove(spec.writes, _FOLDER)
    target = run.make(spec.writes, _FOLDER)
    for path in run.data_files(whole.writes):
        data = tables.open_dataset([path], run.fs, path)
        file = f"{target}/{path.rpartition('/')[2]}"
        with pq.ParquetWriter(file, schema, filesystem=run.fs, compression="zstd") as writer:
            for batch in data.to_batches(columns=names, batch_size=_BATCH):
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
