"""Which rows of a run failed, and their way through the jobs again: out of the tables, and back into them.

A retry is a run of its own in ``work/retry``. It begins with the failed rows as they were before the job in which they
failed, which the table before that job still holds, and its tables then take these rows' places in the next versions
of the run's tables. So no other row is touched or done again. Memory holds some bytes a failed row, never a text.

The retry counts its rows from 0, as every run does, in the order of the jobs that they begin with: so those of every
table of it are the first ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from pipeline.core import tables
from pipeline.core.columns import nested
from pipeline.core.errors import LemonpressError
from pipeline.core.folder import VERSION, RunFolder
from pipeline.judging.names import is_cut, no_verdict
from pipeline.prompts.write import write_shards
from pipeline.stats.failures import Detail

Ids = npt.NDArray[np.int64]

FOLDER = ("work", "retry")
_ROWS = (*FOLDER, "rows.parquet")
_JOINED = "joined"
_BATCH = 1000
_LEAVES = {
    "generate": {"candidates": {"plan", "origin", "error"}},
    "select": {"selections": {"detail"}},
    "judge": {"games": {"verdict", "reason"}},
}


@dataclass(frozen=True)
class Step:
    """One job on its way from one table of the run to the next."""

    job: str
    reads: str
    writes: str


def failed_rows(run: RunFolder, step: Step) -> Ids:
    """The ``row_id`` of every row that failed in a job, ascending; those that could not be read as prompts never do.

    A row failed in a job when it has an error of it, or when a request was refused: one of its candidates has no text,
    a selector or the judge went without an answer. A verdict that cannot be read is no failure, for it would be the
    same again, unless it was cut: with a larger ``verdict_tokens`` it may be read.
    """
    wanted = {"row_id": {""}, "errors": {"job"}, **_LEAVES[step.job]}
    found = [np.empty(0, np.int64)]
    for batch in run.leaves(step.writes, lambda name, leaf: leaf in wanted.get(name, ())):
        jobs = [{job for (job,) in errors} for errors in nested(batch, "errors", "job")]
        requests = _refused(batch, step.job)
        failed = [
            "prompts" not in seen and (step.job in seen or refused)
            for seen, refused in zip(jobs, requests, strict=True)
        ]
        found.append(batch.column("row_id").to_numpy()[np.array(failed, bool)])
    return np.sort(np.concatenate(found))


def _refused(batch: pa.RecordBatch, job: str) -> list[bool]:
    if job == "generate":
        sets = nested(batch, "candidates", "origin", "error")
        return [any(error is not None and origin != "given" for origin, error in one) for one in sets]
    if job == "select":
        return [any(Detail.read(detail).refused for (detail,) in one) for one in nested(batch, "selections", "detail")]
    games = nested(batch, "games", "verdict", "reason")
    return [any(verdict == "invalid" and _is_refused(reason) for verdict, reason in one) for one in games]


def _is_refused(reason: str | None) -> bool:
    failed, why = no_verdict(reason)
    return failed or is_cut(why)


class Retry:
    """The failed rows of a run, and where each has to begin again.

    Args:
        run: the run.
        steps: its finished jobs, in order.

    Attributes:
        starts: job -> ``row_id`` of the rows that begin with it, ascending: the first job in which they failed.
        work: the retry's own run.
    """

    def __init__(self, run: RunFolder, steps: list[Step]) -> None:
        self._run, self._steps = run, steps
        self.work = run.inside(*FOLDER, "run")
        if run.exists(*_ROWS):  # an interrupted retry goes on with the rows that it began with
            known = tables.read_file(run.path(*_ROWS), run.fs)
            ids, jobs = known.column("row_id").to_numpy(), known.column("step").to_numpy()
            self.starts = {step.job: ids[jobs == i] for i, step in enumerate(steps)}
            return
        run.remove(*FOLDER)
        self.starts = {}
        seen = np.empty(0, np.int64)
        for step in steps:
            failed = failed_rows(run, step)
            self.starts[step.job] = failed[~np.isin(failed, seen)]
            seen = np.union1d(seen, failed)

    @property
    def rows(self) -> int:
        """How many rows failed."""
        return sum(len(ids) for ids in self.starts.values())

    def begin(self) -> RunFolder:
        """Copy the rows that begin with the first job; returns the folder whose ``prompts/`` holds them."""
        source = self._run.inside(*FOLDER, "input")
        if self._run.exists(*_ROWS):
            return source
        first = self._steps[0]
        ids = [self.starts[step.job] for step in self._steps]
        self._copy(first, source, "prompts", self._empty(first.reads))
        numbers = np.repeat(np.arange(len(ids)), [len(found) for found in ids]).astype(np.int8)
        with self._run.fs.open_output_stream(self._run.path(*_ROWS)) as sink:
            pq.write_table(pa.table({"row_id": np.concatenate(ids), "step": numbers}), sink)
        return source

    def join(self, step: Step) -> int:
        """Add the rows that begin with a job to what the jobs before it made; returns how many rows it has to do."""
        ids = self.starts[step.job]
        if step is self._steps[0]:
            return len(ids)
        marker = self.work.marker(step.reads)
        if len(ids) and "joined" not in (marker or {}):
            base = marker or self._empty(step.reads)
            self._copy(step, self.work, step.reads, {**base, "joined": len(ids)})
        return int((self.work.marker(step.reads) or {"rows": 0})["rows"])

    def _empty(self, table: str) -> dict[str, Any]:
        """The marker of a table of the run, for one without rows."""
        return {**(self._run.marker(table) or {}), "rows": 0, "folder": ""}

    def _copy(self, step: Step, target: RunFolder, name: str, marker: dict[str, Any]) -> None:
        """Copy the rows that begin with ``step`` to those of a table of ``target``, whose marker ``marker`` is."""
        data = self._run.dataset(step.reads)
        folder = "/".join(part for part in (name, marker.get("folder")) if part)
        known = [path for path in target.parquet_files(folder) if not path.rpartition("/")[2].startswith(_JOINED)]
        schema = tables.read_schema(known[0], target.fs) if known else data.schema
        ids = self.starts[step.job]
        start = sum(len(self.starts[s.job]) for s in self._steps[: self._steps.index(step)])

        def rows() -> Iterator[pa.Table]:
            for table in taken(data, ids, keep=True):
                old = table.column("row_id").to_numpy()
                yield _conform(numbered(table, start + np.searchsorted(ids, old)), schema)

        write_shards(target, schema, rows(), folder, _JOINED)
        target.complete(name, {**marker, "rows": marker["rows"] + len(ids)})

    def finish(self) -> None:
        """Put the retried rows in their places, table by table; an interrupted one can be repeated.

        Raises:
            LemonpressError: a table of the retry lacks a row, or has one too many; the table was not changed.
        """
        done = np.empty(0, np.int64)
        for step in self._steps:
            done = np.concatenate([done, self.starts[step.job]])
            if len(done):
                self._merge(step, done)
        self._run.remove(*FOLDER)

    def _merge(self, step: Step, ids: Ids) -> None:
        """Replace the rows ``ids`` of a job's table by the retry's first rows, which are the same in this order.

        Those that the table does not have yet, because prompts were added since, are left out: they come with them.
        """
        from pipeline.execution.summary import recounted

        table = step.writes
        new = self.work.dataset(table)
        found = new.to_table(columns=["row_id"]).column("row_id").to_numpy()
        found = np.sort(found[found < len(ids)])  # behind them are those that only begin behind this table
        if not np.array_equal(found, np.arange(len(ids))):
            raise LemonpressError(
                f"retry: {len(ids)} rows went in, {len(found)} came out for {table}: please report this"
            )
        old, marker = self._run.dataset(table), dict(self._run.marker(table) or {})
        version = int(marker.get("version", 1)) + 1
        folder = f"{VERSION}{version}"
        self._run.remove(table, folder)

        def rows() -> Iterator[pa.Table]:
            yield from taken(old, ids, keep=False)
            for batch in taken(new, np.flatnonzero(ids < marker["rows"]), keep=True):
                yield _conform(numbered(batch, ids[batch.column("row_id").to_numpy()]), old.schema)

        write_shards(self._run, old.schema, rows(), f"{table}/{folder}")
        marker = recounted(marker, step.job, self._run, self._run.parquet_files(table, folder))
        self._run.switch(table, {**marker, "version": version, "folder": folder})


def taken(data: pads.Dataset, ids: Ids, keep: bool) -> Iterator[pa.Table]:
    """The rows that are (or are not) among ``ids``, batch by batch."""
    for batch in data.to_batches(batch_size=_BATCH, batch_readahead=1, fragment_readahead=1):
        mask = np.isin(batch.column("row_id").to_numpy(), ids, invert=not keep)
        if mask.any():
            yield pa.Table.from_batches([batch]).filter(pa.array(mask))


def numbered(table: pa.Table, ids: Ids) -> pa.Table:
    """``table`` with other row ids."""
    return table.set_column(table.column_names.index("row_id"), "row_id", pa.array(ids, pa.int64()))


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with the columns of ``schema``; those that it lacks are null."""
    columns = [
        table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
        for f in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
