"""Reading prompts: opens a source through ``datasets`` and writes the ``prompts/`` table, in batches.

The memory-mapped rows are gone over twice: the scan decides which are kept and finds repeats, with a few numbers a
row; the second time writes them. JSON Lines are opened as lines of text and parsed here, because a JSON reader that
guesses column types turns ``"2024-01-01"`` into a time stamp and fails as a whole on one odd row.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import math
import re
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, InputError, nearest
from pipeline.hashing import digest
from pipeline.prompts import Columns, ExampleSource, FileSource, HubSource, ReadReport, SourceConfig
from pipeline.records import Message
from pipeline.schema import prompts_schema, with_provenance
from pipeline.storage import RunFolder

if TYPE_CHECKING:  # importing it takes a second, which a finished table need not pay
    from datasets import Dataset

EXAMPLES = Path(__file__).parent / "data" / "examples.jsonl"
_ENDINGS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}
_ROLES = {
    "messages": "messages",
    "prompt": "prompt",
    "id": "prompt_id",
    "cluster": "cluster_id",
    "language": "language",
    "task": "task",
    "reference": "reference",
}
"""Key under ``prompts.columns`` -> the column it takes by default."""

_BATCH = 1000
_ROW_GROUP = 5_000
_SHARD = 50_000
_SHOWN = 10  # duplicates in the report
_NOTHING = "prompts: the source has no prompt"
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # a NUL would end the text in C code further on
_LANGUAGE_TAG = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_EXPLICIT, _BAD, _CLUSTERED = 1, 2, 4  # flags of a row

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


# ---------------------------------------------------------------------------------------------------------- opening


@dataclass
class Piece:
    """One file, or one configuration of a hub data set.

    Attributes:
        name: path or ``dataset/configuration``, for messages.
        data: the rows; one column ``text`` when ``lines``.
        language: of rows without a language column.
        lines: the rows are JSON texts.
    """

    name: str
    data: Dataset
    language: str | None = None
    lines: bool = False

    def tables(self) -> Iterator[pa.Table]:
        """The rows in batches."""
        tables: Iterator[pa.Table] = self.data.with_format("arrow").iter(_BATCH)
        return tables


def local_files(source: SourceConfig, base: Path) -> list[tuple[Path, str | None]]:
    """The local files of a source in reading order, each with the language that ``paths`` gives it.

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
        return [(path, None) for path in _expand(base / Path(source.path).expanduser(), source.format)]
    files: list[tuple[Path, str | None]] = []
    for language, name in source.paths.items():
        path = base / Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"prompts.paths.{language}: no such file: {path}")
        files.append((path, language))
    return files


def _expand(path: Path, format_: str | None) -> list[Path]:
    """The files that ``prompts.path`` means."""
    if path.is_file():
        return [path]
    if path.is_dir():
        known = (p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith((".", "_")))
        found = [p for p in known if (_ending(p) == format_ if format_ else _ending(p))]
    else:
        found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]
    if not found:
        kinds = format_ or ", ".join(sorted(set(_ENDINGS.values())))
        raise ConfigError(f"prompts.path: {'no ' + kinds + ' file in' if path.is_dir() else 'no such file:'} {path}")
    return found


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
            raise ConfigError(f"prompts.kind: {source.kind!r} cannot be read; valid: example, file, hub")
        options = source if isinstance(source, FileSource) else FileSource()
        pieces = (_open_file(path, language, options) for path, language in files)
        return [piece for piece in pieces if piece is not None]


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
    label = f"{source.dataset}/{name}" if name else source.dataset
    try:
        data = datasets.load_dataset(source.dataset, name or None, split=source.split, revision=source.revision)
    except Exception as error:  # the library raises whatever the network, the files or the names brought up
        raise ConfigError(f"prompts.dataset: cannot load {label} (split {source.split!r}): {_cause(error)}") from error
    language = source.language or (name if _LANGUAGE_TAG.fullmatch(name) else None)
    return Piece(label, data, language)


