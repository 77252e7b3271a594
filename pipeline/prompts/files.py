"""From a source to opened files: which files it means, and each of them, or each hub data set, as a piece."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core import tables
from pipeline.core.errors import ConfigError, InputError, LemonpressError, first_line, nearest
from pipeline.core.languages import is_known
from pipeline.core.remote import is_uri, local_copies, origin, refuse_links_out
from pipeline.prompts.formats import arrow_chunks, json_chunks, parquet_chunks, separated_chunks
from pipeline.prompts.piece import Piece
from pipeline.prompts.sources import SOURCES, ExampleSource, FileSource, HubSource, SourceConfig

_ENDINGS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}
_BATCH = 1000


def local_files(source: SourceConfig, base: Path) -> list[tuple[Path, str | None]]:
    """The files of a source in reading order, each with the language that ``paths`` gives it; copies of remote ones.

    Raises:
        ConfigError: neither or both of ``path`` and ``paths`` are set, or there is no such file.
    """
    if isinstance(source, ExampleSource):
        return [(Path(__file__).with_name(source.file), None)]
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

    The examples' times change with every installation, so their content stands for them.
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
    if isinstance(source, HubSource):
        with _quiet():
            return [_open_hub(source, name) for name in source.names or [""]]
    if not isinstance(source, FileSource | ExampleSource):
        raise ConfigError(f"prompts.kind: {source.kind!r} cannot be read; valid: {', '.join(SOURCES)}")
    options = source if isinstance(source, FileSource) else FileSource()
    pieces = (open_file(path, language, options, "prompts.format") for path, language in files)
    return [piece for piece in pieces if piece.size]


def open_file(path: Path, language: str | None, source: FileSource, key: str) -> Piece:
    """Open one file; its format is named under the config's ``key``. Raises as :func:`open_source`."""
    format_ = format_of(path, source)
    if format_ is None or format_ not in _ENDINGS.values():
        what = f"unknown format {format_!r}" if format_ else f"cannot tell the format of {path} by its ending"
        raise ConfigError(f"{key}: {what}{nearest(format_ or '', _ENDINGS.values())}")
    if source.header is not None and format_ not in ("csv", "tsv"):
        raise ConfigError(f"prompts.header: only for CSV and TSV files, not for {path}")
    name, blanks = origin(path), array("q")
    if path.stat().st_size == 0:
        return Piece(name, ())
    try:
        if format_ == "parquet":
            return Piece(name, parquet_chunks(path, name), language)
        if format_ == "jsonl":
            return Piece(name, json_chunks(path, name, blanks), language, guessed=True, blanks=blanks)
        return Piece(name, separated_chunks(path, name, format_ == "tsv", source.header), language)
    except LemonpressError:
        raise
    except Exception as error:  # whatever the readers raise about a damaged file
        raise InputError(f"{name}: cannot be read as {format_}: {first_line(error)}") from error


def _open_hub(source: HubSource, name: str) -> Piece:
    import datasets

    if not source.dataset:
        raise ConfigError("prompts.dataset: missing; name a data set on the hub, such as CohereLabs/m-ArenaHard-v2.0")
    if ".." in source.dataset.split("/"):
        raise ConfigError(f"prompts.dataset: {source.dataset!r} leads out of a folder; name a data set on the hub")
    label = f"{source.dataset}/{name}" if name else source.dataset
    language = source.language or (name if name and is_known(name) else None)
    try:
        data = datasets.load_dataset(source.dataset, name or None, split=source.split, revision=source.revision)
        tables.check_schema(data.features.arrow_schema, label)
        return Piece(label, arrow_chunks(data.with_format("arrow").iter(_BATCH), data.features), language)
    except InputError:
        raise
    except Exception as error:  # the library raises whatever the network, the files or the names brought up
        why = first_line(_innermost(error))
        raise ConfigError(f"prompts.dataset: cannot load {label} (split {source.split!r}): {why}") from error


def _innermost(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _innermost(error.__cause__)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, no log lines beside our errors, no request that counts the use."""
    import datasets

    bars, level = datasets.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()
    counts, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS, False
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts
        datasets.utils.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
