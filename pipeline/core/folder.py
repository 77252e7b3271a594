"""A run's folder: local path or any URI that ``pyarrow.fs`` opens.

``config.yaml`` (resolved), ``manifest.json``, ``prompts/ candidates/ selections/ games/`` (Parquet), ``report/``,
``work/`` (checkpoints and intermediate tables). A table is finished when its completion marker
``_complete.json`` exists; readers refuse it before.

The marker is also the pointer to the table's current version: its ``folder`` names the subfolder that holds the files
(missing: the table's folder itself). A pass writes its blocks, and what it compacts them into, next to that; the one
atomic write of the marker switches readers over, and only then is the version before removed. So there is a readable
table at any moment, and a reader that has a version open while it is replaced must open the table again.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.core import digests, tables
from pipeline.core.errors import InputError, StorageError, UnfinishedTableError, first_line
from pipeline.core.remote import is_uri, open_uri
from pipeline.core.safety import json_text
from pipeline.core.schema import read_provenance

if TYPE_CHECKING:  # it loads pandas, and the config imports this module
    import pyarrow.dataset as pads

MARKER = "_complete.json"
BLOCKS = "blocks-"
"""Begins the name of the subfolder in which a pass writes the blocks of a table's next version."""
VERSION = "v"
"""Begins the name of the subfolder of a compacted version; both names end with the version's number, from 1."""

TABLES = ("prompts", "candidates", "selections", "games")
"""The run's tables in the order in which passes append to the rows."""


