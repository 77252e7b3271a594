"""JSON Lines, opened as lines of text and parsed here: a JSON reader that guesses column types turns
``"2024-01-01"`` into a time stamp and fails as a whole on one odd row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import InputError

GZIP = b"\x1f\x8b"
"""The first bytes of a gzip-compressed file."""

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