def _open_file(path: Path, language: str | None, source: FileSource) -> Piece | None:
    format_ = source.format or _ending(path)
    if format_ is None or format_ not in _ENDINGS.values():
        what = f"unknown format {format_!r}" if format_ else f"cannot tell the format of {path} by its ending"
        raise ConfigError(f"prompts.format: {what}{nearest(format_ or '', _ENDINGS.values())}")
    if source.header is not None and format_ not in ("csv", "tsv"):
        raise ConfigError(f"prompts.header: only for CSV and TSV files, not for {path}")
    try:
        if path.stat().st_size == 0 or (format_ == "parquet" and pq.read_metadata(path).num_rows == 0):
            return None
        with warnings.catch_warnings():
            # pandas only warns when it drops the last fields of lines that are too long
            warnings.filterwarnings("error", message="Length of header or names does not match")
            data = _load(path, format_, source.header)
    except ConfigError:
        raise
    except Exception as error:  # the library wraps what the Parquet, CSV and text readers raise
        line = _undecodable_line(path) if format_ == "jsonl" else None
        where = f"{path}, line {line}" if line else str(path)
        raise InputError(f"{where}: cannot be read as {format_}: {_cause(error)}") from error
    return None if data is None else Piece(str(path), data, language, lines=format_ == "jsonl")


def _load(path: Path, format_: str, header: list[str] | None) -> Dataset | None:
    import datasets

    builder = {"parquet": "parquet", "jsonl": "text"}.get(format_, "csv")
    options: dict[str, Any] = {"encoding": "utf-8-sig"} if builder == "text" else {}
    if builder == "csv":
        found = _csv_options(path, format_, header)
        if found is None:
            return None
        options = {**found, "features": datasets.Features({c: datasets.Value("string") for c in found["column_names"]})}
    # The library's cache goes by path and time of change; the size is our addition.
    name = digest(path.stat().st_size, path.stat().st_mtime_ns, size=6)
    data: Dataset = datasets.load_dataset(
        builder, name=name, data_files={"train": [glob.escape(str(path.resolve()))]}, split="train", **options
    )
    return data


def _csv_options(path: Path, format_: str, header: list[str] | None) -> dict[str, Any] | None:
    """How pandas reads this file; ``None`` when it has no row.

    Every column stays text: such files have no types, and "007" or "NA" must not become 7 or nothing. A tab-separated
    file knows no quoting, so that a stray quote does not swallow the lines up to the next one.
    """
    import pandas as pd

    style: dict[str, Any] = {"sep": "\t", "quoting": 3} if format_ == "tsv" else {"sep": ","}
    style |= {"na_filter": False, "index_col": False, "header": None if header else 0}
    first = pd.read_csv(path, nrows=1, dtype=object, **style)
    if header and len(header) != first.shape[1]:
        raise ConfigError(f"prompts.header: names {len(header)} columns, but {path} has {first.shape[1]}")
    names = header or [str(c) for c in first.columns]
    return {**style, "column_names": names} if len(first) else None


def _undecodable_line(path: Path) -> int | None:
    """Number of the first line that is not UTF-8."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None


def _cause(error: BaseException) -> str:
    """First line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


# ---------------------------------------------------------------------------------------------------------- columns


@dataclass
class Layout:
    """Which column of a source is what.

    Attributes:
        mapped: key under ``prompts.columns`` -> column.
        others: the columns that go to ``source``.
        source: type of the ``source`` struct.
        as_json: columns of ``source`` whose JSON values have no common Arrow type, kept as JSON text.
    """

    mapped: dict[str, str]
    others: list[str]
    source: pa.StructType
    as_json: frozenset[str] = frozenset()


