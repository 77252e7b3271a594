"""The Arrow types of a source's columns: found in JSON Lines, and freed of extension types elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.core.errors import InputError
from pipeline.core.tables import MOST_COLUMNS
from pipeline.prompts.files import Piece

_MAX_DEPTH = 16  # Parquet's readers refuse deeply nested schemas


def json_types(pieces: Sequence[Piece]) -> dict[str, pa.DataType | None]:
    """Column -> Arrow type of the JSON Lines among the pieces; ``None`` where values have no common type."""
    types: dict[str, pa.DataType | None] = {}
    for piece in pieces:
        number = 0
        for table in piece.tables() if piece.lines else ():
            items = [item for _, item, _ in piece.records(table, (), number)]
            number += table.num_rows
            names = dict.fromkeys(key for item in items for key in item)
            if len({*names, *types}) > MOST_COLUMNS:
                raise InputError(f"{piece.name}: its objects have more than {MOST_COLUMNS:,} different keys")
            for name in names:
                found = _infer([item.get(name) for item in items])
                types[name] = _unify(types[name], found) if name in types else found
    return types


def _infer(values: list[Any]) -> pa.DataType | None:
    """The Arrow type that gives these values back unchanged, or ``None``."""
    try:
        found = pa.array(values)
    except (pa.ArrowException, OverflowError, RecursionError):
        return None
    # Arrow fills in the keys that only some objects have: such values are not the source's any more.
    storable = not _has_empty_struct(found.type) and _depth(found.type) <= _MAX_DEPTH
    return found.type if storable and found.to_pylist() == values else None


def _depth(type_: pa.DataType) -> int:
    return 1 + max((_depth(type_.field(i).type) for i in range(type_.num_fields)), default=0)


def _has_empty_struct(type_: pa.DataType) -> bool:
    children = [type_.field(i).type for i in range(type_.num_fields)]
    return (pa.types.is_struct(type_) and not children) or any(_has_empty_struct(child) for child in children)


def _unify(a: pa.DataType | None, b: pa.DataType | None) -> pa.DataType | None:
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
        item = _unify(a.value_type, b.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(a) and pa.types.is_struct(b) and {f.name for f in a} == {f.name for f in b}:
        fields = {f.name: _unify(f.type, b.field(f.name).type) for f in a}
        return None if None in fields.values() else pa.struct(list(fields.items()))
    return None
