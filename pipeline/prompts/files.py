"""Opens a source through ``datasets``, which memory-maps it: local files and hub data sets become pieces."""

from __future__ import annotations

import codecs
import contextlib
import glob
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import tables
from pipeline.core.errors import ConfigError, InputError, LemonpressError, first_line, nearest
from pipeline.core.hashing import digest
from pipeline.core.languages import is_known
from pipeline.core.remote import is_uri, local_copies, origin, refuse_links_out
from pipeline.prompts.lines import GZIP, check_text, parse_lines, undecodable_line
from pipeline.prompts.separated import pandas_options
from pipeline.prompts.sources import ExampleSource, FileSource, HubSource, SourceConfig

if TYPE_CHECKING:  # importing it takes a second, which a finished table need not pay
    from datasets import Dataset, Features

EXAMPLES = Path(__file__).with_name("examples.jsonl")
_ENDINGS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}

_UNKNOWN = {"arrow.uuid", "arrow.bool8", "arrow.fixed_shape_tensor"}  # to datasets, which reads their storage types
_PARQUET = b"PAR1"  # how such files begin

Record = dict[str, Any]

_BATCH = 1000


@dataclass
class Piece:
    """One file, or one configuration of a hub data set.

    Attributes:
        name: path or ``dataset/configuration``, for messages.
        opened: the rows; one column ``text`` when ``lines``. ``None``: they are mapped when they are asked for.
        features: of the rows.
        size: how many there are; of JSON Lines, blank lines count.
        language: of rows without a language column.
        lines: the rows are JSON texts.
        copies: Arrow files that hold all rows and nothing else, in order; empty where there are none.
    """

    name: str
    opened: Dataset | None
    features: Features
    size: int
    language: str | None = None
    lines: bool = False
    copies: Sequence[str] = ()

    @property
    def schema(self) -> pa.Schema:
        """The columns, unless ``lines``."""
        return self.features.arrow_schema

    def take(self, rows: Sequence[int], names: Iterable[str]) -> list[Record]:
        """The columns ``names`` of some rows by position (of JSON Lines: all columns, and blank lines count)."""
        return [item for _, item, _ in self.records(self._mapped.with_format("arrow")[list(rows)], names)]

    def tables(self) -> Iterator[pa.Table]:
        """The rows in batches.

        A local file's are read from the library's copy of it: going over the mapped copy would leave all of it in this
        process's memory.
        """
        if not self.copies:
            yield from self._mapped.with_format("arrow").iter(_BATCH)
        for path in self.copies:
            with pa.OSFile(path) as file, pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    for start in range(0, batch.num_rows, _BATCH):
                        yield pa.Table.from_batches([batch.slice(start, _BATCH)])

    @cached_property
    def _mapped(self) -> Dataset:
        if self.opened is not None:
            return self.opened
        import datasets

        return datasets.concatenate_datasets([datasets.Dataset.from_file(path) for path in self.copies])

    def records(
        self, table: pa.Table, names: Iterable[str], before: int = 0
    ) -> Iterator[tuple[int, Record, str | None]]:
        """Every row of a batch that has ``before`` rows before it.

        Returns:
            Its position in the piece, the columns ``names`` that it has (all of them in JSON Lines) as Python values,
            and the line itself where lone surrogates were replaced.
        """
        if self.lines:
            yield from parse_lines(self.name, before, table)
            return
        found = [name for name in dict.fromkeys(names) if name in table.column_names]
        columns = self.features.decode_batch(table.select(found).to_pydict())  # the hub's JSON columns
        for i in range(table.num_rows):
            yield before + i, {name: columns[name][i] for name in found}, None


def local_files(source: SourceConfig, base: Path) -> list[tuple[Path, str | None]]:
    """The files of a source in reading order, each with the language that ``paths`` gives it; copies of remote ones.

    Raises:
        ConfigError: neither or both of ``path`` and ``paths`` are set, or there is no such file.
    """
    if isinstance(source, ExampleSource):
        return [(EXAMPLES, None)]
    if not isinstance(source, FileSource):
        return []
    if bool(source.path) == bool(source.paths):
        raise ConfigError("prompts.path: set either path (a file, folder or glob) or paths (language: file)")
    if source.path:
        if is_uri(source.path):
            every = local_copies(source.path, "prompts.path", lambda name: _fits(Path(name), source.format))
            return [(path, None) for path in every]
        return [(path, None) for path in _expand(base / Path(source.path).expanduser(), source.format)]
    return [(local_file(base, name, f"prompts.paths.{language}"), language) for language, name in source.paths.items()]