def find_layout(source: SourceConfig, pieces: Sequence[Piece]) -> Layout:
    """Map the columns and find the type of the ``source`` struct; parses all JSON Lines once.

    Raises:
        ConfigError: a column that was asked for does not exist, or there is no prompt column.
        InputError: a line is no JSON object, or files give one column types that do not go together.
    """
    survey = _survey(pieces)
    schemas = [_storage_schema(piece.data.features.arrow_schema) for piece in pieces if not piece.lines]
    names = list(dict.fromkeys([*survey, *(name for schema in schemas for name in schema.names)]))
    if not names:  # files of blank lines
        raise InputError(_NOTHING + ": its files are empty")
    mapped = _map_columns(source.columns, names)
    others = [name for name in names if name not in mapped.values()]
    as_json = frozenset(name for name in others if name in survey and survey[name] is None)
    fields = [pa.schema([(name, survey[name] or pa.string()) for name in others if name in survey])]
    fields += [pa.schema([schema.field(name) for name in others if name in schema.names]) for schema in schemas]
    try:
        merged = pa.unify_schemas(fields, promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"the files of prompts.path give one column types that do not fit: {_cause(error)}") from error
    # Parquet cannot store a struct without fields.
    struct = pa.struct([merged.field(name) for name in others] or [("row", pa.int64())])
    return Layout(mapped, others, struct, as_json)


def _map_columns(columns: Columns, names: list[str]) -> dict[str, str]:
    mapped: dict[str, str] = {}
    for role, default in _ROLES.items():
        wanted = getattr(columns, role)
        if wanted == "@row" and role == "cluster":
            continue
        if wanted is not None and wanted not in names:
            raise ConfigError(f"prompts.columns.{role}: no column is called {wanted!r}{nearest(wanted, names)}")
        if wanted is not None or default in names:
            mapped[role] = wanted or default
    if "messages" not in mapped and "prompt" not in mapped:
        raise ConfigError(
            "prompts.columns: there is neither a 'messages' nor a 'prompt' column; set prompts.columns.prompt (text) "
            f"or prompts.columns.messages (conversations) to one of: {', '.join(names)}"
        )
    if "messages" in mapped and "prompt" in mapped:
        del mapped["messages" if columns.prompt and not columns.messages else "prompt"]
    return mapped


def _storage_type(type_: pa.DataType) -> pa.DataType:
    """``type_`` without extension types, which other Parquet readers do not know."""
    if isinstance(type_, pa.BaseExtensionType):
        return _storage_type(type_.storage_type)
    if pa.types.is_struct(type_):
        return pa.struct([(f.name, _storage_type(f.type)) for f in type_])
    if pa.types.is_list(type_):
        return pa.list_(_storage_type(type_.value_type))
    return type_


def _storage_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(f.name, _storage_type(f.type)) for f in schema])


def _survey(pieces: Sequence[Piece]) -> dict[str, pa.DataType | None]:
    """Column -> Arrow type of the JSON Lines among the pieces; ``None`` where values have no common type."""
    types: dict[str, pa.DataType | None] = {}
    for piece in pieces:
        number = 0
        for table in piece.tables() if piece.lines else ():
            items = [item for item, _ in _parse_lines(piece.name, number, table)]
            number += table.num_rows
            for name in dict.fromkeys(key for item in items for key in item):
                found = _infer([item.get(name) for item in items])
                types[name] = _unify(types[name], found) if name in types else found
    return types


def _parse_lines(name: str, before: int, table: pa.Table) -> Iterator[tuple[dict[str, Any], bool]]:
    """JSON objects of a batch, each with whether lone surrogates in it were replaced; blank lines are skipped."""
    for number, line in enumerate(table["text"].to_pylist(), before + 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise InputError(f"{name}, line {number}: not valid JSON: {error}") from error
        if not isinstance(item, dict):
            raise InputError(f"{name}, line {number}: must be a JSON object, not {type(item).__name__}")
        # Half a surrogate pair can only come from an escape: most lines need no closer look.
        replaced = bool(_SURROGATE_ESCAPE.search(line) and _SURROGATE.search(json.dumps(item, ensure_ascii=False)))
        yield (_replace_surrogates(item) if replaced else item), replaced


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replace_surrogates(v) for v in value]
    if isinstance(value, dict):
        return {_replace_surrogates(k): _replace_surrogates(v) for k, v in value.items()}
    return value


