"""Reading a run's tables: the prompts' shards, with layers laid beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import tables
from pipeline.core.columns import Ints
from pipeline.core.layers import KEYS, Laid, overlay
from pipeline.core.row import NESTED
from pipeline.core.schema import COLUMNS, read_provenance, with_columns

if TYPE_CHECKING:
    from pipeline.core.folder import RunFolder

Wanted = Callable[[str, str], bool]
"""Called with a column's name and a leaf's (empty for a plain column): whether it is read."""

_AHEAD = 4  # shards that are read before they are asked for
_ROWS = 1024  # of a batch, about


class Table:
    """A table of a run, opened lazily: some shards of its prompts, with some layers.

    Args:
        run: the run.
        sizes: rows of the shards; ``row_id`` counts over them.
        layers: from the first to the last.
        where: how messages call it.

    Attributes:
        layers: as given.
    """

    def __init__(self, run: RunFolder, sizes: Sequence[int], layers: Sequence[Laid], where: str) -> None:
        self._run, self.layers, self._where = run, list(layers), where
        self._starts = np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))])

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self._starts) - 1

    def count_rows(self) -> int:
        """Rows of all shards."""
        return int(self._starts[-1])

    @cached_property
    def schema(self) -> pa.Schema:
        """Of whole rows; a shard that was added later may have more fields in ``source`` than the first."""
        if not self.shards:
            return pa.schema([])
        found = tables.read_schema(self._path("prompts", "", self.shards - 1), self._run.fs)
        names = {name for laid in self.layers for name in self._columns_of(laid)}
        return with_columns(tables.own_schema(found, self._where), sorted(names))

    def _columns_of(self, laid: Laid) -> Sequence[str]:
        files = self._run.parquet_files(laid.table, laid.name)
        return [name for name in tables.read_schema(files[0], self._run.fs).names if name in NESTED] if files else ()

    def _path(self, table: str, layer: str, number: int) -> str:
        return self._run.path(*filter(None, (table, layer)), shard_name(number))

    def batches(
        self,
        names: Sequence[str] | None = None,
        wanted: Wanted | None = None,
        rows: tuple[int, int] | None = None,
        batch_size: int = _ROWS,
    ) -> Iterator[pa.RecordBatch]:
        """The rows in order, some shards at a time; memory stays flat.

        Args:
            names: columns, of which those that there are are read; ``None`` = all.
            wanted: leaves of nested columns, of which the others are left out; fields that tell one item from another
                may be read beside them.
            rows: first and last ``row_id``.
            batch_size: rows of a batch, or more: shards are not cut.

        Raises:
            InputError: a file is damaged.
        """
        waiting: list[pa.Table] = []
        for shard in self._read_ahead(self._between(rows), names, wanted):
            waiting.append(shard)
            if sum(len(each) for each in waiting) >= batch_size:
                yield _batch(waiting)
                waiting = []
        if waiting:
            yield _batch(waiting)

    def _between(self, rows: tuple[int, int] | None) -> Iterator[int]:
        if rows is None:
            yield from range(self.shards)
            return
        first = int(np.searchsorted(self._starts, rows[0], side="right")) - 1
        yield from range(max(first, 0), int(np.searchsorted(self._starts[:-1], rows[1], side="right")))

    def _read_ahead(
        self, numbers: Iterator[int], names: Sequence[str] | None, wanted: Wanted | None
    ) -> Iterator[pa.Table]:
        window: deque[Future[pa.Table]] = deque()
        with ThreadPoolExecutor(_AHEAD) as pool:
            for number in numbers:
                window.append(pool.submit(self.shard, number, names, wanted))
                if len(window) > _AHEAD:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()

    def shard(
        self,
        number: int,
        names: Sequence[str] | None = None,
        wanted: Wanted | None = None,
        layers: Sequence[Laid] | None = None,
        redone: Sequence[tuple[Laid, Ints]] = (),
    ) -> pa.Table:
        """The rows of one shard.

        Args:
            names, wanted: as in :meth:`batches`.
            layers: those that have a file of the shard, where this is known.
            redone: retries that have none yet, with the ``row_id`` of their rows: what they redo is left out.
        """
        # A pass asks for nested columns that its own layers, of which there may be no file yet, will hold.
        names = [n for n in dict.fromkeys(names or self.schema.names) if n in NESTED or n in self.schema.names]
        if wanted is not None:
            names = [name for name in names if _is_wanted(name, wanted)]
        types = {name: _type(name, wanted) for name in names if name in NESTED}
        plain = [name for name in names if name not in types]
        prompts = self._file("prompts", "", number, {*plain, "row_id"}, types)
        if layers is None:
            layers = [laid for laid in self.layers if number in self._there(laid)] if types else []
        sources = [(laid, self._file(laid.table, laid.name, number, {"row_id"}, types)) for laid in layers]
        ids: Ints = prompts.column("row_id").to_numpy()
        sources += [(laid, pa.table({"row_id": rows[np.isin(rows, ids)]})) for laid, rows in redone]
        found = overlay(prompts, sources, types)
        if "source" in plain:
            at = found.column_names.index("source")
            found = found.set_column(at, "source", conform(found.column("source"), self.schema.field("source").type))
        return found.select(names)

    def _there(self, laid: Laid) -> frozenset[int]:
        if (laid.table, laid.name) not in self._listed:
            self._listed[laid.table, laid.name] = frozenset(shards_in(self._run, laid.table, laid.name))
        return self._listed[laid.table, laid.name]

    @cached_property
    def _listed(self) -> dict[tuple[str, str], frozenset[int]]:
        return {}

    def _file(self, table: str, layer: str, number: int, plain: set[str], types: dict[str, pa.DataType]) -> pa.Table:
        path = self._path(table, layer, number)
        with tables.open_file(path, self._run.fs) as file:
            tables.own_schema(file.schema_arrow, path, exactly=True)
            read_provenance(file.schema_arrow, path)
            leaves = [leaf for leaf in _leaves(file) if _is_read(leaf, plain, types)]
            found = file.read(columns=leaves, use_threads=False)
        for name in types.keys() & set(found.column_names):
            if found.schema.field(name).type != types[name]:
                at = found.column_names.index(name)
                found = found.set_column(at, name, conform(found.column(name), types[name]))
        return found

    def to_batches(self, columns: Sequence[str] | None = None, batch_size: int = _ROWS) -> Iterator[pa.RecordBatch]:
        """As :meth:`batches`."""
        yield from self.batches(columns, batch_size=batch_size)

    def to_table(self, columns: Sequence[str] | None = None, ids: Ints | None = None) -> pa.Table:
        """All rows of some columns, or those among ``ids``."""
        kept = []
        names = None if columns is None else [*columns, *(["row_id"] if ids is not None else [])]
        for batch in self.batches(names):
            table = pa.Table.from_batches([batch])
            if ids is not None:
                table = table.filter(pa.array(np.isin(table.column("row_id").to_numpy(), ids)))
            kept.append(table if columns is None else table.select([c for c in columns if c in table.column_names]))
        if kept:
            return pa.concat_tables(kept)
        known = [self.schema.field(c) for c in columns or self.schema.names if c in self.schema.names]
        return pa.schema(known).empty_table()

    def rows(self, columns: Sequence[str] | None = None, batch_size: int = _ROWS) -> Iterator[dict[str, Any]]:
        """Every row as a dict."""
        for batch in self.batches(columns, batch_size=batch_size):
            yield from batch.to_pylist()


def shard_name(number: int) -> str:
    """``00042.parquet``."""
    return f"{number:05d}.parquet"


def shards_in(run: RunFolder, table: str, layer: str = "") -> list[int]:
    """Numbers of the shards that a table of prompts, or a layer, has files of."""
    names = (path.rpartition("/")[2].removesuffix(".parquet") for path in run.parquet_files(table, layer))
    return sorted(int(name) for name in names if name.isdigit())


def conform(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    """A column of structs (or lists of them) as ``type_``; fields that it lacks are null."""
    return pa.chunked_array([_conform(chunk, type_) for chunk in column.chunks], type_)


def _conform(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if array.type == type_:
        return array
    if pa.types.is_struct(type_) and pa.types.is_struct(array.type):
        fields = [
            _conform(array.field(f.name), f.type)
            if array.type.get_field_index(f.name) >= 0
            else pa.nulls(len(array), f.type)
            for f in type_
        ]
        return pa.StructArray.from_arrays(fields, fields=list(type_), mask=array.is_null())
    if pa.types.is_list(type_) and pa.types.is_list(array.type) and pa.types.is_struct(type_.value_type):
        values = _conform(array.values, type_.value_type)
        return pa.ListArray.from_arrays(
            array.offsets, values, type_, mask=array.is_null() if array.null_count else None
        )
    return array.cast(type_)


def _batch(parts: Sequence[pa.Table]) -> pa.RecordBatch:
    whole = pa.concat_tables(parts).combine_chunks()
    return whole.to_batches()[0] if len(whole) else pa.RecordBatch.from_pylist([], schema=whole.schema)


def _is_wanted(name: str, wanted: Wanted) -> bool:
    if name not in NESTED and name != "messages":
        return wanted(name, "")
    return any(wanted(name, field.name) for field in COLUMNS[name].value_type)


def _type(name: str, wanted: Wanted | None) -> pa.DataType:
    if wanted is None:
        return COLUMNS[name]
    key = (*KEYS.get(name, ()), "plan", "stage", "system", "method")
    return pa.list_(pa.struct([f for f in COLUMNS[name].value_type if wanted(name, f.name) or f.name in key]))


def _leaves(file: pq.ParquetFile) -> list[str]:
    return [file.schema.column(i).path for i in range(len(file.schema))]


def _is_read(leaf: str, plain: set[str], types: dict[str, pa.DataType]) -> bool:
    top, _, rest = leaf.partition(".")
    if top in plain:
        return True
    if top not in types:
        return False
    names = rest.removeprefix("list.").removeprefix("element.").removeprefix("item.")
    return bool(types[top].value_type.get_field_index(names.partition(".")[0]) >= 0)
