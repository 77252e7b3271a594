"""The stored results of a run, computed again from its games and metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pyarrow as pa

from pipeline.config.config import Config
from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.jobs.verify.consistency import Problem
from pipeline.stats.results import TABLES, compute, stored_basis
from pipeline.stats.tables import csv_text

_CLOSE = 1e-9  # sums in another order on another machine
_OTHER = "is not what the run's tables give: it was edited, or they were changed since (winrate makes it again)"
_OF_THE_CONFIG = ("stages", "system_costs")  # with prices, which may have changed since


def check_results(run: RunFolder, config: Config) -> Iterator[Problem]:
    """``winrates``, ``scores`` and their like are what the tables give under the settings that they were made with."""
    basis = stored_basis(run)

    @cache
    def computed() -> dict[str, pa.Table]:
        return compute(run, config, basis).tables()

    for name in ("winrates", *TABLES):
        try:
            table = run.read_table(f"{name}.parquet")
            text = run.read_text(f"{name}.csv")
        except (InputError, UnicodeDecodeError) as error:
            yield Problem("results", str(error), table=f"{name}.parquet")
            continue
        if table is None:
            continue
        if text != csv_text(table):
            yield Problem("results", f"differs from {name}.parquet", table=f"{name}.csv")
        why = None
        if basis is None:
            why = "nothing says what it was computed with"
        elif basis.settings.games and run.marker("selections") is not None:
            why = f"is of the games in {basis.settings.games}, not of the run's"
        elif not basis.settings.games and name not in _OF_THE_CONFIG:
            try:
                if not _same(computed().get(name), table):
                    why = _OTHER
            except (InputError, KeyError, TypeError, ValueError) as error:
                why = f"cannot be computed again: {error}"
        if why is not None:
            yield Problem("results", why, table=f"{name}.parquet")


def _same(now: pa.Table | None, stored: pa.Table) -> bool:
    if now is None or not now.schema.equals(stored.schema) or now.num_rows != stored.num_rows:
        return False
    pairs = zip(now.to_pylist(), stored.to_pylist(), strict=True)
    return all(_equal(a[name], b[name]) for a, b in pairs for name in now.column_names)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=_CLOSE, abs_tol=_CLOSE)
    return bool(a == b)
