"""CSV and TSV files, looked over before pandas reads them: it fills short lines up and renames repeated columns."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

from pipeline.core.errors import ConfigError, InputError
from pipeline.core.tables import MOST_COLUMNS
from pipeline.prompts.lines import GZIP

_LONGEST_FIELD = 2**31 - 1  # the csv module stops at 128 KiB by default


def pandas_options(path: Path, tabs: bool, header: Sequence[str] | None) -> dict[str, Any] | None:
    """How pandas reads this file; ``None`` when it has no row.

    Every column stays text: such files have no types, and "007" or "NA" must not become 7 or nothing. A tab-separated
    file knows no quoting, so that a stray quote does not swallow the lines up to the next one. O(file), a few
    microseconds a line.

    Args:
        header: names of the columns where the file has no header line.

    Raises:
        ConfigError: ``header`` names another number of columns than the first line has.
        InputError: a line has another number of fields, or two columns have one name; the message names the line.
        UnicodeDecodeError, OSError, EOFError: the file cannot be read as text.
    """
    style: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"sep": ",", "quoting": 0}
    csv.field_size_limit(_LONGEST_FIELD)
    with _open(path) as text:
        lines = csv.reader(text, delimiter=style["sep"], quoting=style["quoting"])
        names, rows, before = list(header or ()), 0, 0
        for fields in lines:
            number, before = before + 1, lines.line_num
            if not fields or (len(fields) == 1 and not fields[0].strip()):
                continue  # pandas skips blank lines too
            if not names:
                names = _names(path, number, fields)
                continue
            if header and not rows and len(fields) != len(header):
                raise ConfigError(f"prompts.header: names {len(header)} columns, but {path} has {len(fields)}")
            if len(fields) != len(names):
                quote = "; is a quote not closed?" if before > number else ""
                raise InputError(
                    f"{path}, line {number}: {len(fields)} fields, but there are {len(names)} columns{quote}"
                )
            rows += 1
    style |= {"na_filter": False, "index_col": False, "header": None if header else 0, "column_names": names}
    return style if rows else None


def _open(path: Path) -> IO[str]:
    with path.open("rb") as stream:
        compressed = stream.read(2) == GZIP
    opener: Any = gzip.open if compressed else open
    return cast(IO[str], opener(path, "rt", encoding="utf-8-sig", newline=""))


def _names(path: Path, number: int, fields: Sequence[str]) -> list[str]:
    """The header's names; those of columns without one as pandas makes them."""
    if len(fields) > MOST_COLUMNS:
        raise InputError(f"{path}, line {number}: {len(fields):,} columns; at most {MOST_COLUMNS:,} are read")
    names = [field or f"Unnamed: {i}" for i, field in enumerate(fields)]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise InputError(f"{path}, line {number}: more than one column is called {', '.join(map(repr, repeated[:5]))}")
    return names
