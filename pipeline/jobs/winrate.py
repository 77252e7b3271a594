"""``winrate``: games and metrics -> win-rates and task scores with intervals. Needs neither Ray nor a model."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.config import Config
from pipeline.config.sections import WinrateConfig
from pipeline.core.errors import NothingToCompare
from pipeline.core.folder import RunFolder
from pipeline.core.safety import line, say
from pipeline.jobs import judge
from pipeline.jobs.job import console
from pipeline.report.wording import interval, percent, share, signed, signed_interval
from pipeline.stats.audit import ALTERED, Audit
from pipeline.stats.intervals import MACRO, POOLED
from pipeline.stats.quality import Score
from pipeline.stats.results import Results, compute, store
from pipeline.stats.winrate import KEPT, WinRate


def run(config: Config) -> None:
    """Compute everything that the run's tables (or ``winrate.games``) allow, store and print it.

    Raises:
        UnfinishedTableError: ``judge`` (or without a judge ``select``) has not finished.
        InputError: a table cannot be used.
        NothingToCompare: there are neither games nor metrics; what the tables hold is counted and stored all the same.
    """
    settings = config.winrate
    folder = RunFolder(config.out)
    results = compute(folder, config)
    store(folder, config, results)
    if not results.has_numbers:
        raise NothingToCompare(
            f"{folder.path('selections')}: neither games nor metrics; set judge.engine, or bring references and a task"
        )
    print_results(results, settings)
    if results.judge_rates and not settings.games:
        for line in judge.independence(config):
            say(f"WARNING: {line}")


def print_results(results: Results, settings: WinrateConfig) -> None:
    """Print the tables that a person looks at first: the audit, win-rates, task scores."""
    if results.audit:
        print_audit(results.audit, settings.confidence)
    if results.judge_rates:
        print_win_rates(results.judge_rates, settings.confidence)
    print_scores(results.scores, settings)
    for name, why in results.left_out.items():
        say(f"{name}: not computed: {why}")


def print_audit(rows: Sequence[Audit], confidence: float) -> None:
    """Print what the judge makes of known-answer pairs, over all languages, and each language's grade."""
    from rich.table import Table

    shown = Table(title=f"audit of the judge ({confidence:.0%} intervals, clusters)", title_justify="left")
    for name in ("judge", "version"):
        shown.add_column(name, overflow="fold")
    for name in ("prompts", "invalid", "original wins", "interval", "first shown wins", "interval", "grade"):
        shown.add_column(name, justify="right")
    for r in rows:
        if r.language == POOLED:
            wins = (percent(r.sensitivity), interval(r.ci_low, r.ci_high))
            first = (percent(r.first_share), interval(r.first_low, r.first_high))
            shown.add_row(r.judge, r.version, str(r.n_prompts), str(r.n_invalid), *wins, *first, r.grade)
    console(shown)
    grades = [r for r in rows if r.version == ALTERED and r.language not in (POOLED, MACRO)]
    if len(grades) > 1:
        words = [word for r in grades for word in (r.language, r.grade)]
        say(line("by language: " + ", ".join(["{} {}"] * len(grades)), *words))


def print_scores(scores: Sequence[Score], settings: WinrateConfig) -> None:
    """Print every system's pooled scores and its difference to the base, a table per task and metric."""
    from rich.table import Table

    rows = [s for s in scores if s.language == POOLED]
    for task, metric in dict.fromkeys((s.task, s.metric) for s in rows):
        shown = Table(title=f"{task}: {metric} ({settings.confidence:.0%} intervals, clusters)", title_justify="left")
        shown.add_column("system", overflow="fold")
        for name in ("prompts", "mean", "interval", f"minus {settings.base}", "interval", "of the oracle's gain"):
            shown.add_column(name, justify="right", no_wrap=True)
        mine = [s for s in rows if (s.task, s.metric) == (task, metric)]
        for s in sorted(mine, key=lambda s: (-(s.mean or 0), s.system)):
            mean = (percent(s.mean), interval(s.ci_low, s.ci_high))
            gap = (signed(s.difference), signed_interval(s.difference_low, s.difference_high))
            shown.add_row(s.system, str(s.n_prompts), *mean, *gap, share(s.recovered))
        console(shown)


def print_win_rates(rates: Sequence[WinRate], confidence: float) -> None:
    """Print the pooled and macro win-rates with the judge's rates beside them."""
    from rich.table import Table

    shown = Table(title=f"win-rates ({confidence:.0%} intervals)", title_justify="left")
    several = len({(r.judge, r.template) for r in rates}) > 1
    for name in ("system", "opponent", *(("judge",) if several else ()), "language"):
        shown.add_column(name)
    for name in ("prompts", "invalid", "win-rate", "interval", "flips", "ties"):
        shown.add_column(name, justify="right")
    keep = (POOLED,) if len({r.language for r in rates} - {POOLED, MACRO}) <= 1 else (POOLED, MACRO)
    for r in rates:
        if r.language in keep and r.fallbacks == KEPT:
            names = (r.system, r.opponent, *((r.judge,) if several else ()), r.language)
            numbers = (percent(r.win_rate), interval(r.ci_low, r.ci_high), share(r.flip_rate), share(r.tie_rate))
            shown.add_row(*names, str(r.n_prompts), str(r.n_invalid), *numbers)
    console(shown)
