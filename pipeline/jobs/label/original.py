"""The user's own rows once more, in the input's order, with the names and Arrow types that they came with.

The run's tables hold them too (``source``), but not exactly: mapped columns are cleaned texts there, and extension and
dictionary types are gone. So labels are put beside the files' own columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.core.tables import open_file, read_schema
from pipeline.prompts.files import format_of, local_files, open_source
from pipeline.prompts.piece import Piece
from pipeline.prompts.sources import SourceConfig

_BATCH = 1000


@dataclass
class Part:
    """One file of the input (or configuration of a hub data set).

    Attributes:
        name: for messages.
        path: the local file, where there is one.
        piece: as prompts are read from it.
        schema: its columns.
        tables: its rows in batches.
    """

    name: str
    path: Path | None
    piece: Piece
    schema: pa.Schema
    tables: Callable[[], Iterator[pa.Table]]


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
    def read() -> Iterator[pa.Table]:
        with open_file(str(path)) as file:
            yield from (pa.Table.from_batches([batch]) for batch in file.iter_batches(_BATCH))

    return Part(piece.name, path, piece, read_schema(str(path)), read)


def _of_piece(piece: Piece, path: Path | None) -> Part:
    """The types of JSON Lines are those that hold their values; JSON text stands for what has none in common."""
    schema = pa.schema([(name, type_ or pa.string()) for name, type_ in piece.types.items()])

    def tables() -> Iterator[pa.Table]:
        for chunk in piece.chunks():
            columns = [chunk.column(f.name, f.type, piece.types[f.name] is None) for f in schema]
            yield pa.Table.from_arrays(columns, schema=schema)

    return Part(piece.name, path, piece, schema, tables)
