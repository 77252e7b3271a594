"""``table``: a run's table as one file for other tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipeline.core.errors import ConfigError
from pipeline.core.finished import FinishedRun
from pipeline.core.safety import say
from pipeline.core.tables import storage_schema
from pipeline.stats.tables import no_formula


def run(folder: str, table: str, out: str, words: Sequence[str] = ()) -> None:
    """Write a finished table, streaming: Parquet, JSON Lines or CSV, by the file's ending.

    CSV holds nested columns as JSON texts, and no text that a spreadsheet takes for a formula.

    Args:
        folder: the run.
        table: ``prompts``, ``candidates``, ``selections`` or ``games``.
        out: a ``.parquet``, ``.jsonl`` or ``.csv`` file that is not there yet.
        words: ``columns=a,b`` writes these only.

    Raises:
        ConfigError: the table, a column, the ending or a word is unknown, or the file is there.
        UnfinishedTableError: the table's job has not finished.
    """
    columns = _columns(words)
    write = _FORMATS.get(Path(out).suffix)
    if write is None:
        raise ConfigError(f"{out}: the ending says the format; one of {', '.join(_FORMATS)}")
    opened = FinishedRun(folder)
    schema = opened.columns(table)
    if columns is not None:
        batches = opened.batches(table, columns)
        schema = pa.schema([schema.field(name) for name in columns])
    else:
        batches = opened.batches(table)
    path = Path(out).expanduser()
    try:
        sink = path.open("xb")
    except FileExistsError:
        raise ConfigError(f"{out}: is there already; remove it, or name another file") from None
    try:
        with sink:
            rows = write(sink, storage_schema(schema), batches)
    except BaseException:
        path.unlink()  # half a table looks like a whole one
        raise
    say(f"{rows:,} rows of {table} in {out}")


def _columns(words: Sequence[str]) -> list[str] | None:
    found = None
    for word in words:
        key, _, value = word.partition("=")
        if key != "columns" or not value:
            raise ConfigError(f"{word!r}: table takes columns=a,b and nothing else")
        found = value.strip("[]").replace(" ", "").split(",")
    return found


def _parquet(sink: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    rows = 0
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in batches:
            rows += len(batch)
            writer.write_batch(batch.cast(schema))
    return rows


def _json_lines(sink: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    rows = 0
    for batch in batches:
        rows += len(batch)
        sink.writelines(_json(row) for row in batch.to_pylist())
    return rows


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=str).encode() + b"\n"


def _csv(sink: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    flat = pa.schema([(f.name, pa.large_string() if _is_text(f.type) else f.type) for f in schema])
    rows = 0
    with pacsv.CSVWriter(sink, flat) as writer:
        for batch in batches:
            rows += len(batch)
            columns = [_cells(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=flat))
    return rows


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_nested(type_) or pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _cells(column: pa.Array, type_: pa.DataType) -> pa.Array:
    if not _is_text(type_):
        return column.cast(type_)
    texts = column.to_pylist()
    if pa.types.is_nested(type_):
        texts = [None if value is None else _json(value).decode().rstrip("\n") for value in texts]
    return no_formula(pa.chunked_array([pa.array(texts, pa.large_string())])).combine_chunks()


_FORMATS: dict[str, Callable[[BinaryIO, pa.Schema, Iterable[pa.RecordBatch]], int]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".csv": _csv,
}
