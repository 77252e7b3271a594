"""Compaction: the many small files that checkpoints leave become few large ones, in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.core import tables
from pipeline.core.errors import LemonpressError
from pipeline.core.tables import give_back

_FILE_BYTES = 128 * 2**20  # compressed: some ten thousand rows with five answers each, some hundred files a million
_GROUP_BYTES = 4 * 2**20  # in memory: what this process holds at once, and what a reader decodes at once
_FOOTERS = 50  # read before their memory is given back: some 100 kB each
_BATCH = 512


def worth_compacting(files: Sequence[str], filesystem: pafs.FileSystem) -> bool:
    """Whether the files would become half as many, or fewer."""
    if len(files) < 2:
        return False
    size = sum(info.size or 0 for info in filesystem.get_file_info(list(files)))
    return len(files) >= 2 * (1 + size // _FILE_BYTES)


def compact(files: Sequence[str], target: str, filesystem: pafs.FileSystem) -> int:
    """Copy the rows of ``files`` into few large files.

    Files are taken in the order of their lowest ``row_id``. Blocks hold neighbouring rows, so the result is nearly
    sorted, which makes a lookup by ``row_id`` touch few row groups; no row is moved for it. Streams: one row group is
    in memory, whatever the table's size.

    Args:
        files: Parquet files of one schema (the first one's metadata is kept).
        target: an existing, empty folder.

    Returns:
        Rows written.
    """
    ordered = _in_order(files, filesystem)
    schema = tables.read_schema(ordered[0], filesystem)
    groups = _groups(ordered, schema, filesystem)
    rows = number = 0
    group = next(groups, None)
    while group is not None:
        with (
            filesystem.open_output_stream(f"{target}/part-{number:05d}.parquet") as sink,
            pq.ParquetWriter(sink, schema, compression="zstd") as writer,
        ):
            while group is not None and sink.tell() < _FILE_BYTES:
                writer.write_table(group, row_group_size=group.num_rows)
                rows += group.num_rows
                group = None  # before the next one is read
                give_back()  # decoding, encoding and compressing leave several times a group's bytes behind
                group = next(groups, None)
        number += 1
    return rows


def _groups(files: Sequence[str], schema: pa.Schema, filesystem: pafs.FileSystem) -> Iterator[pa.Table]:
    """The rows in tables of about ``_GROUP_BYTES``."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for path in files:
        with tables.open_file(path, filesystem) as file:
            if not file.schema_arrow.equals(schema):
                raise LemonpressError(f"{path}: its columns differ from those of {files[0]}; the table is not changed")
            for batch in file.iter_batches(_BATCH):
                waiting.append(batch)
                size += batch.nbytes
                if size >= _GROUP_BYTES:
                    yield pa.Table.from_batches(waiting, schema)
                    waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting, schema)


def _in_order(files: Sequence[str], filesystem: pafs.FileSystem) -> list[str]:
    """By their lowest ``row_id``."""
    first: dict[str, int] = {}
    for number, path in enumerate(files, 1):
        first[path] = _first_row(path, filesystem)
        if number % _FOOTERS == 0:
            give_back()
    return sorted(first, key=lambda path: first[path])


def _first_row(path: str, filesystem: pafs.FileSystem) -> int:
    """The lowest ``row_id`` in a file, from its footer."""
    with filesystem.open_input_file(path) as source:
        metadata = pq.read_metadata(source)
    at = metadata.schema.names.index("row_id") if metadata.num_row_groups else 0
    found = [metadata.row_group(i).column(at).statistics for i in range(metadata.num_row_groups)]
    return min((s.min for s in found if s is not None and s.has_min_max), default=0)
