"""The rows of a source as Arrow, copied once into a file of this process's own: read in order, or by position."""

from __future__ import annotations

import bisect
import itertools
import json
import mmap
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipeline.core.errors import InputError
from pipeline.core.remote import scratch_file
from pipeline.core.tables import MOST_COLUMNS

Record = dict[str, Any]
Types = dict[str, pa.DataType | None]
"""Column -> Arrow type that gives its values back unchanged; ``None`` where there is none."""

_MAX_DEPTH = 16  # Parquet's readers refuse deeply nested schemas
_NOTE = b"lemonpress"


@dataclass
class Chunk:
    """Some neighbouring rows.

    Attributes:
        table: their columns.
        encoded: the columns whose values are JSON text in ``table``, with the type that would hold them all the same.
        lines: row -> its line as it was, where lone surrogates in it were replaced.
    """

    table: pa.Table
    encoded: Types = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)

    def records(self, names: Iterable[str]) -> list[Record]:
        """The columns ``names`` that there are, as Python values."""
        found = [name for name in dict.fromkeys(names) if name in self.table.column_names]
        if not found:
            return [{} for _ in range(len(self.table))]
        return [dict(zip(found, row, strict=True)) for row in zip(*map(self._values, found), strict=True)]

    def column(self, name: str, type_: pa.DataType, as_json: bool = False) -> pa.Array:
        """One column as ``type_``; nulls where it is not there.

        Args:
            as_json: each value as its JSON text.

        Raises:
            pa.ArrowException, OverflowError: a value does not fit.
        """
        if name not in self.table.column_names:
            return pa.nulls(len(self.table), type_)
        is_json = name in self.encoded
        if is_json == as_json or (is_json and type_ == pa.string()):
            return self.table[name].cast(type_).combine_chunks()
        values = self._values(name)
        return pa.array(list(map(to_json, values)) if as_json else values, type_)

    def _values(self, name: str) -> list[Any]:
        values: list[Any] = self.table[name].to_pylist()
        return [None if v is None else json.loads(v) for v in values] if name in self.encoded else values


def to_json(value: Any) -> str | None:
    """A value as JSON text; ``None`` stays."""
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)


def chunk_of(items: Sequence[Record], lines: dict[int, str] | None = None) -> Chunk:
    """Rows of Python values as Arrow: what Arrow would not give back unchanged becomes JSON text.

    A reader that guesses types would turn ``"2024-01-01"`` into a time stamp, and fail as a whole on one odd row.
    """
    columns: dict[str, pa.Array] = {}
    encoded: Types = {}
    for name in dict.fromkeys(key for item in items for key in item):
        values = [item.get(name) for item in items]
        found = _typed(values)
        if found is None or not _is_exact(found, values):
            encoded[name] = None if found is None else found.type
            found = pa.array(list(map(to_json, values)), pa.string())
        columns[name] = found
    empty = pa.RecordBatch.from_struct_array(pa.array([{}] * len(items), pa.struct([])))  # counts rows without columns
    return Chunk(pa.table(columns) if columns else pa.Table.from_batches([empty]), encoded, lines or {})


def _typed(values: list[Any]) -> pa.Array | None:
    """The values in the Arrow type that gives equal ones back."""
    try:
        found = pa.array(values)
    except (pa.ArrowException, OverflowError, RecursionError):
        return None
    # Arrow fills in the keys that only some objects have: such values are not the source's any more.
    storable = not _has_empty_struct(found.type) and _depth(found.type) <= _MAX_DEPTH
    return found if storable and found.to_pylist() == values else None


def _is_exact(found: pa.Array, values: list[Any]) -> bool:
    """Whether the values that come back look the same, too: [1, 2.5] does as [1.0, 2.5], and keys have an order."""
    may_differ = pa.types.is_nested(found.type) or pa.types.is_floating(found.type)
    return not may_differ or json.dumps(found.to_pylist(), default=str) == json.dumps(values, default=str)


def _depth(type_: pa.DataType) -> int:
    return 1 + max((_depth(type_.field(i).type) for i in range(type_.num_fields)), default=0)