def local_file(base: Path, name: str, key: str) -> Path:
    """One file, named under the config's ``key``: a local one, or the copy of a remote one.

    Raises:
        ConfigError: there is no such file.
    """
    if is_uri(name):
        return local_copies(name, key)[0]
    path = base / Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"{key}: no such file: {path}")
    return path


def _expand(path: Path, format_: str | None) -> list[Path]:
    """The files that ``prompts.path`` means."""
    if path.is_file():
        return [path]
    if path.is_dir():
        known = (p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith((".", "_")))
        found, folder = [p for p in known if _fits(p, format_)], path
    else:
        found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]
        folder = Path(re.split(r"[*?\[]", str(path))[0] + "x").parent  # before the first wildcard
    if not found:
        kinds = format_ or ", ".join(sorted(set(_ENDINGS.values())))
        raise ConfigError(f"prompts.path: {'no ' + kinds + ' file in' if path.is_dir() else 'no such file:'} {path}")
    refuse_links_out(found, folder, "prompts.path")
    return found


def format_of(path: Path, source: SourceConfig) -> str | None:
    """``parquet``, ``jsonl``, ``csv`` or ``tsv``: what the source says, or else the file's ending."""
    return (source.format if isinstance(source, FileSource) else None) or _ending(path)


def _fits(path: Path, format_: str | None) -> bool:
    """Whether a file that was found in a folder is meant."""
    return _ending(path) == format_ if format_ else _ending(path) is not None


def _ending(path: Path) -> str | None:
    return _ENDINGS.get(Path(path.name.removesuffix(".gz")).suffix.lower())


def file_state(source: SourceConfig, path: Path) -> list[str | int]:
    """``[name, size, time of change]`` of a file: what a resume compares.

    The example's time changes with every installation, so its content stands for it.
    """
    if isinstance(source, ExampleSource):
        return [path.name, path.stat().st_size, hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()]
    return [path.name, path.stat().st_size, path.stat().st_mtime_ns]


def open_source(source: SourceConfig, files: Sequence[tuple[Path, str | None]]) -> list[Piece]:
    """Open every file or configuration; empty files are left out.

    Raises:
        ConfigError: the format is unknown, ``header`` does not fit, or the data set cannot be found.
        InputError: a file is corrupt; the message names it, and the line where that is known.
    """
    with _quiet():
        if isinstance(source, HubSource):
            return [_open_hub(source, name) for name in source.names or [""]]
        if not isinstance(source, FileSource | ExampleSource):
            raise ConfigError(f"prompts.kind: {source.kind!r} cannot be read; valid: example, file, hub, run")
        options = source if isinstance(source, FileSource) else FileSource()
        pieces = (_open_file(path, language, options, "prompts.format") for path, language in files)
        return [piece for piece in pieces if piece is not None]


