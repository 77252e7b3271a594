"""What a pass reads."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray.data

from pipeline.core import tables
from pipeline.core.folder import RunFolder

_READERS = "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS"
_FILES_PER_READER = 100
_MOST_READERS = 32


def read_table(run: RunFolder, table: str) -> ray.data.Dataset:
    """A run's table as a Ray dataset, file by file."""
    files = run.data_files(table)
    tables.check_files(files, run.fs)  # Ray Data registers a type that unpickles, in every process of its own
    with _readers(len(files)):
        return ray.data.read_parquet(files, filesystem=run.fs)


@contextmanager
def _readers(files: int) -> Iterator[None]:
    """Have Ray Data start as many readers of Parquet footers as the files need, unless the user has set a number.

    Ray 2.60 starts 32 processes before it reads even a single file
    (ray/data/_internal/datasource_v2/formats/parquet/footer_file_indexer.py), which on two cores took longer than all
    the rest of a small pass. It looks the number up when the dataset is made.
    """
    if _READERS in os.environ:
        yield
        return
    os.environ[_READERS] = str(max(1, min(_MOST_READERS, math.ceil(files / _FILES_PER_READER))))
    try:
        yield
    finally:
        del os.environ[_READERS]
