"""Records as Arrow arrays: what a layer's nested columns hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.schema import COLUMNS

UNSTORABLE = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What Arrow says of values that do not fit a column."""


def to_array(values: list[list[Any]], name: str) -> pa.ListArray:
    """Rows' items of a nested column as an Arrow array; lone surrogates are replaced."""
    type_ = COLUMNS[name]
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(items) for items in values], out=offsets[1:])
    flat = [item for items in values for item in items]
    fields = [_field([getattr(item, f.name) for item in flat], f.type) for f in type_.value_type]
    structs = pa.StructArray.from_arrays(fields, fields=list(type_.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type_)


def _field(values: list[Any], type_: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, type_)
    except UnicodeEncodeError:
        # A lone surrogate cannot be stored as UTF-8; it must not take the whole shard down.
        return pa.array(_replace_surrogates(values), type_)


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_replace_surrogates(v) for v in value]
    if isinstance(value, dict):
        return {k: _replace_surrogates(v) for k, v in value.items()}
    return value
