"""Small tables of games for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from pipeline.core.folder import RunFolder
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import Games, games_from_table
from pipeline.stats.reading import read_batches
from pipeline.stats.run_games import SYSTEMS, GamesReader
from pipeline.stats.winrate import KEPT, win_rates

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


def dicts(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Rows of results as dicts."""
    return [dict(vars(row)) for row in rows]


def rows_of(rows: Iterable[Any], *keys: str) -> dict[Any, dict[str, Any]]:
    """Rows of results as dicts under the value (or tuple of values) of ``keys``."""
    found = [row if isinstance(row, dict) else vars(row) for row in rows]
    return {tuple(r[k] for k in keys) if len(keys) > 1 else r[keys[0]]: r for r in found}


def winrates(games: Games, draws: int = 10_000, confidence: float = 0.95, seed: int = 1) -> list[dict[str, Any]]:
    """The win-rates as dicts, without the rows that leave fallbacks out."""
    return dicts(r for r in win_rates(games, Bootstrap(draws, confidence, seed)) if r.fallbacks == KEPT)


def run_games(run: RunFolder, kind: str = SYSTEMS) -> Games | None:
    """A run's games of one kind."""
    reader = GamesReader(kind)
    for batch in read_batches(run, "games"):
        reader.add(batch)
    return reader.finish(run.path("games"))
