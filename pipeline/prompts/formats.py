"""Reading files of each format in chunks: Parquet, JSON Lines, and values between commas or tabs.

None of them can fill the memory: they are read in pieces, and a line of text has a limit.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.core import tables
from pipeline.core.errors import ConfigError, InputError
from pipeline.prompts.piece import Chunk, Record, chunk_of, to_json

LONGEST_LINE = 2**26
"""Bytes of a line of text; a row is one line, and several copies of it are in memory at once."""
MOST_TIMES = 100
"""How much larger than itself a compressed file may be; texts are 3 to 20 times, the same line again and again 1000."""
_BATCH = 1000  # rows of a chunk, and for text
_BYTES = 2**22  # of its lines
_GZIP = b"\x1f\x8b"
_PACKED: tuple[bytes, ...] = (b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"PK\x03\x04", b"7z\xbc\xaf")
"""How files begin that xz, Zstandard, LZ4, zip, 7z and bzip2 have packed."""
_PACKED += tuple(b"BZh%d1AY&S" % level for level in range(1, 10))
_MAGIC = 10
_LONGEST_FIELD = 2**31 - 1  # the csv module stops at 128 KiB by default

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")

T = TypeVar("T")


def arrow_chunks(batches: Iterable[pa.Table], features: Any = None) -> Iterator[Chunk]:
    """Tables with plain types only.

    Args:
        features: those of ``datasets``, whose ``Json`` are texts; nothing else is decoded: as an ``Image`` or ``Audio``
            a path in the file would be opened, and given to a decoder.
    """
    odd = [name for name in features or () if "Json(" in repr(features[name])]
    for table in batches:
        plain = tables.storage_schema(table.schema)
        table = table if table.schema.equals(plain) else table.cast(plain)
        for name in odd:
            texts = [to_json(_parsed(value, features[name])) for value in table[name].to_pylist()]
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(texts, pa.string()))
        yield Chunk(table, dict.fromkeys(odd))


def _parsed(value: Any, feature: Any) -> Any:
    """A value with the JSON texts in it parsed."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if value is None:
        return None
    if isinstance(feature, dict):
        return {name: _parsed(value[name], each) for name, each in feature.items()}
    if inner is not None:
        return [_parsed(item, inner) for item in value]
    return from_json(value) if type(feature).__name__ == "Json" else value


def parquet_chunks(path: Path, where: str) -> Iterator[Chunk]:
    """The rows of a Parquet file.

    Raises:
        InputError: it is damaged, its schema is refused, or two columns have one name.
    """
    with path.open("rb") as stream:
        if stream.read(2) == _GZIP:
            raise InputError(f"{where}: is compressed by gzip: unpack it")
    with tables.open_file(str(path), where=where) as file:
        schema = file.schema_arrow
        _refuse_twins(schema.names, where)
        features = None
        if b'"Json"' in (schema.metadata or {}).get(b"huggingface", b""):
            import datasets

            features = datasets.Features.from_arrow_schema(schema)
        yield from arrow_chunks((pa.Table.from_batches([b]) for b in file.iter_batches(_BATCH)), features)


def _refuse_twins(names: Sequence[str], where: str) -> None:
    twins = [name for name, times in Counter(names).items() if times > 1]
    if twins:
        raise InputError(f"{where}: more than one column is called {', '.join(map(repr, twins[:5]))}")


def text_lines(path: Path, where: str) -> Iterator[str]:
    """The lines of a UTF-8 file, which gzip may have compressed, with their ends.

    A small compressed file can hold a very large one, and a line is in memory whole: both have a limit.

    Raises:
        InputError: the file grows too much when it is unpacked, holds a line that is too long or no UTF-8, or is of
            another format.
        OSError, EOFError, zlib.error: it is broken.
    """
    with path.open("rb") as packed:
        start = packed.read(_MAGIC)
        if start.startswith(_PACKED):
            raise InputError(f"{where}: is compressed, and not by gzip: unpack it")
        if start.startswith(b"PAR1"):
            raise InputError(f"{where}: it is a Parquet file: rename it, or set format to parquet")
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError(f"{where}: it is UTF-16: save it as UTF-8")
        packed.seek(0)
        compressed = start[:2] == _GZIP or path.name.endswith(".gz")
        stream: Any = gzip.GzipFile(fileobj=packed) if compressed else packed
        unpacked = number = 0
        while line := stream.readline(LONGEST_LINE + 1):
            unpacked, number = unpacked + len(line), number + 1
            if len(line) > LONGEST_LINE:
                raise InputError(f"{where}: a line is longer than {LONGEST_LINE >> 20} MiB")
            if compressed and unpacked > max(LONGEST_LINE, MOST_TIMES * packed.tell()):
                raise InputError(
                    f"{where}: grows more than {MOST_TIMES} times when unpacked; if it is sound, unpack it"
                )
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{where}, line {number}: is no UTF-8 text: save it as UTF-8 ({error})") from error


