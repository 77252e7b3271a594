"""``replay``: selectors are tried on the candidates of a finished run. Needs neither Ray nor a model."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.config.config import Config
from pipeline.core.errors import ConfigError, InputError
from pipeline.core.folder import RunFolder
from pipeline.core.safety import say
from pipeline.jobs.job import console
from pipeline.jobs.replay.compare import ALL, BASE, ReplayScore, best_on_development, replay, replay_scores
from pipeline.jobs.replay.players import players
from pipeline.jobs.replay.table import ReplayTable, last_table, place_of, write_replay
from pipeline.jobs.theirs import load_theirs
from pipeline.report.wording import interval, percent, signed, signed_interval
from pipeline.stats.results import Basis, store_table
from pipeline.stats.tables import table_of

_NAME = "replay.parquet"


def run(source: str, words: Sequence[str] = ()) -> pa.Table:
    """Compare selectors on stored candidates, and print and store the comparison (``replay_scores``).

    Args:
        source: a run's folder, whose replay table is made where it is missing or old; or a replay table (``.parquet``),
            which holds all that is needed.
        words: settings, as ``key=value``: further selectors, ``modules``, ``replay.n`` ...

    Returns:
        A row for every :class:`~pipeline.jobs.replay.compare.ReplayScore`.

    Raises:
        ConfigError: there is no such run, or a selector needs an engine for which nothing is stored.
        InputError: the table cannot be used, or no answer in it can be scored.
        UnfinishedTableError: the run has no selections yet.
    """
    folder, name = _prepared(source, words)
    table = ReplayTable(folder, name)
    now, stored = _config(table.config, words, words), _config(table.config, (), words)
    chosen, left_out = players(now, stored)
    started = time.monotonic()
    found = asyncio.run(replay(table, chosen, now.replay.n, now))
    result = list(replay_scores(found, now.replay.metrics, now, Basis.of(now).bootstrap))
    if not result:
        raise InputError(
            f"{folder.path(name)}: no answer can be scored: it has neither a metric nor a candidate game "
            "(judge.candidates=true plays these)"
        )
    stored = table_of(ReplayScore, result)
    store_table(folder, "replay_scores", stored)
    _print(result, now.winrate.confidence)
    oracles = [name for name, player in now.selectors.items() if player.kind == "oracle"]
    for line in honest(result, oracles, now.replay.split):
        say(line)
    for selector, why in left_out.items():
        say(f"{selector}: left out: {why}")
    say(f"replayed in {time.monotonic() - started:.1f} s; the table: {folder.path(name)}")
    return stored


def honest(result: Sequence[ReplayScore], oracles: Collection[str], split: float | None) -> Iterator[str]:
    """What the comparison may be used for; with a split, what the best on one part is worth on the other."""
    if split is None:
        yield (
            "these are the prompts that selectors are tried and tuned on: the best of several looks better here than "
            "it is; replay.split=0.5 chooses on half of the clusters and scores on the others"
        )
        return
    for best, held_out in best_on_development(result, oracles):
        name = f"{best.plan}/{best.selector} at n={best.n}"
        span = signed_interval(held_out.difference_low, held_out.difference_high)
        yield (
            f"{best.task}, {best.metric}: best on the development clusters is {name} ({signed(best.difference)} points "
            f"over {BASE}); on the held-out ones {signed(held_out.difference)} ({span})"
        )


def _prepared(source: str, words: Sequence[str]) -> tuple[RunFolder, str]:
    """The replay table of a run, made anew where the run has moved on; or the one that is named."""
    if source.endswith(".parquet"):
        return place_of(source)
    run_folder = RunFolder(source)
    if not run_folder.exists("config.yaml"):
        raise ConfigError(f"no such run folder: {source} (there is no config.yaml in it), nor a .parquet file")
    path = run_folder.uri("config.yaml")
    table = load_theirs(path, words).replay.table
    folder, name = (run_folder, _NAME) if table is None else place_of(table)
    _, state = last_table(run_folder)
    if not folder.exists(name) or ReplayTable(folder, name).source != state:
        write_replay(run_folder, load_theirs(path, (), words), folder, name)
    return folder, name


def _config(text: str, words: Sequence[str], allowed: Sequence[str]) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(text, encoding="utf-8")
        return load_theirs(str(path), words, allowed)


def _print(rows: Sequence[ReplayScore], confidence: float) -> None:
    from rich.table import Table

    for task, metric, part in dict.fromkeys((r.task, r.metric, r.part) for r in rows):
        where = "" if part == ALL else f", {part.replace('_', '-')} clusters"
        title = f"{task}: {metric}{where}, first n candidates ({confidence:.0%} intervals that hold together, clusters)"
        shown = Table(title=title, title_justify="left")
        shown.add_column("system", overflow="fold", min_width=20)
        for name in ("n", "prompts", "mean", "interval", f"- {BASE}", "interval", "tokens", "as run"):
            shown.add_column(name, justify="right", no_wrap=True)
        mine = [r for r in rows if (r.task, r.metric, r.part) == (task, metric, part)]
        for r in sorted(mine, key=lambda r: (r.plan, r.n or 0, -(r.mean or 0), r.selector)):
            mean = (percent(r.mean), interval(r.ci_low, r.ci_high))
            gap = (signed(r.difference), signed_interval(r.difference_low, r.difference_high))
            n = "any" if r.n is None else str(r.n)
            shown.add_row(f"{r.plan}/{r.selector}", n, str(r.n_prompts), *mean, *gap, _tokens(r), percent(r.agreement))
        console(shown)
    say(f"tokens: sampled + read and written by the selector, per prompt; {BASE} with n=any: the mean of all samples")


def _tokens(row: ReplayScore) -> str:
    if row.sampling_tokens is None:
        return "–"
    return f"{row.sampling_tokens:.0f}" + (f" + {row.selector_tokens:.0f}" if row.selector_tokens else "")
