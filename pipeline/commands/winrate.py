"""``winrate``: games -> win-rates with intervals. Needs neither Ray nor a model."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipeline.commands.context import console
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.stats.games import Games, load_run_games, load_table_games
from pipeline.stats.prompt_scores import judge_rates
from pipeline.stats.winrate import winrates
from pipeline.storage import RunFolder


def run(config: Config) -> None:
    """Compute the win-rates of this run's games (or of ``winrate.games``), store and print them.

    Writes ``winrates.parquet`` and ``winrates.csv`` into the run's folder.

    Raises:
        UnfinishedTableError: ``judge`` has not finished.
        InputError: the table of games cannot be used, or holds no game.
    """
    settings = config.winrate
    folder = RunFolder(config.out)
    games = load_table_games(settings.games) if settings.games else load_run_games(folder)
    table = winrates(games, settings.draws, settings.confidence, settings.seed)
    if not table.num_rows:
        raise InputError(f"{settings.games or folder.path('games')}: there are no games to compute a win-rate from")
    folder.make()
    with folder.fs.open_output_stream(folder.path("winrates.parquet")) as stream:
        pq.write_table(table, stream)
    with folder.fs.open_output_stream(folder.path("winrates.csv")) as stream:
        pacsv.write_csv(table, stream)
    print_winrates(games, table, settings.confidence)


def print_winrates(games: Games, table: pa.Table, confidence: float) -> None:
    """Print the pooled and macro win-rates with the judge's rates beside them."""
    from rich.table import Table

    rates = {
        (r["system"], r["opponent"], r["judge"], r["template"], r["language"]): r
        for r in judge_rates(games).to_pylist()
    }
    shown = Table(title=f"win-rates ({confidence:.0%} intervals)", title_justify="left")
    shown.add_column("system")
    shown.add_column("opponent")
    shown.add_column("language")
    for name in ("prompts", "invalid", "win-rate", "interval", "flips", "ties"):
        shown.add_column(name, justify="right")
    languages = {r["language"] for r in table.to_pylist()} - {"all", "macro"}
    keep = ("all",) if len(languages) <= 1 else ("all", "macro")
    judged = [k for k in rates if k[4] == "all"]
    for row in table.to_pylist():
        if row["language"] not in keep:
            continue
        matches = [rates[k] for k in judged if k[:2] == (row["system"], row["opponent"])]
        rate = matches[0] if len(matches) == 1 and row["language"] == "all" else None
        interval = "-" if row["ci_low"] is None else f"{row['ci_low']:.1%} to {row['ci_high']:.1%}"
        shown.add_row(
            row["system"],
            row["opponent"],
            row["language"],
            str(row["n_prompts"]),
            str(row["n_invalid"]),
            "-" if row["win_rate"] is None else f"{row['win_rate']:.1%}",
            interval,
            *("-" if not rate or rate[key] is None else f"{rate[key]:.0%}" for key in ("flip_rate", "tie_rate")),
        )
    console(shown)
