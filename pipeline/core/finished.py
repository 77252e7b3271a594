"""The public Python interface to a run's tables: ``open_run("runs/x")``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.core.errors import ConfigError, InputError, nearest
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES
from pipeline.core.reading import Table


class FinishedRun:
    """What a run has made, read layer beside layer; memory stays flat.

    Each of ``prompts``, ``candidates``, ``selections`` and ``games`` is the one before it with more in its nested
    columns; a row's other columns are those of the prompts. Texts are models' and strangers': treat them as untrusted.

    Args:
        path: the run's folder, or its URI.

    Raises:
        InputError: there is no run.
    """

    def __init__(self, path: str) -> None:
        self._run = RunFolder(path, "path")
        if self._run.marker(TABLES[0]) is None:
            raise InputError(f"{path}: no run's folder: its prompts are not there")

    @property
    def tables(self) -> list[str]:
        """Names of the tables that are finished."""
        return [table for table in TABLES if self._run.marker(table) is not None]

    def columns(self, table: str) -> pa.Schema:
        """A table's columns with their Arrow types. Raises as :meth:`batches`."""
        return self._open(table).schema

    def batches(self, table: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Whole rows by ``row_id``, some thousand at a time.

        Args:
            table: ``prompts``, ``candidates``, ``selections`` or ``games``.
            columns: those that are read; ``None`` = all.

        Raises:
            ConfigError: there is no such table or column.
            UnfinishedTableError: the table's job has not finished.
            InputError: a file is damaged, or is not the one that the job wrote.
        """
        found = self._open(table)
        for name in columns or ():
            if name not in found.schema.names:
                raise ConfigError(f"{table} has no column {name!r}{nearest(name, found.schema.names)}")
        return found.batches(columns)

    def rows(self, table: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows as dicts of plain Python values. As :meth:`batches`."""
        for batch in self.batches(table, columns):
            yield from batch.to_pylist()

    def results(self, name: str) -> pa.Table:
        """A table of results: ``winrates``, ``scores``, ``audit`` ...

        Raises:
            InputError: it was not computed.
        """
        found = self._run.read_table(f"{name}.parquet")
        if found is None:
            there = sorted(n.removesuffix(".parquet") for n in self._run.names() if n.endswith(".parquet"))
            raise InputError(f"{self._run.name}: there are no results {name!r}{nearest(name, there)}")
        return found

    def _open(self, table: str) -> Table:
        if table not in TABLES:
            raise ConfigError(f"no table is called {table!r}{nearest(table, TABLES)}")
        return self._run.dataset(table)
