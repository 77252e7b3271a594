"""A run's table as the statistics read it: whole rows, but without the texts that no number is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.config.config import Config
from pipeline.core.columns import column, nested
from pipeline.core.errors import UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES
from pipeline.core.row import NESTED, Row
from pipeline.stats.games import UNDETERMINED

_PLAIN = ("row_id", "prompt_id", "cluster_id", "task", "language")
_TEXTS = {"selections": {"text"}, "answers": {"text"}}
"""Answers, of which statistics need the lengths, and whether two are the same."""
_UNREAD = {"candidates": {"text", "reasoning"}}


def last_table(run: RunFolder) -> str:
    """The last finished table, which knows of all jobs before.

    Raises:
        UnfinishedTableError: none is finished.
    """
    for table in reversed(TABLES):
        if run.marker(table) is not None:
            return table
    raise UnfinishedTableError(f"{run.root}: there is no run here with a finished table")


def results_table(run: RunFolder, config: Config) -> str:
    """The table that results are computed from, finished or not: an interrupted judge must not pass for none."""
    return "games" if config.judges() or run.marker("games") is not None else "selections"


def read_batches(
    run: RunFolder, table: str, *columns: str, texts: bool = True, batch_size: int = 256
) -> Iterator[pa.RecordBatch]:
    """Stream a finished table; memory stays flat.

    Args:
        columns: nested ones; default: all.
        texts: read the answers, too.

    Raises:
        UnfinishedTableError: the table is not finished.
        InputError: it cannot be used.
    """
    wanted = set(columns or NESTED)
    left_out = {name: _UNREAD.get(name, set()) | (set() if texts else _TEXTS.get(name, set())) for name in wanted}

    def is_wanted(top: str, leaf: str) -> bool:
        return leaf not in left_out[top] if top in wanted else top in _PLAIN

    return run.leaves(table, is_wanted, batch_size)


def rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    """A batch's rows, :func:`filled`; what was not read is empty."""
    plain = zip(*(column(batch, name) for name in _PLAIN), strict=True)
    items = zip(*(_records(batch, name, kind) for name, kind in NESTED.items()), strict=True)
    for values, found in zip(plain, items, strict=True):
        yield filled(Row(**dict(zip((*_PLAIN, *NESTED), (*values, *found), strict=True))))


def filled(row: Row) -> Row:
    """A row that names a cluster, a task and a language in any case."""
    row.cluster_id = row.cluster_id or row.prompt_id
    row.task = row.task or "open"
    row.language = row.language or UNDETERMINED
    return row


def read_rows(run: RunFolder, table: str, *columns: str, texts: bool = True) -> Iterator[Row]:
    """The rows of :func:`read_batches`."""
    for batch in read_batches(run, table, *columns, texts=texts):
        yield from rows_of(batch)


def _records(batch: pa.RecordBatch, name: str, kind: Callable[..., Any]) -> list[list[Any]]:
    if name not in batch.schema.names:
        return [[] for _ in range(len(batch))]
    known = {f.name for f in batch.schema.field(name).type.value_type}
    read = [f.name for f in fields(kind) if f.name in known]  # type: ignore[arg-type]
    needed = {f.name: None for f in fields(kind) if f.name not in known and f.default is MISSING}  # type: ignore[arg-type]
    make = partial(kind, **needed)
    return [[make(**dict(zip(read, item, strict=True))) for item in items] for items in nested(batch, name, *read)]
