"""The export's folder: shards of every split, and the switch from temporary to final."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.core.errors import ConfigError, StorageError
from pipeline.core.folder import RunFolder
from pipeline.jobs.export.formats import Record, to_table

CARD, DATA = "README.md", "data"
MARK = "<!-- written by lemonpress export -->"
"""A line of the card: only a folder that has it is ever replaced."""

_BATCH = 1024  # records of a row group: what is held in memory per split


class SplitWriter:
    """Writes one split, a row group at a time, into ``data/SPLIT-00000-of-00003-DIGEST.parquet`` and so on.

    The digest is of the split's bytes. The card's patterns have it, and ``datasets`` caches a local folder by its last
    name and these patterns only: without it, whoever loads one export would be given another one from the cache.

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

    def finish(self) -> str:
        """Close, and give the files their final names; returns the pattern that means just these files."""
        self.close()
        whole = hashlib.blake2b(digest_size=6)
        for path in self.shards:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, hashlib.blake2b).digest())
        end = f"of-{len(self.shards):05d}-{whole.hexdigest()}.parquet"
        for i, path in enumerate(self.shards):
            path.rename(self.folder / f"{self.split}-{i:05d}-{end}")
        return f"{self.folder.name}/{self.split}-*-{end}"


def check_target(target: RunFolder) -> None:
    """Refuse to replace anything but an earlier export.

    Raises:
        ConfigError: something else lies there.
        StorageError: the store cannot be reached.
    """
    with _reached(target):
        kind = target.fs.get_file_info(target.root).type
        names = target.names() if kind == pafs.FileType.Directory else set()
        ours = CARD in names and _has_mark(target)
    if kind == pafs.FileType.NotFound or (kind == pafs.FileType.Directory and not names):
        return
    if not ours or not names <= {CARD, DATA, ".cache"}:
        raise ConfigError(f"export.output: {target.name} holds something else than an export; choose another folder")


def _has_mark(target: RunFolder) -> bool:
    with target.fs.open_input_stream(target.path(CARD)) as stream:
        return MARK.encode() in stream.read()


@contextmanager
def replacing(target: RunFolder) -> Iterator[Path]:
    """A temporary local folder that becomes ``target`` when the block ends well, and is removed when it does not.

    Raises:
        ConfigError, StorageError: as :func:`check_target`.
    """
    check_target(target)
    with _renamed(Path(target.root)) if target.is_local else _uploaded(target) as folder:
        yield folder
        check_target(target)


@contextmanager
def _renamed(target: Path) -> Iterator[Path]:
    """A sibling of the target: a reader sees the old export or the new one, save between two renames."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (target.parent / f".{target.name}.{os.getpid()}.{end}" for end in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _uploaded(target: RunFolder) -> Iterator[Path]:
    """A folder of this machine: object stores rename nothing, so the card says when the files are not whole."""
    with tempfile.TemporaryDirectory(prefix="lemonpress-export-") as name:
        folder = Path(name)
        yield folder
        with _reached(target):
            target.write_text(f"{MARK}\n\nThis export is not whole: it is being written, or that broke off.\n", CARD)
            target.remove(DATA)
            target.make(DATA)
            for path in sorted((folder / DATA).iterdir()):
                pafs.copy_files(
                    str(path),
                    target.path(DATA, path.name),
                    source_filesystem=pafs.LocalFileSystem(),
                    destination_filesystem=target.fs,
                )
            target.write_text((folder / CARD).read_text(encoding="utf-8"), CARD)


@contextmanager
def _reached(target: RunFolder) -> Iterator[None]:
    """A store's errors have no ``errno`` and long texts: one line, and what to do."""
    try:
        yield
    except OSError as error:
        if target.is_local:
            raise
        line = str(error).splitlines()[0]
        raise StorageError(f"export.output: {target.name}: {line}; the same command writes it again") from error
