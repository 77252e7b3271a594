"""The ``label`` section of the config, and the names of the columns that labelling adds."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from pipeline.core.errors import ConfigError

_PER_PROMPT: dict[str, pa.DataType] = {
    "index": pa.int32(),
    "method": pa.string(),
    "scores": pa.list_(pa.float64()),
    "answer": pa.string(),
    "error": pa.string(),
}
_PER_ANSWER: dict[str, pa.DataType] = {
    "score": pa.float64(),
    "selected": pa.bool_(),
    "rank": pa.int32(),
    "error": pa.string(),
}


def label_fields(prefix: str, per_answer: bool) -> list[pa.Field]:
    """The new columns: of inputs with one row per prompt, or ``per_answer``."""
    types = _PER_ANSWER if per_answer else _PER_PROMPT
    return [pa.field(f"{prefix}_{name}", type_) for name, type_ in types.items()]


def check_names(fields: Iterable[pa.Field], known: Iterable[str], where: str) -> None:
    """Refuse to write a column that the input has already.

    Raises:
        ConfigError: naming the column.
    """
    taken = set(known)
    for field in fields:
        if field.name in taken:
            raise ConfigError(f"label.prefix: {where} has a column {field.name!r} already; set another label.prefix")
