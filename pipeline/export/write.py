"""The export's folder: shards of every split, and the switch from temporary to final."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.export.formats import Record, to_table

CARD = "README.md"
MARK = "<!-- written by lemonpress export -->"
"""A line of the card: only a folder that has it is ever replaced."""

_BATCH = 1024  # records of a row group: what is held in memory per split


class SplitWriter:
    """Writes one split, a row group at a time, into ``data/SPLIT-00000-of-00003.parquet`` and so on.

    Args:
        folder: the export's ``data`` folder.
        split: its name.
        schema: of the records.
        rows_per_shard: records per file.
    """

    def __init__(self, folder: Path, split: str, schema: pa.Schema, rows_per_shard: int) -> None:
        self.folder, self.split, self.schema, self.rows_per_shard = folder, split, schema, rows_per_shard
        self.rows = 0
        self.shards: list[Path] = []
        self._waiting: list[Record] = []
        self._file: pq.ParquetWriter | None = None

    def add(self, record: Record) -> None:
        """Write a record, sooner or later."""
        self._waiting.append(record)
        self.rows += 1
        full = self.rows % self.rows_per_shard == 0
        if full or len(self._waiting) >= _BATCH:
            self._flush()
        if full:
            self.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._file is None:
            self.shards.append(self.folder / f"{self.split}-{len(self.shards):05d}.parquet")
            self._file = pq.ParquetWriter(self.shards[-1], self.schema, compression="zstd")
        self._file.write_table(to_table(self._waiting, self.schema))
        self._waiting = []

    def close(self) -> None:
        """Write what waits and close the open file."""
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> None:
        """Close, and give the files their final names, which tell how many there are."""
        self.close()
        for i, path in enumerate(self.shards):
            path.rename(self.folder / f"{self.split}-{i:05d}-of-{len(self.shards):05d}.parquet")


def check_target(target: Path) -> None:
    """Refuse to replace anything but an earlier export.

    Raises:
        ConfigError: something else lies there.
    """
    if not target.exists() and not target.is_symlink():
        return
    known = {CARD, "data", ".cache"}
    card = target / CARD
    if target.is_dir() and not target.is_symlink():
        names = {entry.name for entry in target.iterdir()}
        if not names or (names <= known and card.is_file() and MARK in card.read_text("utf-8", "replace")):
            return
    raise ConfigError(f"export.output: {target} holds something else than an export; choose another folder")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary sibling folder that becomes ``target`` when the block ends well, and is removed when it does not.

    A reader sees the old export or the new one, save for the moment between two renames.

    Raises:
        ConfigError: as :func:`check_target`.
    """
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (target.parent / f".{target.name}.{os.getpid()}.{end}" for end in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        check_target(target)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
