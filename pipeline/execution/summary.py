"""What a pass did: counted from the blocks that it wrote, or told by the marker of a finished table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import tables
from pipeline.core.errors import LemonpressError
from pipeline.core.folder import RunFolder
from pipeline.core.tables import give_back
from pipeline.execution.observe import Histogram
from pipeline.execution.spec import PassSpec, PassSummary, summaries

_BATCH = 4096
_FILES = 50
_SPENT = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")


def summarise(spec: PassSpec, run: RunFolder, files: list[str], total: int) -> PassSummary:
    """Check that rows out = rows in, each once, and add up what the pass spent; reads three columns only."""
    stages = sorted({stage.name for stage in spec.stages} | set(spec.counts))
    summary = PassSummary(spec.name, total, engine=spec.engine_name, stages=stages)
    if not total:
        return summary
    names = pa.array(summary.stages, pa.string())
    seen = np.zeros(total, bool)  # a byte a row: row_ids count the prompts from 0
    rows = 0
    per_row = Histogram()
    for batch in _batches(files, run, ["row_id", "usage", "errors"]):
        rows += batch.num_rows
        seen[batch.column("row_id").to_numpy()] = True
        summary.failed += len(_of_pass(batch.column("errors"), spec.job, names)[1].unique())
        usage, parents = _of_pass(batch.column("usage"), spec.job, names)
        spent = pc.fill_null(pc.struct_field(usage, "completion_tokens"), 0).to_numpy(zero_copy_only=False)
        for tokens in np.bincount(parents.to_numpy(), weights=spent, minlength=batch.num_rows):
            per_row.add(tokens)
        for key in _SPENT:
            setattr(summary, key, getattr(summary, key) + (pc.sum(pc.struct_field(usage, key)).as_py() or 0))
    summary.row_tokens = per_row.quantiles()
    if rows != total or not seen.all():
        raise LemonpressError(
            f"pass {spec.name}: {total} rows went in, {rows} came out ({int(seen.sum())} different); please report "
            f"this, with the folder {run.path('work', spec.name)}"
        )
    return summary


def recounted(marker: dict[str, Any], job: str, run: RunFolder, files: list[str]) -> dict[str, Any]:
    """A finished table's marker with its passes' summaries as its rows are now, in ``files``.

    Raises:
        LemonpressError: a row is missing in the files, or there twice.
    """
    passes = dict(summaries(marker))
    for name, old in passes.items():
        if old.get("stages"):  # earlier versions did not tell
            found = summarise(PassSpec(name, job, "", "", [], counts=old["stages"]), run, files, marker["rows"])
            passes[name] = old | {key: getattr(found, key) for key in ("failed", "row_tokens", *_SPENT)}
    last = marker.get("summary", {}).get("name")
    return {**marker, "passes": passes, **({"summary": passes[last]} if last in passes else {})}


def _batches(files: Sequence[str], run: RunFolder, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """All rows of the files, some files at a time: a dataset keeps every footer that it has read, some 100 kB each."""
    for start in range(0, len(files), _FILES):
        part = files[start : start + _FILES]
        data = tables.open_dataset(part, run.fs, part[0])
        yield from data.to_batches(columns=columns, batch_size=_BATCH, batch_readahead=1, fragment_readahead=1)
        del data
        give_back()


def _of_pass(column: pa.ListArray, job: str, stages: pa.Array) -> tuple[pa.StructArray, pa.Array]:
    """The items of a ``usage`` or ``errors`` column that these stages made, and the position of each one's row."""
    items = column.flatten()
    ours = pc.and_(pc.equal(pc.struct_field(items, "job"), job), pc.is_in(pc.struct_field(items, "stage"), stages))
    return items.filter(ours), pc.list_parent_indices(column).filter(ours)


def summary_before(spec: PassSpec, run: RunFolder) -> PassSummary:
    """The summary of a pass whose work is in a finished table."""
    marker = run.marker(spec.writes) or {}
    found = summaries(marker).get(spec.name) or {"name": spec.name, "rows": marker.get("rows", 0)}
    return PassSummary(**{**found, "skipped": True})


def earlier_summaries(spec: PassSpec, run: RunFolder) -> dict[str, dict[str, Any]]:
    """Of the job's passes before this one, by name."""
    markers = (run.marker(f"work/{name}/table") for name in spec.earlier)
    return {name: summary for marker in markers if marker for name, summary in summaries(marker).items()}