_MARKED: dict[str, type] = {
    **dict.fromkeys(("folder", "fingerprint_hash", "root", "lemonpress"), str),
    **dict.fromkeys(("fingerprint", "files", "made", "report", "passes", "summary"), dict),
    **{"version": int, "earlier": list},
}
"""Type of what a completion marker may hold, beside its ``rows``."""
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
        """
        with self._reachable():
            self.fs.create_dir(self.path(*parts), recursive=True)
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
        """A table's completion marker (rows, fingerprint, summary ...), or ``None`` while it is unfinished."""
        marker: dict[str, Any] | None = self.read_json(table, MARKER)
        if marker is None:
            return None
        fits = isinstance(marker, dict) and isinstance(marker.get("rows"), int) and marker["rows"] >= 0
        if not fits or not all(isinstance(marker[name], _MARKED[name]) for name in _MARKED.keys() & marker.keys()):
            raise InputError(f"{self.path(table, MARKER)}: is no completion marker")
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

    def data_files(self, table: str) -> list[str]:
        """The Parquet files of the table's current version, sorted."""
        return self.parquet_files(table, (self.marker(table) or {}).get("folder", ""))

    def parquet_files(self, *parts: str) -> list[str]:
        """The Parquet files in a folder, sorted; none where there is no folder."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path(*filter(None, parts)), allow_not_found=True))
        found = sorted(i.path for i in infos if i.base_name.endswith(".parquet"))
        for path in found:
            self._refuse_link_out(path)
        return found

    def block_files(self, table: str) -> list[str]:
        """The files that an unfinished pass has committed so far towards the table's next version, sorted."""
        folders = [name for name in self.subfolders(table) if name.startswith(BLOCKS)]
        old = [] if self.exists(table, MARKER) else self.parquet_files(table)  # where earlier versions put blocks
        return sorted([*old, *(path for name in folders for path in self.parquet_files(table, name))])

    def names(self, *parts: str) -> set[str]:
        """Names of the files and folders in a folder; none where there is no folder."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path(*parts), allow_not_found=True))
        return {i.base_name for i in infos}

    def subfolders(self, *parts: str) -> list[str]:
        """Names of the folders in a folder, sorted; none where there is no folder."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path(*parts), allow_not_found=True))
        return sorted(i.base_name for i in infos if i.type == pafs.FileType.Directory)

    def complete(self, table: str, marker: dict[str, Any]) -> None:
        """Write a table's completion marker, with what its files are (:mod:`pipeline.core.digests`)."""
        files = self.parquet_files(table, marker.get("folder", ""))
        self.write_json({**marker, "files": digests.record(files, self.fs)}, table, MARKER)

    def changes(self, table: str, thorough: bool = False) -> list[str]:
        """What of a finished table's files is not as the job left it; nothing where its marker does not tell.

        Args:
            thorough: compare every byte, not only names, sizes and ends.
        """
        marker = self.marker(table) or {}
        if "files" not in marker:
            return []
        try:
            self.data_files(table)  # none of them is a link that leads elsewhere
            folder = self.path(*filter(None, (table, marker.get("folder", ""))))
            return list(digests.differences(marker["files"], folder, self.fs, thorough))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.path(table, MARKER)}: what it says of the table's files is damaged") from error

    def switch(self, table: str, marker: dict[str, Any]) -> None:
        """Make ``marker["folder"]`` the table's current version, then remove the versions before it."""
        self.complete(table, marker)
        self.tidy(table)

    def tidy(self, table: str) -> None:
        """Remove what a crash right after :meth:`switch` left behind; blocks of the next version stay."""
        marker = self.marker(table)
        if not marker or not marker.get("folder"):
            return
        for name in self.subfolders(table):
            version = re.fullmatch(rf"(?:{BLOCKS}|{VERSION})(\d+)", name)
            if version and name != marker["folder"] and int(version[1]) <= marker.get("version", 0):
                self.remove(table, name)
        for path in self.parquet_files(table):
            self.fs.delete_file(path)

    def dataset(self, table: str) -> pads.Dataset:
        """A finished table, opened lazily.

        Raises:
            UnfinishedTableError: its pass has not finished (or never ran).
            InputError: it was written by a newer major version of the schema; or its files are not those that the job
                wrote.
        """
        if self.marker(table) is None:
            state = "is not finished" if self.exists(table) else "does not exist"
            raise UnfinishedTableError(f"{self.path(table)} {state}: run the job that writes it (again), it resumes")
        if self.checks and (changes := self.changes(table)):
            more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
            raise InputError(
                f"{self.path(table)}: {changes[0]}{more}; put the table's files back, or remove the folder and run the "
                "job that writes it again"
            )
        files = self.data_files(table)
        if not files:
            raise InputError(f"{self.path(table)}: marked complete, but holds no Parquet file")
        data = tables.open_dataset(files, self.fs, self.path(table))
        read_provenance(data.schema, self.path(table))
        return data

    def iter_rows(self, table: str, columns: Sequence[str], batch_size: int = 1024) -> Iterator[dict[str, Any]]:
        """Stream a finished table as dicts, reading only ``columns`` that it has; memory stays flat."""
        data = self.dataset(table)
        names = [c for c in columns if c in data.schema.names]
        batches = data.to_batches(columns=names, batch_size=batch_size, batch_readahead=2, fragment_readahead=2)
        for batch in tables.whole(batches, self.path(table)):
            yield from batch.to_pylist()

    def read_table(self, *parts: str) -> pa.Table | None:
        """A small Parquet file, or ``None`` when there is none."""
        return tables.read_file(self.path(*parts), self.fs) if self.exists(*parts) else None

    def leaves(self, table: str, wanted: Callable[[str, str], bool], batch_size: int = 256) -> Iterator[pa.RecordBatch]:
        """Stream a finished table, reading only some leaves of its nested columns.

        A dataset cannot leave out the texts inside a list of structs, a Parquet file can.

        Args:
            wanted: called with a column's name and a leaf's (empty for a plain column).
        """
        for path in self.dataset(table).files:
            with tables.open_file(path, self.fs) as file:
                tables.own_schema(file.schema_arrow, path, exactly=True)
                paths = [file.schema.column(i).path for i in range(len(file.schema))]
                columns = [p for p in paths if wanted(*_leaf(p))]
                yield from file.iter_batches(batch_size, columns=columns)

    def table(self, table: str, columns: Sequence[str]) -> pa.Table:
        """The projection of a finished table on ``columns`` that it has, sorted by ``row_id`` when it is among them."""
        data = self.dataset(table)
        with tables.reading(self.path(table)):
            result = data.to_table(columns=[c for c in columns if c in data.schema.names])
        return result.sort_by("row_id") if "row_id" in result.column_names else result


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _are_maps(values: Iterable[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _leaf(path: str) -> tuple[str, str]:
    """``candidates.list.element.text`` -> (``candidates``, ``text``)."""
    top, _, rest = path.partition(".")
    return top, rest.rpartition(".")[2]
