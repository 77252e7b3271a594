"""The user's own rows once more, in the input's order, with the names and Arrow types that they came with.

The run's tables hold them too (``source``), but not exactly: mapped columns are cleaned texts there, and extension and
dictionary types are gone. So labels are put beside the files' own columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.tables import open_file, read_schema
from pipeline.prompts.files import Piece, format_of, local_files, open_source
from pipeline.prompts.rows import Indices
from pipeline.prompts.sources import SourceConfig
from pipeline.prompts.types import json_types

_BATCH = 1000

Tables = Iterator[tuple[Indices, pa.Table]]


@dataclass
class Part:
    """One file of the input (or configuration of a hub data set).

    Attributes:
        name: for messages.
        path: the local file, where there is one.
        piece: as prompts are read from it.
        schema: its columns.
        tables: its rows in batches, each with their positions in the file (blank lines count).
        size: positions in it.
    """

    name: str
    path: Path | None
    piece: Piece
    schema: pa.Schema
    tables: Callable[[], Tables]

    @property
    def size(self) -> int:
        return self.piece.size


def original_parts(source: SourceConfig, base: Path | None = None) -> list[Part]:
    """The source's files in reading order, without empty ones.

    Raises:
        ConfigError, InputError: a file cannot be found or read.
    """
    files = local_files(source, base or Path())
    if not files:
        return [_of_piece(piece, None) for piece in open_source(source, files)]
    parts = []
    for path, language in files:
        for piece in open_source(source, [(path, language)]):
            parquet = format_of(path, source) == "parquet"
            parts.append(_of_parquet(piece, path) if parquet else _of_piece(piece, path))
    return parts


def _of_parquet(piece: Piece, path: Path) -> Part:
    def read() -> Tables:
        with open_file(str(path)) as file:
            start = 0
            for batch in file.iter_batches(_BATCH):
                yield np.arange(start, start + len(batch)), pa.Table.from_batches([batch])
                start += len(batch)

    return Part(piece.name, path, piece, read_schema(str(path)), read)


def _of_piece(piece: Piece, path: Path | None) -> Part:
    if piece.lines:
        return _of_lines(piece, path)

    def tables() -> Tables:
        start = 0
        for table in piece.tables():
            yield np.arange(start, start + len(table)), table
            start += len(table)

    return Part(piece.name, path, piece, piece.schema, tables)


def _of_lines(piece: Piece, path: Path | None) -> Part:
    """JSON Lines have no Arrow types: those that hold their values; JSON text where values have none in common."""
    types = json_types([piece])
    schema = pa.schema([(name, pa.string() if type_ is None else type_) for name, type_ in types.items()])

    def tables() -> Tables:
        before = 0
        for table in piece.tables():
            found = list(piece.records(table, (), before))
            items = [item for _, item, _ in found]
            columns = [_column(items, name, type_) for name, type_ in types.items()]
            positions = np.array([row for row, _, _ in found], np.int64)
            yield positions, pa.Table.from_arrays(columns, schema=schema)
            before += len(table)

    return Part(piece.name, path, piece, schema, tables)


def _column(items: Sequence[dict[str, Any]], name: str, type_: pa.DataType | None) -> pa.Array:
    values = [item.get(name) for item in items]
    if type_ is not None:
        return pa.array(values, type_)
    return pa.array([None if v is None else json.dumps(v, ensure_ascii=False) for v in values], pa.string())
