"""A run's folder: local path or any URI that ``pyarrow.fs`` opens.

``config.yaml`` (resolved), ``manifest.json``, ``prompts/ candidates/ selections/ games/`` (shards and layers, Parquet:
:mod:`pipeline.core.layers`), ``report/``, ``work/`` (what passes keep while they work).

A table is finished when its record ``_complete.json`` exists, which names the shards and the layers that it is made of;
readers refuse it before. It is written once all of them are there, in one piece: a reader sees the table before or
after, never half of it.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.core import digests, tables
from pipeline.core.errors import ConfigError, InputError, StorageError, UnfinishedTableError, first_line
from pipeline.core.layers import FILES, TABLES, Laid
from pipeline.core.reading import Table, Wanted
from pipeline.core.remote import is_uri, open_uri
from pipeline.core.safety import json_text

MARKER = "_complete.json"
_MARKED: dict[str, type] = {
    **dict.fromkeys(("fingerprint_hash", "lemonpress"), str),
    **dict.fromkeys(("fingerprint", "files", "report", "passes"), dict),
    **dict.fromkeys(("sizes", "layers"), list),
}
"""Type of what a table's record may hold, beside its ``rows``."""
_NOTED = ("engines", "passes", "jobs", "templates", "tables", "costs")
"""Maps of a manifest; the first three are maps of maps."""