def _infer(values: list[Any]) -> pa.DataType | None:
    """The Arrow type that gives these values back unchanged, or ``None``."""
    try:
        found = pa.array(values)
    except (pa.ArrowException, OverflowError):
        return None
    # Arrow fills in the keys that only some objects have: such values are not the source's any more.
    return found.type if found.to_pylist() == values and not _has_empty_struct(found.type) else None


def _has_empty_struct(type_: pa.DataType) -> bool:
    children = [type_.field(i).type for i in range(type_.num_fields)]
    return (pa.types.is_struct(type_) and not children) or any(_has_empty_struct(child) for child in children)


def _unify(a: pa.DataType | None, b: pa.DataType | None) -> pa.DataType | None:
    """The type that holds values of both without changing them, or ``None``."""
    if a is None or b is None:
        return None
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if {a, b} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(a) and pa.types.is_list(b):
        item = _unify(a.value_type, b.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(a) and pa.types.is_struct(b) and {f.name for f in a} == {f.name for f in b}:
        fields = {f.name: _unify(f.type, b.field(f.name).type) for f in a}
        return None if None in fields.values() else pa.struct(list(fields.items()))
    return None


# ------------------------------------------------------------------------------------------------------------- rows


@dataclass
class _Batch:
    """Some neighbouring rows of a piece.

    Attributes:
        start: position of the first in its piece (blank lines do not count).
        items: each row's mapped columns (or all of them) as Python values.
        replaced: which rows had lone surrogates.
        table: the rows as Arrow, unless they are JSON Lines.
    """

    piece: Piece
    start: int
    items: list[dict[str, Any]]
    replaced: list[bool]
    table: pa.Table | None = None


@dataclass
class _Prompt:
    """One row as read; ``problems`` says what is wrong with it."""

    messages: list[Message]
    language: str | None
    task: str
    reference: str | None
    prompt_id: str | None
    cluster: str | None
    problems: list[str]

    def derived_id(self) -> str:
        return digest(self.messages, self.language, self.task)


class Rows:
    """The rows of a source, read as prompts.

    Args:
        source: what is mapped and kept.
        pieces: the opened files.
        layout: which column is what.
    """

    def __init__(self, source: SourceConfig, pieces: Sequence[Piece], layout: Layout) -> None:
        self._source = source
        self._pieces = pieces
        self._layout = layout

    def batches(self) -> Iterator[_Batch]:
        """All rows in reading order."""
        for piece in self._pieces:
            start = number = 0
            for table in piece.tables():
                if piece.lines:
                    pairs = list(_parse_lines(piece.name, number, table))
                    batch = _Batch(piece, start, [item for item, _ in pairs], [flag for _, flag in pairs])
                else:
                    batch = _Batch(piece, start, self._items(piece, table), [False] * table.num_rows, table)
                number += table.num_rows
                start += len(batch.items)
                yield batch

    def _items(self, piece: Piece, table: pa.Table) -> list[dict[str, Any]]:
        names = [name for name in dict.fromkeys(self._layout.mapped.values()) if name in table.column_names]
        if not names:
            return [{} for _ in range(table.num_rows)]
        values = piece.data.features.decode_batch(table.select(names).to_pydict())  # the hub's JSON columns
        return [dict(zip(names, row, strict=True)) for row in zip(*(values[name] for name in names), strict=True)]

    def text(self, batch: _Batch, offset: int, role: str, problems: list[str] | None = None) -> str | None:
        """One mapped column as text, or ``None`` where there is none."""
        column = self._layout.mapped.get(role)
        value = _as_text(batch.items[offset].get(column)) if column else None
        return _clean(value, column or "", [] if problems is None else problems)

    def language(self, batch: _Batch, offset: int, problems: list[str] | None = None) -> str | None:
        """The row's language."""
        return self.text(batch, offset, "language", problems) or batch.piece.language or self._source.language

    def cluster(self, batch: _Batch, offset: int, problems: list[str] | None = None) -> str | None:
        """The row's explicit cluster."""
        if self._source.columns.cluster == "@row":
            return str(batch.start + offset)
        return self.text(batch, offset, "cluster", problems)

    def prompt(self, batch: _Batch, offset: int) -> _Prompt:
        """The whole prompt."""
        problems = ["lone surrogates were replaced by U+FFFD"] if batch.replaced[offset] else []
        messages = self._messages(batch.items[offset], problems)
        system = self._source.system
        if system and messages and not any(turn["role"] in ("system", "developer") for turn in messages):
            messages.insert(0, {"role": "system", "content": system})
        return _Prompt(
            messages=messages,
            language=self.language(batch, offset, problems),
            task=self.text(batch, offset, "task", problems) or self._source.task,
            reference=self.text(batch, offset, "reference", problems),
            prompt_id=self.text(batch, offset, "id", problems),
            cluster=self.cluster(batch, offset, problems),
            problems=problems,
        )

    def _messages(self, item: dict[str, Any], problems: list[str]) -> list[Message]:
        if "messages" in self._layout.mapped:
            return _conversation(item.get(self._layout.mapped["messages"]), problems)
        value = item.get(self._layout.mapped["prompt"])
        if not isinstance(value, str):
            problems.append(f"the prompt is {'null' if value is None else type(value).__name__ + ', not text'}")
            return []
        return _conversation([{"role": "user", "content": value}], problems)

    def kept(self, positions: Indices) -> Iterator[tuple[_Batch, list[int]]]:
        """The batches that hold rows at these (ascending) positions, each with their offsets in it."""
        done = seen = 0
        for batch in self.batches():
            if done == len(positions):
                return
            end = done + int(np.searchsorted(positions[done:], seen + len(batch.items)))
            if end > done:
                yield batch, [int(p) - seen for p in positions[done:end]]
            done, seen = end, seen + len(batch.items)

    def source_array(self, batch: _Batch, offsets: list[int]) -> pa.StructArray:
        """The ``source`` struct of some rows of a batch.

        Raises:
            InputError: a value does not fit the column's type.
        """
        fields = list(self._layout.source)
        try:
            if not self._layout.others:
                columns = [pa.array([batch.start + i for i in offsets], pa.int64())]
            elif batch.table is None:
                columns = [self._json_column(batch, offsets, f) for f in fields]
            else:
                taken = batch.table.take(pa.array(offsets, pa.int64()))
                columns = [_arrow_column(taken, f) for f in fields]
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(f"{batch.piece.name}: a column does not keep to one type: {_cause(error)}") from error
        return pa.StructArray.from_arrays(columns, fields=fields)

    def _json_column(self, batch: _Batch, offsets: list[int], wanted: pa.Field) -> pa.Array:
        values = [batch.items[i].get(wanted.name) for i in offsets]
        if wanted.name in self._layout.as_json:
            values = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
        return pa.array(values, wanted.type)


def _arrow_column(table: pa.Table, wanted: pa.Field) -> pa.Array:
    if wanted.name not in table.column_names:
        return pa.nulls(table.num_rows, wanted.type)
    return table[wanted.name].cast(wanted.type).combine_chunks()


def _as_text(value: Any) -> str | None:
    """A value as text: ``None`` for nothing (null, empty, NaN), numbers without a trailing ``.0``, else JSON."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _clean(text: str | None, where: str, problems: list[str]) -> str | None:
    """``text`` without characters that cannot be stored; says so in ``problems``."""
    if text is None or not _UNSTORABLE.search(text):
        return text
    problems.append(f"characters that cannot be stored were replaced by U+FFFD in {where}")
    return _UNSTORABLE.sub("\ufffd", text)


def _from_json(value: Any) -> Any:
    """JSON text parsed; what is no text stays as it is, what is no JSON becomes ``None``."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


def _conversation(value: Any, problems: list[str]) -> list[Message]:
    """The well-formed turns of a conversation; ``problems`` gets what is wrong with it."""
    turns = _from_json(value)
    if not isinstance(turns, list):
        problems.append(f"messages is {'null' if value is None else 'neither a list of turns nor its JSON text'}")
        return []
    messages = [turn for i, item in enumerate(turns) if (turn := _turn(_from_json(item), f"messages[{i}]", problems))]
    asked = [turn.get("content", "") for turn in messages if turn["role"] == "user"]
    if not asked:
        problems.append("there is no user turn")
    elif not any(text.strip() for text in asked):
        problems.append("the prompt is empty")
    return messages


def _turn(item: Any, where: str, problems: list[str]) -> Message | None:
    """One turn without its empty fields, or ``None`` when it has no role."""
    role = item.get("role") if isinstance(item, dict) else None
    if not isinstance(role, str) or not role:
        problems.append(f"{where} is no object with a role")
        return None
    calls = _tool_calls(item.get("tool_calls"), where, problems)
    content = item.get("content")
    if not isinstance(content, str) and not (content is None and calls):
        problems.append(f"{where}.content is {'null' if content is None else 'not text'}")
        content = None
    fields = {"role": role, "content": content, "name": _as_text(item.get("name")), "tool_calls": calls}
    return {k: _clean(v, f"{where}.{k}", problems) for k, v in fields.items() if v is not None}


def _tool_calls(value: Any, where: str, problems: list[str]) -> str | None:
    """Tool calls as JSON text."""
    if not value:
        return None
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    if _from_json(value) is None:
        problems.append(f"{where}.tool_calls is not valid JSON")
        return None
    return value


# ------------------------------------------------------------------------------------------------------------- scan


@dataclass
class Scan:
    """What the first look at the rows found, a few numbers per kept row.

    Attributes:
        positions: int64 [n], ascending: which rows are kept.
        occurrence: int64 [n], how often the same messages, language and task came before among the rows without an
            explicit id.
        clusters: number of different clusters.
        bad: number of rows with an error.
        languages: language -> rows.
        duplicates: (row, first row) of the first repeats; ``n_duplicates`` counts all.
    """

    positions: Indices
    occurrence: Indices
    clusters: int
    bad: int
    languages: dict[str, int]
    duplicates: list[tuple[int, int]]
    n_duplicates: int


@dataclass
class _Kept:
    """The numbers that the scan collects, one entry a kept row."""

    positions: array[int] = field(default_factory=lambda: array("q"))
    content: array[int] = field(default_factory=lambda: array("Q"))
    ids: array[int] = field(default_factory=lambda: array("Q"))
    clusters: array[int] = field(default_factory=lambda: array("Q"))
    flags: bytearray = field(default_factory=bytearray)
    languages: Counter[str] = field(default_factory=Counter)


class _ClusterLimit:
    """Lets the rows of the first so many clusters pass; a row without cluster and id is a cluster of its own."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._single = 0
        self._seen: set[int] = set()

    def admits(self, key: str | None) -> bool:
        if self._limit is None:
            return True
        hashed = None if key is None else _hash(key)
        if hashed in self._seen:
            return True
        if len(self._seen) + self._single >= self._limit:
            return False
        if hashed is None:
            self._single += 1
        else:
            self._seen.add(hashed)
        return True


def scan(source: SourceConfig, rows: Rows) -> Scan:
    """Go over the rows once: which are kept, which repeat.

    Raises:
        InputError: an explicit id repeats, or no row is left.
    """
    kept, other_languages = _collect(source, rows)
    n = len(kept.positions)
    if not n:
        found = f"; languages found: {', '.join(sorted(other_languages))}" if other_languages else ""
        raise InputError(f"{_NOTHING} that the config keeps{found}")
    positions = np.frombuffer(kept.positions, np.int64)
    flags = np.frombuffer(kept.flags, np.uint8)
    content = np.frombuffer(kept.content, np.uint64)
    explicit = (flags & _EXPLICIT) > 0
    _refuse_repeats(rows, positions, np.flatnonzero(explicit), np.frombuffer(kept.ids, np.uint64))
    occurrence = np.zeros(n, np.int64)
    derived = np.flatnonzero(~explicit)
    occurrence[derived] = _repeats(content[derived])[1]
    alone = ~explicit & ((flags & _CLUSTERED) == 0)
    clusters = len(np.unique(np.frombuffer(kept.clusters, np.uint64)[~alone])) + int(alone.sum())
    good = np.flatnonzero((flags & _BAD) == 0)
    first, times = _repeats(content[good])
    repeated = np.flatnonzero(times)
    return Scan(
        positions=positions,
        occurrence=occurrence,
        clusters=clusters,
        bad=n - len(good),
        languages=dict(sorted(kept.languages.items())),
        duplicates=[(int(good[i]), int(good[first[i]])) for i in repeated[:_SHOWN]],
        n_duplicates=len(repeated),
    )


def _collect(source: SourceConfig, rows: Rows) -> tuple[_Kept, set[str]]:
    """The numbers of every kept row, and the languages of the rows that ``languages`` leaves out."""
    kept, others = _Kept(), set()
    limit = _ClusterLimit(source.limit_clusters)
    pairs = ((batch, offset) for batch in rows.batches() for offset in range(len(batch.items)))
    for position, (batch, offset) in enumerate(pairs):
        if source.limit is not None and len(kept.positions) >= source.limit:
            break
        language = rows.language(batch, offset)
        if source.languages is not None and language not in source.languages:
            others.add(language or "und")
            continue
        if limit.admits(rows.cluster(batch, offset) or rows.text(batch, offset, "id")):
            kept.positions.append(position)
            _note(kept, rows.prompt(batch, offset))
    return kept, others


def _note(kept: _Kept, prompt: _Prompt) -> None:
    content = int(prompt.derived_id()[:16], 16)
    id_hash = content if prompt.prompt_id is None else _hash(prompt.prompt_id)
    kept.content.append(content)
    kept.ids.append(id_hash)
    kept.clusters.append(id_hash if prompt.cluster is None else _hash(prompt.cluster))
    flags = (_EXPLICIT, prompt.prompt_id is not None), (_BAD, bool(prompt.problems)), (_CLUSTERED, bool(prompt.cluster))
    kept.flags.append(sum(flag for flag, is_set in flags if is_set))
    kept.languages[prompt.language or "und"] += 1


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())


def _repeats(hashes: Hashes) -> tuple[Indices, Indices]:
    """For every entry the index of the first equal one, and how many equal ones come before it: int64 [n] each."""
    n = len(hashes)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.concatenate([[n > 0], ordered[1:] != ordered[:-1]])) if n else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, n))
    first, before = np.empty(n, np.int64), np.empty(n, np.int64)
    first[order] = np.repeat(order[starts], lengths)
    before[order] = np.arange(n) - np.repeat(starts, lengths)
    return first, before


def _refuse_repeats(rows: Rows, positions: Indices, explicit: Indices, ids: Hashes) -> None:
    first, times = _repeats(ids[explicit])
    repeated = np.flatnonzero(times)
    if not len(repeated):
        return
    pairs = [(int(explicit[first[i]]), int(explicit[i])) for i in repeated[:5]]
    batch, offsets = next(rows.kept(positions[pairs[0][1] :][:1]))
    name = rows.text(batch, offsets[0], "id")
    shown = ", ".join(f"{a} and {b}" for a, b in pairs) + (", ..." if len(repeated) > len(pairs) else "")
    raise InputError(
        f"prompts.columns.id: prompt ids must be unique, but {len(repeated)} repeat: rows {shown} (first: {name!r}; "
        "rows count from 0); where translations share an id, map that column as prompts.columns.cluster instead"
    )


# ------------------------------------------------------------------------------------------------------------ write


def write_table(
    source: SourceConfig, pieces: Sequence[Piece], run: RunFolder, provenance: dict[str, Any]
) -> ReadReport:
    """Write the ``prompts/`` table of a run, without its completion marker.

    Raises:
        ConfigError: the columns do not fit.
        InputError: the source cannot be used.
    """
    if not pieces:
        raise InputError(_NOTHING + ": its files are empty")
    layout = find_layout(source, pieces)
    rows = Rows(source, pieces, layout)
    found = scan(source, rows)
    schema = with_provenance(prompts_schema(layout.source), provenance)
    _write_shards(run, schema, _prompt_tables(rows, found, schema))
    return ReadReport(
        rows=len(found.positions),
        clusters=found.clusters,
        languages=found.languages,
        bad_rows=found.bad,
        duplicates=found.duplicates,
        n_duplicates=found.n_duplicates,
        files=[piece.name for piece in pieces],
    )


def _prompt_tables(rows: Rows, found: Scan, schema: pa.Schema) -> Iterator[pa.Table]:
    row_id = 0
    for batch, offsets in rows.kept(found.positions):
        prompts = [rows.prompt(batch, offset) for offset in offsets]
        times = found.occurrence[row_id : row_id + len(prompts)]
        ids = [_prompt_id(prompt, int(before)) for prompt, before in zip(prompts, times, strict=True)]
        columns: dict[str, Any] = {
            "row_id": range(row_id, row_id + len(prompts)),
            "prompt_id": ids,
            "cluster_id": [p.cluster or id_ for p, id_ in zip(prompts, ids, strict=True)],
            "task": [p.task for p in prompts],
            "language": [p.language for p in prompts],
            "messages": [p.messages for p in prompts],
            "reference": [p.reference for p in prompts],
            "usage": [[] for _ in prompts],
            "errors": [_errors(p) for p in prompts],
        }
        arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
        arrays["source"] = rows.source_array(batch, offsets)
        yield pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)
        row_id += len(prompts)


def _prompt_id(prompt: _Prompt, before: int) -> str:
    if prompt.prompt_id is not None:
        return prompt.prompt_id
    return prompt.derived_id() + (f"-{before + 1}" if before else "")


def _errors(prompt: _Prompt) -> list[dict[str, str]]:
    if not prompt.problems:
        return []
    message = "; ".join(dict.fromkeys(prompt.problems))
    return [{"job": "prompts", "stage": "read", "kind": "BadPrompt", "message": message}]


def _write_shards(run: RunFolder, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """One Parquet file per ``_SHARD`` rows, in row groups of ``_ROW_GROUP``."""
    run.make("prompts")
    groups = _regroup(tables, _ROW_GROUP)
    for number in itertools.count():
        shard = list(itertools.islice(groups, 1))
        if not shard:
            return
        with pq.ParquetWriter(
            run.path("prompts", f"part-{number:05d}.parquet"), schema, filesystem=run.fs, compression="zstd"
        ) as writer:
            for group in itertools.chain(shard, itertools.islice(groups, _SHARD // _ROW_GROUP - 1)):
                writer.write_table(group)


def _regroup(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of ``size`` rows; the last may be smaller."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        while rows >= size:
            merged = pa.concat_tables(waiting)
            yield merged.slice(0, size)
            waiting, rows = [merged.slice(size)], rows - size
    if rows:
        yield pa.concat_tables(waiting)
