"""Small tables of games for the tests of this folder."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.stats.games import Games, games_from_table

COLUMNS = ("prompt_id", "language", "system", "opponent", "order", "score")


def flat(rows: list[tuple[Any, ...]], **extra: list[Any]) -> pa.Table:
    """A flat table from rows of ``COLUMNS``; ``extra`` adds whole columns."""
    types = {"score": pa.float64()}
    columns = {name: pa.array([r[i] for r in rows], types.get(name, pa.string())) for i, name in enumerate(COLUMNS)}
    return pa.table({**columns, **{name: pa.array(values) for name, values in extra.items()}})


def both_orders(scores: dict[str, list[float | None]], system: str = "s", opponent: str = "o") -> list[tuple[Any, ...]]:
    """Rows where prompt i of each language scores the same in both orders."""
    return [
        (f"{language}{i}", language, system, opponent, order, score)
        for language, values in scores.items()
        for i, score in enumerate(values)
        for order in ("ab", "ba")
    ]


def games(scores: dict[str, list[float | None]], **names: str) -> Games:
    """Encoded games of :func:`both_orders`."""
    return games_from_table(flat(both_orders(scores, **names)))


def rows_of(table: pa.Table, *keys: str) -> dict[Any, dict[str, Any]]:
    """Rows as dicts under the value (or tuple of values) of ``keys``."""
    return {tuple(r[k] for k in keys) if len(keys) > 1 else r[keys[0]]: r for r in table.to_pylist()}
