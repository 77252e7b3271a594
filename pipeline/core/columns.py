"""Array types that the statistics share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def nullable(values: Any) -> pa.Array:
    """Arrow doubles in which NaN (a number that does not exist) has become null."""
    array = np.asarray(values, dtype=np.float64)
    return pa.array(array, mask=np.isnan(array))


def column(batch: pa.RecordBatch, name: str) -> list[Any]:
    """A column's values; nulls where the batch has no such column."""
    return batch.column(name).to_pylist() if name in batch.schema.names else [None] * len(batch)


def nested(batch: pa.RecordBatch, name: str, *fields: str, lengths: Sequence[str] = ()) -> list[list[tuple[Any, ...]]]:
    """Per row, the named fields of a nested column's items; the other fields (texts) never become Python objects.

    Args:
        lengths: the fields of which only the length in characters is wanted.
    """
    groups: list[list[tuple[Any, ...]]] = [[] for _ in range(len(batch))]
    if name not in batch.schema.names:
        return groups
    lists = batch.column(name)
    flat = pc.list_flatten(lists)
    known = {f.name for f in flat.type}
    values = []
    for wanted in fields:
        found = pc.struct_field(flat, wanted) if wanted in known else pa.nulls(len(flat))
        values.append((pc.utf8_length(found) if wanted in lengths else found).to_pylist())
    for parent, *item in zip(pc.list_parent_indices(lists).to_pylist(), *values, strict=True):
        groups[parent].append(tuple(item))
    return groups