def _batches(items: Iterable[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """Lists of a thousand, or fewer where these are long."""
    batch, size = [], 0
    for item in items:
        batch.append(item)
        size += length(item)
        if len(batch) == _BATCH or size > _BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def json_chunks(path: Path, where: str, blanks: array[int]) -> Iterator[Chunk]:
    """The objects of JSON Lines.

    Args:
        blanks: gets, for every blank line, the number of objects before it.

    Raises:
        InputError: a line is no JSON object.
    """
    before = rows = 0
    for texts in _batches(text_lines(path, where), len):
        found = list(parse_lines(where, before, texts))
        for row, (number, _, _) in enumerate(found, rows):
            blanks.extend([row] * (number - row - len(blanks)))
        before, rows = before + len(texts), rows + len(found)
        yield chunk_of([item for _, item, _ in found], {i: line for i, (*_, line) in enumerate(found) if line})


def parse_lines(name: str, before: int, lines: Iterable[str]) -> Iterator[tuple[int, Record, str | None]]:
    """JSON objects of lines that have ``before`` others before them, without blank ones.

    Returns:
        The line's position (from 0), the object, and the line itself where lone surrogates in it were replaced.
    """
    for number, line in enumerate(lines, before + 1):
        line = line.removeprefix("\ufeff").strip()  # files with byte order marks, joined by cat
        if not line:
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            whole = "; is this one JSON document instead of one object a line?" if line in ("{", "[") else ""
            raise InputError(f"{name}, line {number}: not valid JSON: {error}{whole}") from error
        if is_deep(line, item):
            raise InputError(f"{name}, line {number}: its JSON is nested more than {tables.DEEPEST} levels deep")
        if not isinstance(item, dict):
            hint = " (an array must be written as one object a line)" if isinstance(item, list) else ""
            raise InputError(f"{name}, line {number}: must be a JSON object, not {type(item).__name__}{hint}")
        # Half a surrogate pair can only come from an escape: most lines need no closer look.
        replaced = bool(_SURROGATE_ESCAPE.search(line) and _SURROGATE.search(json.dumps(item, ensure_ascii=False)))
        yield number - 1, (_replace_surrogates(item) if replaced else item), line if replaced else None


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replace_surrogates(v) for v in value]
    if isinstance(value, dict):
        return {_replace_surrogates(k): _replace_surrogates(v) for k, v in value.items()}
    return value


def is_deep(text: str, value: Any) -> bool:
    """Whether a value that was read from JSON is nested so deeply that what goes over it would fail half-way."""
    if text.count("[") + text.count("{") <= tables.DEEPEST:
        return False
    level = [value]
    for _ in range(tables.DEEPEST):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def from_json(value: Any) -> Any:
    """JSON text parsed; what is no text stays as it is, what is no JSON becomes ``None``."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):  # the latter: thousands of brackets inside each other
        return None
    return None if is_deep(value, found) else found


def separated_chunks(path: Path, where: str, tabs: bool, header: Sequence[str] | None) -> Iterator[Chunk]:
    """The rows of a CSV or TSV file.

    Every column stays text: such files have no types, and "007" or "NA" must not become 7 or nothing. A tab-separated
    file knows no quoting, so that a stray quote does not swallow the lines up to the next one.

    Args:
        header: names of the columns where the file has no header line.

    Raises:
        ConfigError: ``header`` names another number of columns than the first line has.
        InputError: a line has another number of fields, or two columns have one name; the message names the line.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    pieces = (piece for line in text_lines(path, where) for piece in io.StringIO(line, newline=""))
    lines = csv.reader(pieces, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(pieces)
    names = list(header or ())

    def rows() -> Iterator[list[str]]:
        before, first = 0, bool(header)
        for fields in lines:
            number, before = before + 1, lines.line_num
            if not fields or (len(fields) == 1 and not fields[0].strip()):
                continue
            if not names:
                names.extend(_names(fields, f"{where}, line {number}"))
                continue
            if first and len(fields) != len(names):
                raise ConfigError(f"prompts.header: names {len(names)} columns, but {where} has {len(fields)}")
            if len(fields) != len(names):
                quote = "; is a quote not closed?" if before > number else ""
                raise InputError(
                    f"{where}, line {number}: {len(fields)} fields, but there are {len(names)} columns{quote}"
                )
            first = False
            yield fields

    for batch in _batches(rows(), lambda fields: sum(map(len, fields))):
        columns = zip(names, zip(*batch, strict=True), strict=True)
        yield Chunk(pa.table({name: pa.array(values, pa.string()) for name, values in columns}))


def _names(fields: Sequence[str], where: str) -> list[str]:
    """The names in a header line; columns without one are numbered from 0."""
    if len(fields) > tables.MOST_COLUMNS:
        raise InputError(f"{where}: {len(fields):,} columns; at most {tables.MOST_COLUMNS:,} are read")
    names = [field or f"Unnamed: {i}" for i, field in enumerate(fields)]
    _refuse_twins(names, where)
    return names