class RunFolder:
    """Paths and small files of one run.

    Args:
        path: local path or URI (``s3://bucket/run``).
        key: the config's key for it, for messages.

    Raises:
        ConfigError: a URI that cannot be opened, or that carries credentials.

    Attributes:
        checks: whether a table is refused whose files are not those that the job wrote; ``verify`` looks at it all the
            same, and says what it finds.
    """

    def __init__(self, path: str, key: str = "out") -> None:
        self.name = path
        self.checks = True
        if is_uri(path):
            self.fs, self.root = open_uri(path, key)
        else:
            self.fs, self.root = pafs.LocalFileSystem(), str(Path(path).expanduser().resolve())
        self._home = os.path.realpath(self.root) if self.is_local else self.root

    @property
    def is_local(self) -> bool:
        """Whether the run lies on this machine's file system."""
        return isinstance(self.fs, pafs.LocalFileSystem)

    def inside(self, *parts: str) -> RunFolder:
        """A run of its own in a folder of this one, such as ``work/read``; what leads out of this one, it refuses too.

        Raises:
            InputError: the folder is a link that leads out of this one.
        """
        run = copy(self)
        run.name = f"{self.name.rstrip('/')}/{'/'.join(parts)}" if self.is_local else self.uri(*parts)
        run.root, run.checks = self.path(*parts), True
        return run

    def uri(self, *parts: str) -> str:
        """A path below the run's root that another process can open: a local path, or the run's URI with it."""
        if self.is_local:
            return self.path(*parts)
        whole = urlsplit(self.name)
        return whole._replace(path="/".join([whole.path.rstrip("/"), *parts])).geturl()

    def path(self, *parts: str) -> str:
        """A path below the run's root, as ``self.fs`` takes it.

        Raises:
            InputError: a part would lead out of the folder, by its text or through a link.
        """
        path = self._joined(*parts)
        self._refuse_link_out(path)
        return path

    def _joined(self, *parts: str) -> str:
        if any(".." in part.split("/") or part.startswith("/") or "\0" in part for part in parts):
            raise InputError(f"{'/'.join(parts)!r} leads out of the run's folder {self.name}")
        return "/".join([self.root.rstrip("/"), *parts])

    def _refuse_link_out(self, path: str) -> None:
        """The folder may be a stranger's: a link in it must not make us read, write or delete elsewhere.

        Each part costs one look at the file system; links are followed only where there are any.
        """
        if not self.is_local:
            return
        at = self.root.rstrip("/")
        for name in path.removeprefix(at).strip("/").split("/"):
            at = f"{at}/{name}"
            if os.path.islink(at) and not _lies_in(real := os.path.realpath(at), self._home):
                raise InputError(
                    f"{at}: is a link that leads out of the run's folder, to {real}; put the files themselves there, "
                    "or remove the link"
                )

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder exists.

        Raises:
            StorageError: the store cannot be reached.
        """
        with self._reachable():
            return bool(self.fs.get_file_info(self.path(*parts)).type != pafs.FileType.NotFound)

    def make(self, *parts: str) -> str:
        """Create a folder (and its parents); returns its path.

        Raises:
            StorageError: the store cannot be reached, or has no such bucket.
            ConfigError: a file is where the folder should be.
        """
        try:
            with self._reachable():
                self.fs.create_dir(self.path(*parts), recursive=True)
        except (NotADirectoryError, FileExistsError) as error:
            raise ConfigError(f"{self.name}: is a file, and a run is a folder; name another with out=...") from error
        return self.path(*parts)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """A store's errors in one line: they carry no ``errno``, and their texts are long."""
        try:
            yield
        except OSError as error:
            if self.is_local:
                raise
            raise StorageError(f"{self.root}: {str(error).splitlines()[0]}") from error

    def remove(self, *parts: str) -> None:
        """Delete a folder and what is in it, if it exists."""
        if self.exists(*parts):
            self.fs.delete_dir(self.path(*parts))

    def remove_file(self, *parts: str) -> None:
        """Delete a file, if it exists."""
        if self.exists(*parts):
            self.fs.delete_file(self.path(*parts))

    def read_text(self, *parts: str) -> str | None:
        """A small file's text, or ``None`` when there is none."""
        if not self.exists(*parts):
            return None
        with self.fs.open_input_stream(self.path(*parts)) as stream:
            return bytes(stream.read()).decode("utf-8")

    def write_text(self, text: str, *parts: str) -> str:
        """Write a small file so that a reader sees the old or the new text, never half of it; returns its path."""
        target = self._joined(*parts)
        self._refuse_link_out(target.rpartition("/")[0])
        self.fs.create_dir(target.rpartition("/")[0], recursive=True)
        with self.whole(*parts) as path, self.fs.open_output_stream(path) as stream:
            stream.write(text.encode("utf-8", "replace"))
        return target

    @contextmanager
    def whole(self, *parts: str) -> Iterator[str]:
        """Where to write a file that is to be there whole, or not at all; its folder must exist.

        Nobody can have put a link where it is written: the name is drawn anew each time. One in the place of the file
        itself is replaced, not followed.
        """
        target = self._joined(*parts)
        self._refuse_link_out(target.rpartition("/")[0])
        if not self.is_local:  # object stores replace objects atomically
            yield target
            return
        folder, _, name = target.rpartition("/")
        temporary = f"{folder}/.{name[:200]}.{secrets.token_hex(8)}.tmp"
        try:
            yield temporary
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.remove(temporary)
            raise

    def read_json(self, *parts: str) -> Any:
        """A small JSON file's content, or ``None`` when there is none.

        Raises:
            InputError: it is no JSON.
        """
        try:
            text = self.read_text(*parts)
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path(*parts)}: not valid JSON: {first_line(error)}") from error

    def write_json(self, value: Any, *parts: str) -> str:
        """Write a small JSON file atomically; returns its path."""
        return self.write_text(json_text(value) + "\n", *parts)

    def marker(self, table: str) -> dict[str, Any] | None:
        """A table's record (rows, shards' sizes, layers, what its passes did ...), or ``None`` while it is unfinished.

        Raises:
            InputError: it is damaged.
        """
        marker: dict[str, Any] | None = self.read_json(table, MARKER)
        if marker is None:
            return None
        fits = isinstance(marker, dict) and isinstance(marker.get("rows"), int) and marker["rows"] >= 0
        fits = fits and all(isinstance(marker[name], _MARKED[name]) for name in _MARKED.keys() & marker.keys())
        if not fits or not all(isinstance(n, int) and n > 0 for n in marker.get("sizes", ())):
            raise InputError(f"{self.path(table, MARKER)}: is no record of a finished table")
        return marker

    def manifest(self) -> dict[str, Any]:
        """What the run's jobs noted in ``manifest.json``; empty where there is none.

        Raises:
            InputError: it is no such file.
        """
        manifest = self.read_json("manifest.json")
        if manifest is None:
            return {}
        known: list[Any] = [manifest.get(name, {}) for name in _NOTED] if isinstance(manifest, dict) else [None]
        if not _are_maps(known) or not all(_are_maps(part.values()) for part in known[:3]):
            raise InputError(f"{self.path('manifest.json')}: is no manifest of a run")
        return dict(manifest)

    def parquet_files(self, *parts: str) -> list[str]:
        """The Parquet files in a folder, sorted; none where there is no folder."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path(*filter(None, parts)), allow_not_found=True))
        found = sorted(i.path for i in infos if i.base_name.endswith(".parquet"))
        for path in found:
            self._refuse_link_out(path)
        return found

    def names(self, *parts: str) -> set[str]:
        """Names of the files and folders in a folder; none where there is no folder."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path(*parts), allow_not_found=True))
        return {i.base_name for i in infos}

    def subfolders(self, *parts: str) -> list[str]:
        """Names of the folders in a folder, sorted; none where there is no folder."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path(*parts), allow_not_found=True))
        return sorted(i.base_name for i in infos if i.type == pafs.FileType.Directory)

    def complete(self, table: str, record: dict[str, Any]) -> None:
        """Write the record of a finished table; that of ``prompts`` with what its files are."""
        files = {"files": digests.record(self.files(table), self.fs)} if table == TABLES[0] else {}
        self.write_json({**record, **files}, table, MARKER)

    def layers(self, table: str) -> list[Laid]:
        """The layers of a finished table and of those before it, from the first to the last.

        Raises:
            InputError: its record is damaged.
        """
        try:
            return [Laid.from_json(each) for each in (self.marker(table) or {}).get("layers", ())]
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.path(table, MARKER)}: what it says of layers is damaged") from error

    def files(self, table: str) -> list[str]:
        """The Parquet files of a finished table's own, without those of the tables before it."""
        if table == TABLES[0]:
            return self.parquet_files(table)
        mine = [laid.name for laid in self.layers(table) if laid.table == table]
        return [path for name in mine for path in self.parquet_files(table, name)]

    def changes(self, table: str, thorough: bool = False) -> list[str]:
        """What of a finished table's own files is not as it was when they were recorded.

        Args:
            thorough: compare every byte, not only names, sizes and ends.
        """
        folders = [laid.name for laid in self.layers(table) if laid.table == table]
        if table == TABLES[0]:
            return self._changes((table,), (self.marker(table) or {}).get("files"), thorough)
        found = []
        for name in folders:
            lines = self._changes((table, name), self.read_json(table, name, FILES), thorough)
            found += [f"{name}/{line}" for line in lines]
        return found

    def _changes(self, parts: Sequence[str], records: Any, thorough: bool) -> list[str]:
        if records is None:
            return ["the record of its files is missing"]
        try:
            self.parquet_files(*parts)  # none of them is a link that leads elsewhere
            return list(digests.differences(records, self.path(*parts), self.fs, thorough))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.path(*parts)}: what is recorded of its files is damaged") from error

    def dataset(self, table: str) -> Table:
        """A finished table, opened lazily.

        Raises:
            UnfinishedTableError: its job has not finished (or never ran).
            InputError: its files, or those of the tables before it, are not those that the jobs wrote.
        """
        marker = self.marker(table)
        if marker is None:
            state = "is not finished" if self.exists(table) else "does not exist"
            raise UnfinishedTableError(f"{self.path(table)} {state}: run the job that writes it (again), it resumes")
        if self.checks:
            self._check(table)
        if marker["rows"] != sum(marker.get("sizes", ())):
            raise InputError(f"{self.path(table, MARKER)}: its shards' sizes are not those of {marker['rows']} rows")
        return Table(self, marker["sizes"], self.layers(table), self.path(table))

    def _check(self, table: str) -> None:
        for each in TABLES[: TABLES.index(table) + 1]:
            if self.marker(each) is not None and (changes := self.changes(each)):
                more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
                raise InputError(
                    f"{self.path(each)}: {changes[0]}{more}; put the files back, or remove what is left of it and run "
                    "the job that writes it again"
                )

    def iter_rows(self, table: str, columns: Sequence[str], batch_size: int = 1024) -> Iterator[dict[str, Any]]:
        """Stream a finished table as dicts, reading only ``columns`` that it has; memory stays flat."""
        return self.dataset(table).rows(columns, batch_size)

    def read_table(self, *parts: str) -> pa.Table | None:
        """A small Parquet file, or ``None`` when there is none."""
        return tables.read_file(self.path(*parts), self.fs) if self.exists(*parts) else None

    def leaves(self, table: str, wanted: Wanted, batch_size: int = 1024) -> Iterator[pa.RecordBatch]:
        """Stream a finished table, reading only some leaves of its nested columns.

        Args:
            wanted: called with a column's name and a leaf's (empty for a plain column).
        """
        return self.dataset(table).batches(None, wanted, batch_size=batch_size)

    def table(self, table: str, columns: Sequence[str]) -> pa.Table:
        """The projection of a finished table on ``columns`` that it has, by ``row_id``."""
        return self.dataset(table).to_table(columns)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _are_maps(values: Iterable[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)
