"""Texts by prompt id, in an Arrow file below the run's folder that every worker maps into memory."""

from __future__ import annotations

import hashlib
import tempfile
from bisect import bisect_left
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.ipc

from pipeline.core import tables
from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder

_SCHEMA = pa.schema([("prompt_id", pa.string()), ("text", pa.string())])
_BATCH = 1000


def write_lookup(run: RunFolder, name: str, pairs: Iterable[tuple[str, str | None]]) -> tuple[int, str]:
    """Store (prompt_id, text) pairs as they stream by.

    Returns:
        How many there are, and a digest of them.

    Raises:
        InputError: there is none.
    """
    run.make("work", "answers")
    seen, count, items = hashlib.blake2b(digest_size=16), 0, iter(pairs)
    with run.fs.open_output_stream(_path(run, name)) as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        while batch := list(islice(items, _BATCH)):
            count += len(batch)
            seen.update(repr(batch).encode("utf-8", "surrogatepass"))
            ids, texts = zip(*batch, strict=True)
            writer.write_batch(pa.record_batch([pa.array(ids, pa.string()), pa.array(texts, pa.string())], _SCHEMA))
    if not count:
        raise InputError(f"answers.{name}: there is no answer")
    return count, seen.hexdigest()


class Lookup:
    """Finds texts in what :func:`write_lookup` stored: 8 bytes of memory a prompt, the texts stay on disk.

    A file that is not on this machine's file system is copied to a temporary folder first.
    """

    def __init__(self, run: RunFolder, name: str) -> None:
        path = _path(run, name)
        self._copy = None
        if not run.is_local:
            self._copy = tempfile.TemporaryDirectory(prefix="lemonpress-answers-")
            local = str(Path(self._copy.name, "answers.arrow"))
            pafs.copy_files(path, local, source_filesystem=run.fs, destination_filesystem=pafs.LocalFileSystem())
            path = local
        with tables.reading(path), pa.ipc.open_file(pa.memory_map(path)) as file:
            if file.schema != _SCHEMA:
                raise InputError(
                    f"{path}: holds {file.schema.names}, not {_SCHEMA.names}; remove it, and run judge again"
                )
            table = file.read_all()
        self._ids, self._texts = table.column("prompt_id"), table.column("text")
        self._order = pc.sort_indices(self._ids).to_numpy()

    def get(self, prompt_id: str) -> str | None:
        """The text, ``None`` where there is none. O(log n)."""
        at = bisect_left(self._order, prompt_id, key=self._id)
        if at == len(self._order) or self._id(self._order[at]) != prompt_id:
            return None
        text: str | None = self._texts[int(self._order[at])].as_py()
        return text

    def _id(self, row: int) -> str:
        return str(self._ids[int(row)].as_py())


def _path(run: RunFolder, name: str) -> str:
    return run.path("work", "answers", f"{name}.arrow")
