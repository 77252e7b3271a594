"""The stored results of a run, computed again from its games and metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.config.sections import WinrateConfig
from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.jobs.verify.consistency import Problem
from pipeline.stats.facts import SetFacts
from pipeline.stats.results import NAMES, Results, csv_text, run_results, settings_of

_CLOSE = 1e-9  # sums in another order on another machine


def check_results(run: RunFolder) -> Iterator[Problem]:
    """``winrates``, ``scores`` and their like are what the tables give under the settings that they name."""
    made: dict[str, Results] = {}
    for name in NAMES:
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
        if (why := _difference(run, name, table, made)) is not None:
            yield Problem("results", why, table=f"{name}.parquet")


def _difference(run: RunFolder, name: str, table: pa.Table, made: dict[str, Results]) -> str | None:
    """What is wrong with a stored table; ``made`` keeps what was computed under each setting."""
    how = settings_of(table)
    if how is None:
        return "does not say what it was computed with"
    if how["settings"].get("games"):
        own = run.marker("selections") is not None
        return f"is of the games in {how['settings']['games']}, not of the run's" if own else None
    key = json.dumps(how, sort_keys=True)
    if key not in made:
        try:
            sets = {name: SetFacts(tuple(each["engines"]), each["first"]) for name, each in how["sets"].items()}
            made[key] = run_results(run, WinrateConfig(**how["settings"]), how.get("opponent"), sets)
        except (InputError, AttributeError, KeyError, TypeError, ValueError) as error:
            return f"cannot be computed again: {error}"
    now = made[key].tables.get(name)
    if now is not None and _same(now, table):
        return None
    return "is not what the run's tables give: it was edited, or they were changed since (winrate makes it again)"


def _same(now: pa.Table, stored: pa.Table) -> bool:
    if now.schema.remove_metadata() != stored.schema.remove_metadata() or now.num_rows != stored.num_rows:
        return False
    pairs = zip(now.to_pylist(), stored.to_pylist(), strict=True)
    return all(_equal(a[name], b[name]) for a, b in pairs for name in now.column_names)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=_CLOSE, abs_tol=_CLOSE)
    return bool(a == b)
