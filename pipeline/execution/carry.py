"""The worker of a pass that extends a table: carries earlier results over, and does what is left of every row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs

from pipeline.core import tables
from pipeline.core.row import Row
from pipeline.core.schema import with_columns
from pipeline.engines.base import Engine
from pipeline.engines.stage import Stage
from pipeline.execution.extend import Extension
from pipeline.execution.worker import Worker
from pipeline.judging.names import CANDIDATE, is_candidate

_KEYS: dict[str, tuple[str, ...]] = {
    "candidates": ("plan",),
    "scores": ("scorer", "plan"),
    "selections": ("plan", "method"),
    "answers": ("system",),
    "games": ("system", "opponent", "judge", "template", "order"),
}
"""Column -> the fields that say which result an item is (or is part of)."""


@dataclass
class Carry:
    """Puts the results of a table's version before on the rows of its input's current version, by ``row_id``.

    Attributes:
        extension: what is carried over.
        files: Parquet files of the version before.
        filesystem: where they are.
        columns: the columns that the table's job writes.
    """

    extension: Extension
    files: list[str]
    filesystem: pafs.FileSystem
    columns: list[str]

    @cached_property
    def _data(self) -> pads.Dataset:
        return tables.open_dataset(self.files, self.filesystem, self.files[0].rpartition("/")[0])

    def onto(self, table: pa.Table) -> pa.Table:
        """The block with the columns that earlier results go into, for the rows that have any."""
        names = [n for n in (*self.columns, "usage", "errors") if n in self._data.schema.names]
        schema = with_columns(table.schema, names)
        earlier = self._earlier(table.column("row_id"), names)
        ids = table.column("row_id").to_pylist()
        arrays: list[Any] = []
        for field in schema:
            if field.name not in names:
                arrays.append(table.column(field.name))
                continue
            ours = table.column(field.name).to_pylist() if field.name in table.column_names else [None] * len(ids)
            merged = [
                self._merged(field.name, earlier.get(i, {}), items or []) for i, items in zip(ids, ours, strict=True)
            ]
            arrays.append(pa.array(merged, field.type))
        return pa.Table.from_arrays(arrays, schema=schema)

    def _earlier(self, ids: pa.ChunkedArray, names: list[str]) -> dict[int, dict[str, Any]]:
        known = ids.filter(pc.less(ids, self.extension.rows))
        if not len(known):
            return {}
        bounds = pc.min_max(known).as_py()  # row groups can be left out by a range, not by a list of values
        near = (pc.field("row_id") >= bounds["min"]) & (pc.field("row_id") <= bounds["max"])
        wanted = near & pc.field("row_id").isin(known.combine_chunks())
        found = self._data.to_table(columns=["row_id", *names], filter=wanted)
        return {row["row_id"]: row for row in found.to_pylist()}

    def _merged(self, name: str, earlier: dict[str, Any], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Earlier items that still hold, and those of the input: where both have one result, the job that owns the
        candidates has the fuller one; in later jobs the input is newer.
        """
        before = [item for item in earlier.get(name) or [] if not self._is_stale(name, item)]
        if name in ("usage", "errors"):
            return [*now, *(item for item in before if item["job"] == self.extension.job)]
        first, second = (before, now) if "candidates" in self.columns else (now, before)
        keys = {tuple(item[k] for k in _KEYS[name]) for item in first}
        return [*first, *(item for item in second if tuple(item[k] for k in _KEYS[name]) not in keys)]

    def _is_stale(self, name: str, item: dict[str, Any]) -> bool:
        stale = self.extension.stale
        match name:
            case "selections":
                return f"{item['plan']}/{item['method']}" in stale or (item["plan"] == "policy" and bool(stale))
            case "scores" if item["scorer"].startswith("metric:"):
                return item["plan"].removeprefix("answer:").partition("/")[0] in stale
            case "scores":
                return f"{item['plan']}/{item['scorer']}" in stale
            case "games":
                system = item["system"]
                name = system.rpartition(CANDIDATE)[0] + CANDIDATE if is_candidate(system) else system
                return f"{name} vs {item['opponent']}" in stale
            case "errors":
                return item["stage"] in self.extension.redone
        return False


class ExtendingWorker(Worker):
    """A :class:`Worker` that leaves out what the rows have already.

    Args:
        extension: how the table follows from its version before.
        carry: puts the earlier results on the rows; ``None`` when an earlier pass of the job has done so.
        options: as :class:`Worker`.
    """

    def __init__(self, extension: Extension, carry: Carry | None, **options: Any) -> None:
        super().__init__(**options)
        self._extension = extension
        self._carry = carry

    def __call__(self, table: pa.Table) -> pa.Table:
        return super().__call__(self._carry.onto(table) if self._carry else table)

    async def _stage(self, stage: Stage, row: Row, engine: Engine | None) -> Row:
        if row.row_id >= self._extension.rows:
            return await super()._stage(stage, row, engine)
        rest = self._extension.rest.get(stage.name)
        return row if rest is None else await super()._stage(rest, row, engine)
