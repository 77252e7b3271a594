"""Files that would run code if anything made Python values of them: columns of Ray Data's type for pickled objects."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.folder import RunFolder
from tests.tables import reseal

EXTENSION = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b""}
Array = tuple[pa.Field, pa.Array]


class Payload:
    """Pickles to a call that makes a folder: the flag that shows that the file's code was run."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return os.makedirs, (str(self.flag), 0o777, True)


def pickled(name: str, flag: Path, rows: int) -> Array:
    """A column of pickles, under the name that makes Ray Data open them."""
    values = pa.array([pickle.dumps(Payload(flag))] * rows, pa.large_binary())
    return pa.field(name, pa.large_binary(), metadata=EXTENSION), values


def _in_struct(name: str, inner: Array) -> Array:
    field, values = inner
    array = pa.StructArray.from_arrays([values], fields=[field.with_name("inside")])
    return pa.field(name, array.type), array


def _in_list(name: str, inner: Array) -> Array:
    field, values = inner
    offsets = pa.array(range(len(values) + 1), pa.int32())
    type_ = pa.list_(field.with_name("item"))
    return pa.field(name, type_), pa.ListArray.from_arrays(offsets, values, type=type_)


def _in_large_list(name: str, inner: Array) -> Array:
    field, values = inner
    offsets = pa.array(range(len(values) + 1), pa.int64())
    type_ = pa.large_list(field.with_name("item"))
    return pa.field(name, type_), pa.LargeListArray.from_arrays(offsets, values, type=type_)


def _in_fixed_list(name: str, inner: Array) -> Array:
    field, values = inner
    type_ = pa.list_(field.with_name("item"), 1)
    return pa.field(name, type_), pa.FixedSizeListArray.from_arrays(values, type=type_)


def _in_map(name: str, inner: Array) -> Array:
    field, values = inner
    type_ = pa.map_(pa.string(), field.with_name("value"))
    offsets = pa.array(range(len(values) + 1), pa.int32())
    return pa.field(name, type_), pa.MapArray.from_arrays(offsets, pa.array(["k"] * len(values)), values, type=type_)


NESTINGS: dict[str, Callable[[str, Array], Array]] = {
    "plain": lambda name, inner: (inner[0].with_name(name), inner[1]),
    "struct": _in_struct,
    "list": _in_list,
    "large list": _in_large_list,
    "fixed-size list": _in_fixed_list,
    "map": _in_map,
    "struct in a list": lambda name, inner: _in_list(name, _in_struct("s", inner)),
    "list in a map": lambda name, inner: _in_map(name, _in_list("l", inner)),
}


def poisoned(table: pa.Table, column: str, flag: Path, nesting: str = "plain") -> pa.Table:
    """``table`` with ``column`` (a new one, or in place of its own) holding pickles."""
    field, values = NESTINGS[nesting](column, pickled(column, flag, table.num_rows))
    if column in table.column_names:
        return table.set_column(table.column_names.index(column), field, values)
    return table.append_column(field, values)


def poison_file(path: str | Path, column: str, flag: Path, nesting: str = "plain") -> None:
    """Put pickles into a column of a Parquet file."""
    table = pq.read_table(path)
    pq.write_table(poisoned(table, column, flag, nesting), path)


def poison_run(run: RunFolder, column: str, flag: Path, nesting: str = "plain") -> None:
    """Put pickles into a column of every table of a run, and make the markers fit, as an attacker would."""
    for table in ("prompts", "candidates", "selections", "games"):
        marker = run.marker(table)
        if marker is not None:
            for path in run.files(table):
                poison_file(path, column, flag, nesting)
            reseal(run, table)
