"""What the files of a finished table are: kept beside the table, so that a lost or changed file is noticed.

A record holds of every file its bytes, its rows, a digest of its end (a Parquet file's end is its footer: where each
column lies, how many values it has, their smallest and largest) and one of all its bytes. The first and the third are
compared by every job that reads the table, at one short read a file: a file that is missing, cut off, new or exchanged
is noticed, and nearly every edit. The last is for ``verify``: it finds any changed byte. Nothing is signed: who can
write the files can write the record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

import pyarrow.fs as pafs
import pyarrow.parquet as pq

_TAIL = 2**16  # bytes; the footer of a file of ours has some 20,000, that of a very wide table more
_CHUNK = 2**22
_THREADS = 8  # hashing and reading leave the interpreter to others


class FileRecord(TypedDict):
    """One file: its size in bytes, its rows, and the digests (hexadecimal) of its last 64 KiB and of all its bytes."""

    bytes: int
    rows: int
    tail: str
    digest: str


Records = dict[str, FileRecord]
"""Name of a file -> what it is."""


def record(paths: Sequence[str], fs: pafs.FileSystem) -> Records:
    """Read every file once, and say what it is. O(bytes): about a second a gigabyte and core."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda path: _record(path, fs), paths)
        return {path.rpartition("/")[2]: one for path, one in zip(paths, found, strict=True)}


def _record(path: str, fs: pafs.FileSystem) -> FileRecord:
    with fs.open_input_file(path) as file:
        rows = int(pq.read_metadata(file).num_rows)
        return {"bytes": file.size(), "rows": rows, "tail": _tail(file), "digest": _whole(file)}


def _tail(file: pafs.NativeFile) -> str:
    size = file.size()
    length = min(size, _TAIL)
    return hashlib.blake2b(file.read_at(length, size - length), digest_size=8).hexdigest()


def _whole(file: pafs.NativeFile) -> str:
    seen = hashlib.blake2b(digest_size=16)
    file.seek(0)
    while chunk := file.read_buffer(_CHUNK):
        seen.update(chunk)
    return seen.hexdigest()


def differences(
    records: Mapping[str, FileRecord], folder: str, fs: pafs.FileSystem, thorough: bool = False
) -> Iterator[str]:
    """What is not as it was when the record was made, a line for each file.

    Args:
        folder: where the files are; other files than Parquet do not count.
        thorough: compare every byte, not only sizes and ends.
    """
    infos = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    here = {info.base_name: info for info in infos if info.base_name.endswith(".parquet")}
    for name in sorted(records.keys() - here.keys()):
        yield f"{name} is missing, with {records[name]['rows']} rows"
    for name in sorted(here.keys() - records.keys()):
        yield f"{name} is no file of the table"
    both = sorted(records.keys() & here.keys())
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from filter(None, pool.map(lambda name: _difference(name, records[name], here[name], fs, thorough), both))


_same: set[tuple[str, int, int, str]] = set()  # files that were compared before, by path, size, time and digest


def _difference(name: str, before: FileRecord, info: pafs.FileInfo, fs: pafs.FileSystem, thorough: bool) -> str | None:
    if info.size != before["bytes"]:
        return f"{name} has {info.size} bytes; it had {before['bytes']}"
    key = (info.path, info.size, info.mtime_ns or 0, before["tail"])
    if key in _same and not thorough:
        return None
    with fs.open_input_file(info.path) as file:
        if _tail(file) != before["tail"] or (thorough and _whole(file) != before["digest"]):
            return f"{name} was changed, or exchanged for another file"
    if info.mtime_ns:
        _same.add(key)
    return None
