"""JSON Lines, opened as lines of text and parsed here: a JSON reader that guesses column types turns
``"2024-01-01"`` into a time stamp and fails as a whole on one odd row."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.errors import InputError
from pipeline.core.tables import DEEPEST

GZIP = b"\x1f\x8b"
"""The first bytes of a gzip-compressed file."""

LONGEST_LINE = 2**26
"""Bytes of a line of text; a row is one line, and several copies of it are in memory at once."""
MOST_TIMES = 100
"""How much larger than itself a compressed file may be; texts are 3 to 20 times, the same line again and again 1000."""
_CHUNK = 2**20
_MAGIC = 10
_PACKED: tuple[bytes, ...] = (b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"PK\x03\x04", b"7z\xbc\xaf")
"""How files begin that xz, Zstandard, LZ4, zip, 7z and bzip2 have packed; they would be unpacked by what they are."""
_PACKED += tuple(b"BZh%d1AY&S" % level for level in range(1, 10))

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_lines(name: str, before: int, table: pa.Table) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """JSON objects of a batch that has ``before`` lines before it, without blank lines.

    Returns:
        The line's position (from 0), the object, and the line itself where lone surrogates in it were replaced.
    """
    for number, line in enumerate(table["text"].to_pylist(), before + 1):
        line = line.removeprefix("\ufeff")  # files with byte order marks, joined by cat
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            whole = "; is this one JSON document instead of one object a line?" if line.strip() in ("{", "[") else ""
            raise InputError(f"{name}, line {number}: not valid JSON: {error}{whole}") from error
        if is_deep(line, item):
            raise InputError(f"{name}, line {number}: its JSON is nested more than {DEEPEST} levels deep")
        if not isinstance(item, dict):
            hint = " (an array must be written as one object a line)" if isinstance(item, list) else ""
            raise InputError(f"{name}, line {number}: must be a JSON object, not {type(item).__name__}{hint}")
        # Half a surrogate pair can only come from an escape: most lines need no closer look.
        replaced = bool(_SURROGATE_ESCAPE.search(line) and _SURROGATE.search(json.dumps(item, ensure_ascii=False)))
        yield number - 1, (_replace_surrogates(item) if replaced else item), line if replaced else None


def is_deep(text: str, value: Any) -> bool:
    """Whether a value that was read from JSON is nested so deeply that what goes over it would fail half-way."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    level = [value]
    for _ in range(DEEPEST):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def check_text(path: Path, where: str) -> None:
    """Refuse a file of text that would fill the memory: it is read in pieces, but a line is whole, and a small
    compressed file can hold a very large one.

    Reads all of a compressed file once, as far as it is sound; an uncompressed one only where it is large.

    Raises:
        InputError: the file grows too much when it is unpacked, holds a line that is too long, or is packed in another
            way than by gzip.
    """
    size = path.stat().st_size
    with path.open("rb") as packed:
        start = packed.read(_MAGIC)
        if start.startswith(_PACKED):
            raise InputError(f"{where}: is compressed, and not by gzip: unpack it")
        compressed = start[:2] == GZIP
        if not compressed and size <= LONGEST_LINE:
            return
        packed.seek(0)
        with gzip.GzipFile(fileobj=packed) if compressed else packed as text:
            line = unpacked = 0
            try:
                while chunk := text.read(_CHUNK):
                    unpacked += len(chunk)
                    first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
                    longest = line + (len(chunk) if first < 0 else first)
                    line = longest if first < 0 else len(chunk) - last - 1
                    if longest > LONGEST_LINE:
                        raise InputError(f"{where}: a line is longer than {LONGEST_LINE >> 20} MiB")
                    if compressed and unpacked > max(LONGEST_LINE, MOST_TIMES * packed.tell()):
                        raise InputError(
                            f"{where}: grows more than {MOST_TIMES} times when unpacked; if it is sound, unpack it"
                        )
            except (OSError, EOFError, zlib.error):
                return  # cut off or broken: its reader says so


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replace_surrogates(v) for v in value]
    if isinstance(value, dict):
        return {_replace_surrogates(k): _replace_surrogates(v) for k, v in value.items()}
    return value


def undecodable_line(path: Path) -> int | None:
    """Number of the first line that is not UTF-8; ``None`` also for a compressed file."""
    with path.open("rb") as stream:
        if stream.read(2) == GZIP:
            return None
        stream.seek(0)
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None
