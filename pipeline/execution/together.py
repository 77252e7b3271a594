"""The worker of a shared pass: stages of several jobs on one row, and what the row was between the jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.core.row import Row
from pipeline.core.schema import COLUMNS
from pipeline.engines.stage import Stage
from pipeline.execution.spec import PassSpec
from pipeline.execution.worker import UNSTORABLE, Worker, to_array, unstorable


@dataclass
class Part:
    """One of the passes that run together.

    Attributes:
        job: recorded in ``usage`` and ``errors``.
        last: position of its last stage among all stages.
        changed: columns that later parts change, too: each is kept as it was, as ``COLUMN@JOB``.
    """

    job: str
    last: int
    changed: list[str]


def parts(specs: Sequence[PassSpec]) -> list[Part]:
    """The parts of a shared pass."""
    found = []
    for i, spec in enumerate(specs):
        before = sum(len(s.stages) for s in specs[: i + 1])
        mine = _written(specs[: i + 1])
        found.append(Part(spec.job, before - 1, [name for name in COLUMNS if name in mine & _written(specs[i + 1 :])]))
    return found


def kept_as(column: str, job: str) -> str:
    """Name of the column that holds ``column`` as it was after a job."""
    return f"{column}@{job}"


def _written(specs: Sequence[PassSpec]) -> set[str]:
    stages = [stage for spec in specs for stage in spec.stages]
    return {name for stage in stages for name in stage.writes} | ({"usage", "errors"} if specs else set())


class SharedWorker(Worker):
    """A :class:`~pipeline.execution.worker.Worker` whose stages belong to several jobs.

    Args:
        parts: the jobs, in order.
        options: as :class:`~pipeline.execution.worker.Worker`; ``stages`` are those of all parts.
    """

    def __init__(self, parts: Sequence[Part], stages: Sequence[Stage], **options: Any) -> None:
        self._parts = parts
        firsts = [0, *(part.last + 1 for part in parts)]
        bounds = zip(firsts, firsts[1:], parts, strict=False)
        self._jobs = {id(stage): part.job for start, end, part in bounds for stage in stages[start:end]}
        self._ends = {id(stages[part.last]): part for part in parts[:-1]}
        self._kept: dict[tuple[int, str], dict[str, list[Any]]] = {}
        super().__init__(stages=stages, **options)

    def _job_of(self, stage: Stage) -> str:
        return self._jobs[id(stage)]

    def _after(self, stage: Stage, row: Row) -> None:
        part = self._ends.get(id(stage))
        if part is not None:
            self._kept[row.row_id, part.job] = {name: list(getattr(row, name)) for name in part.changed}

    def _storable(self, row: Row, before: Row) -> Row:
        for part in self._parts[:-1]:
            kept = self._kept[row.row_id, part.job]
            try:
                for name in part.changed:
                    to_array([_values(kept, name)], COLUMNS[name])
            except UNSTORABLE as error:
                old: dict[str, list[Any]] = {name: list(getattr(before, name)) for name in part.changed}
                old["errors"] = [*kept["errors"], unstorable(part.job, self._stages[part.last], error)]
                self._kept[row.row_id, part.job] = old
        return super()._storable(row, before)

    def _append(self, table: pa.Table, rows: list[Row]) -> pa.Table:
        done = super()._append(table, rows)
        for part in self._parts[:-1]:
            kept = [self._kept[row.row_id, part.job] for row in rows]
            for name in part.changed:
                values = to_array([_values(found, name) for found in kept], COLUMNS[name])
                done = done.append_column(pa.field(kept_as(name, part.job), COLUMNS[name]), values)
        for part in self._parts[:-1]:  # only now: what cannot be stored is tried again
            for row in rows:
                del self._kept[row.row_id, part.job]
        return done


def _values(kept: dict[str, list[Any]], name: str) -> list[dict[str, Any]]:
    return [vars(item) for item in kept[name]]
