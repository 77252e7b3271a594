"""``winrate``: games and metrics -> win-rates and task scores with intervals. Needs neither Ray nor a model."""

from __future__ import annotations

from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.config import Config
from pipeline.config.sections import WinrateConfig
from pipeline.core.errors import NothingToCompare
from pipeline.core.folder import RunFolder
from pipeline.core.safety import line, say
from pipeline.jobs import judge
from pipeline.jobs.job import console
from pipeline.stats.audit import ALTERED
from pipeline.stats.facts import set_facts
from pipeline.stats.games import Games
from pipeline.stats.prompt_scores import judge_rates
from pipeline.stats.results import Results, csv_text, outside_results, run_results, with_settings


def run(config: Config) -> None:
    """Compute everything that the run's tables (or ``winrate.games``) allow, store and print it.

    Writes every table of :class:`~pipeline.stats.results.Results` into the run's folder, as ``.parquet`` and ``.csv``.

    Raises:
        UnfinishedTableError: ``judge`` (or without a judge ``select``) has not finished.
        InputError: a table cannot be used.
        NothingToCompare: there are neither games nor metrics.
    """
    settings = config.winrate
    folder = RunFolder(config.out)
    if settings.games:
        results = outside_results(settings.games, settings)
    else:
        if config.judges():
            folder.dataset("games")  # an interrupted judge must not pass for a run without games
        results = run_results(folder, settings, config.judge.opponent, set_facts(config))
    if not results.tables:
        raise NothingToCompare(
            f"{folder.path('selections')}: neither games nor metrics; set judge.engine, or bring references and a task"
        )
    for name, table in results.tables.items():
        store_table(folder, name, with_settings(table, settings, config.judge.opponent, set_facts(config)))
    print_results(results, settings)
    if results.games is not None and not settings.games:
        for line in judge.independence(config):
            say(f"WARNING: {line}")


def store_table(folder: RunFolder, name: str, table: pa.Table) -> None:
    """Write a table of results into the run's folder, as ``.parquet`` and ``.csv``."""
    folder.make()
    with folder.whole(f"{name}.parquet") as path, folder.fs.open_output_stream(path) as stream:
        pq.write_table(table, stream)
    folder.write_text(csv_text(table), f"{name}.csv")


def print_results(results: Results, settings: WinrateConfig) -> None:
    """Print the tables that a person looks at first: the audit, win-rates, task scores."""
    if "audit" in results.tables:
        print_audit(results.tables["audit"], settings.confidence)
    if results.games is not None:
        print_winrates(results.games, results.tables["winrates"], settings.confidence)
    if "scores" in results.tables:
        print_scores(results.tables["scores"], settings)
    for name, why in results.left_out.items():
        say(f"{name}: not computed: {why}")


def print_audit(table: pa.Table, confidence: float) -> None:
    """Print what the judge makes of known-answer pairs, over all languages, and each language's grade."""
    from rich.table import Table

    shown = Table(title=f"audit of the judge ({confidence:.0%} intervals, clusters)", title_justify="left")
    for name in ("judge", "version"):
        shown.add_column(name, overflow="fold")
    for name in ("prompts", "invalid", "original wins", "interval", "first shown wins", "interval", "grade"):
        shown.add_column(name, justify="right")
    rows = table.to_pylist()
    for r in rows:
        if r["language"] == "all":
            shown.add_row(
                r["judge"],
                r["version"],
                str(r["n_prompts"]),
                str(r["n_invalid"]),
                percent(r["sensitivity"]),
                interval(r["ci_low"], r["ci_high"]),
                percent(r["first_share"]),
                interval(r["first_low"], r["first_high"]),
                r["grade"],
            )
    console(shown)
    grades = [
        (r["language"], r["grade"]) for r in rows if r["version"] == ALTERED and r["language"] not in ("all", "macro")
    ]
    if len(grades) > 1:
        say(line("by language: " + ", ".join(["{} {}"] * len(grades)), *chain(*grades)))


def print_scores(table: pa.Table, settings: WinrateConfig) -> None:
    """Print every system's pooled scores and its difference to the base, a table per task and metric."""
    from rich.table import Table

    rows = [r for r in table.to_pylist() if r["language"] == "all"]
    for task, metric in dict.fromkeys((r["task"], r["metric"]) for r in rows):
        shown = Table(title=f"{task}: {metric} ({settings.confidence:.0%} intervals, clusters)", title_justify="left")
        shown.add_column("system", overflow="fold")
        for name in ("prompts", "mean", "interval", f"minus {settings.base}", "interval", "of the oracle's gain"):
            shown.add_column(name, justify="right", no_wrap=True)
        mine = [r for r in rows if (r["task"], r["metric"]) == (task, metric)]
        for r in sorted(mine, key=lambda r: (-(r["mean"] or 0), r["system"])):
            shown.add_row(
                r["system"],
                str(r["n_prompts"]),
                percent(r["mean"]),
                interval(r["ci_low"], r["ci_high"]),
                "-" if r["difference"] is None else f"{100 * r['difference']:+.1f}",
                points(r["difference_low"], r["difference_high"]),
                "-" if r["recovered"] is None else f"{r['recovered']:.0%}",
            )
        console(shown)


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
        shown.add_row(
            row["system"],
            row["opponent"],
            row["language"],
            str(row["n_prompts"]),
            str(row["n_invalid"]),
            percent(row["win_rate"]),
            interval(row["ci_low"], row["ci_high"]),
            *("-" if not rate or rate[key] is None else f"{rate[key]:.0%}" for key in ("flip_rate", "tie_rate")),
        )
    console(shown)


def percent(value: float | None) -> str:
    """For tables: ``12.3%``, or a dash."""
    return "-" if value is None else f"{value:.1%}"


def interval(low: float | None, high: float | None) -> str:
    """An interval in percent."""
    return "-" if low is None or high is None else f"{low:.1%} to {high:.1%}"


def points(low: float | None, high: float | None) -> str:
    """An interval of a difference, in percentage points."""
    return "-" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