def _has_empty_struct(type_: pa.DataType) -> bool:
    children = [type_.field(i).type for i in range(type_.num_fields)]
    return (pa.types.is_struct(type_) and not children) or any(_has_empty_struct(child) for child in children)


def unify(a: pa.DataType | None, b: pa.DataType | None) -> pa.DataType | None:
    """The type that holds values of both without changing them, or ``None``."""
    if a is None or b is None:
        return None
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if {a, b} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(a) and pa.types.is_list(b):
        item = unify(a.value_type, b.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(a) and pa.types.is_struct(b) and {f.name for f in a} == {f.name for f in b}:
        fields = {f.name: unify(f.type, b.field(f.name).type) for f in a}
        return None if None in fields.values() else pa.struct(list(fields.items()))
    return None


class Piece:
    """One file, or one configuration of a hub data set.

    Args:
        name: path or ``dataset/configuration``, for messages.
        chunks: the rows.
        language: of rows without a language column.
        guessed: the types were found in the values: those of several chunks may differ.
        blanks: of the file, filled by ``chunks``.

    Attributes:
        types: of the columns.
        size: number of rows.
        blanks: for each blank line, how many rows come before it.

    Raises:
        InputError: there are too many different columns. Otherwise what ``chunks`` raises.
    """

    def __init__(
        self,
        name: str,
        chunks: Iterable[Chunk],
        language: str | None = None,
        guessed: bool = False,
        blanks: array[int] | None = None,
    ) -> None:
        self.name, self.language, self.guessed, self.blanks = name, language, guessed, blanks
        self.types: Types = {}
        self.size = 0
        self._file = scratch_file()
        self._starts, self._offsets = array("q"), array("q", [0])  # of each chunk: its first row, and its bytes
        for chunk in chunks:
            self._append(chunk)
        self._file.flush()

    def _append(self, chunk: Chunk) -> None:
        for each in chunk.table.schema:
            found = chunk.encoded.get(each.name, each.type)
            self.types[each.name] = unify(self.types[each.name], found) if each.name in self.types else found
        if len(self.types) > MOST_COLUMNS:
            raise InputError(f"{self.name}: its objects have more than {MOST_COLUMNS:,} different keys")
        note = {"encoded": list(chunk.encoded), "lines": list(chunk.lines.items())}
        table = chunk.table.replace_schema_metadata({_NOTE: json.dumps(note)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        self._file.write(sink.getvalue())
        self._starts.append(self.size)
        self._offsets.append(self._file.tell())
        self.size += len(table)

    def chunks(self) -> Iterator[Chunk]:
        """All rows in order; memory holds one chunk."""
        for start, end in itertools.pairwise(self._offsets):
            # Going over a mapping would leave all of it in this process's memory.
            yield _read(pa.py_buffer(os.pread(self._file.fileno(), end - start, start)))

    def take(self, rows: Sequence[int], names: Sequence[str]) -> list[Record]:
        """The columns ``names`` of some rows by position."""
        found: dict[int, Record] = {}
        for i, some in itertools.groupby(sorted(set(rows)), lambda row: bisect.bisect_right(self._starts, row) - 1):
            mine = list(some)
            chunk = _read(pa.py_buffer(self._mapped[self._offsets[i] : self._offsets[i + 1]]))
            chunk.table = chunk.table.take([row - self._starts[i] for row in mine])
            found.update(zip(mine, chunk.records(names), strict=True))
        return [found[row] for row in rows]

    @cached_property
    def _mapped(self) -> memoryview:
        return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))

    def where(self, row: int) -> str:
        """A row as the user counts: lines from 1, rows of other formats from 0."""
        return f"row {row}" if self.blanks is None else f"line {row + 1 + bisect.bisect_right(self.blanks, row)}"


def _read(buffer: pa.Buffer) -> Chunk:
    table = pa.ipc.open_stream(buffer).read_all()
    note = json.loads(table.schema.metadata[_NOTE])
    return Chunk(table, dict.fromkeys(note["encoded"]), dict(note["lines"]))