def open_answers(path: Path, key: str) -> Piece | None:
    """Open a file of given answers, named under the config's ``key``; ``None`` when it is empty."""
    with _quiet():
        return _open_file(path, None, FileSource(), key)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, no log lines beside our errors, no request that counts the use of a local file."""
    import datasets

    bars, level = datasets.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()
    counts = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts
        datasets.utils.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


def _open_hub(source: HubSource, name: str) -> Piece:
    import datasets

    if not source.dataset:
        raise ConfigError("prompts.dataset: missing; name a data set on the hub, such as CohereLabs/m-ArenaHard-v2.0")
    if ".." in source.dataset.split("/"):
        raise ConfigError(f"prompts.dataset: {source.dataset!r} leads out of a folder; name a data set on the hub")
    label = f"{source.dataset}/{name}" if name else source.dataset
    try:
        data = datasets.load_dataset(source.dataset, name or None, split=source.split, revision=source.revision)
        tables.check_schema(data.features.arrow_schema, label)
    except InputError:
        raise
    except Exception as error:  # the library raises whatever the network, the files or the names brought up
        raise ConfigError(f"prompts.dataset: cannot load {label} (split {source.split!r}): {cause(error)}") from error
    language = source.language or (name if name and is_known(name) else None)
    return Piece(label, data, plain(data.features), data.num_rows, language)


def _open_file(path: Path, language: str | None, source: FileSource, key: str) -> Piece | None:
    format_ = source.format or _ending(path)
    if format_ is None or format_ not in _ENDINGS.values():
        what = f"unknown format {format_!r}" if format_ else f"cannot tell the format of {path} by its ending"
        raise ConfigError(f"{key}: {what}{nearest(format_ or '', _ENDINGS.values())}")
    if source.header is not None and format_ not in ("csv", "tsv"):
        raise ConfigError(f"prompts.header: only for CSV and TSV files, not for {path}")
    try:
        if _is_empty(path, format_):
            return None
        schema = tables.read_schema(str(path), where=origin(path)) if format_ == "parquet" else None
        if schema is None:
            check_text(path, origin(path))
        data = _load(path, format_, source.header, schema)
    except LemonpressError:
        raise
    except Exception as error:  # the library wraps what the Parquet, CSV and text readers raise
        line = undecodable_line(path) if format_ != "parquet" and isinstance(_innermost(error), UnicodeError) else None
        where = f"{origin(path)}, line {line}" if line else origin(path)
        raise InputError(f"{where}: cannot be read as {format_}: {cause(error)}{_hint(path, format_)}") from error
    if data is None:
        return None
    copies = [file["filename"] for file in data.cache_files]
    # Mapped only where rows are taken by position: a mapping brings 64 KiB into memory wherever it is looked at.
    opened = None if copies else data
    return Piece(origin(path), opened, plain(data.features), data.num_rows, language, format_ == "jsonl", copies)


def plain(features: Features) -> Features:
    """The features, of which only JSON is decoded.

    A file says itself what its columns are: as an ``Image`` or ``Audio`` a path in it would be opened, here or on the
    network, and its content given to a decoder.
    """
    import datasets

    def undecoded(feature: Any) -> Any:
        if isinstance(feature, dict):
            return {name: undecoded(each) for name, each in feature.items()}
        if isinstance(feature, list | tuple):
            return type(feature)(undecoded(each) for each in feature)
        if isinstance(feature, datasets.List | datasets.LargeList):
            return replace(feature, feature=undecoded(feature.feature))
        if hasattr(feature, "decode_example") and not isinstance(feature, datasets.Json):
            copy = deepcopy(feature)
            copy.decode = False
            return copy
        return feature

    return datasets.Features(undecoded(dict(features)))


def _is_empty(path: Path, format_: str) -> bool:
    if format_ == "parquet":
        return path.stat().st_size == 0 or pq.read_metadata(path).num_rows == 0  # the footer's own numbers only
    with path.open("rb") as stream:
        return stream.read(4) in (b"", codecs.BOM_UTF8)


def _hint(path: Path, format_: str) -> str:
    """What the first bytes say that a file really is, where its reader refused it."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "; it is UTF-16: save it as UTF-8"
    if start == _PARQUET and format_ != "parquet":
        return "; it is a Parquet file: rename it, or set format to parquet"
    if start[:2] == GZIP and not path.name.endswith(".gz"):
        return "; it is compressed by gzip: " + ("unpack it" if format_ == "parquet" else "add .gz to its name")
    return "; it is no UTF-8 text: save it as UTF-8" if format_ != "parquet" and undecodable_line(path) else ""


_CHUNK = 2**20  # bytes of text at once, and the rest of the line; the library's own 10 MiB take 10 times as much memory


def _load(path: Path, format_: str, header: list[str] | None, schema: pa.Schema | None) -> Dataset | None:
    import datasets

    builder = {"parquet": "parquet", "jsonl": "text"}.get(format_, "csv")
    options: dict[str, Any] = {"encoding": "utf-8-sig", "chunksize": _CHUNK} if builder == "text" else {}
    if builder == "csv":
        found = pandas_options(path, format_ == "tsv", header)
        if found is None:
            return None
        options = {**found, "features": datasets.Features({c: datasets.Value("string") for c in found["column_names"]})}
    if schema is not None and tables.extensions(schema) & _UNKNOWN:
        options["features"] = datasets.Features.from_arrow_schema(tables.storage_schema(schema))
    # The library's cache goes by path and time of change; the size is our addition.
    name = digest(path.stat().st_size, path.stat().st_mtime_ns, size=6)
    data: Dataset = datasets.load_dataset(
        builder, name=name, data_files={"train": [glob.escape(str(path.resolve()))]}, split="train", **options
    )
    return data


def _innermost(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _innermost(error.__cause__)


def cause(error: BaseException) -> str:
    """First line of the innermost cause."""
    return first_line(_innermost(error))
