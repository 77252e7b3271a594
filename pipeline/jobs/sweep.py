"""``sweep``: generate and select over a grid of sampling settings -> curves, and a recommended policy.

The grid becomes plans of an ordinary run, so a sweep resumes, and its folder can be reported, like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.config.config import Config
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.core.safety import say
from pipeline.jobs import generate, judge, select
from pipeline.jobs.job import console
from pipeline.jobs.sweep_plan import chosen_selector, metrics_of, policy_yaml, sweep_config
from pipeline.prompts.sources import read_prompts
from pipeline.report.wording import interval, percent, signed, signed_interval
from pipeline.stats.intervals import POOLED
from pipeline.stats.pools import load_quality
from pipeline.stats.reading import results_table
from pipeline.stats.results import Basis, store_table
from pipeline.stats.sweep import Sweep, SweepChoice, SweepPoint, sweep_choices, sweep_points
from pipeline.stats.tables import table_of

POLICY_FILE = "policy.yaml"


def run(config: Config) -> None:
    """Sample every setting's candidates and the greedy answer, select, score, and recommend.

    Writes ``sweep`` and ``sweep_choices`` (``.parquet`` and ``.csv``) and ``policy.yaml`` into the run's folder.

    Raises:
        ConfigError, InputError: before any model loads, also when nothing could tell good answers from bad ones.
        LemonpressError: a pass failed.
    """
    planned = sweep_config(config)
    run = RunFolder(config.out)
    for name, engine in _engines(planned).items():
        engine.ready(f"engines.{name}")
    read_prompts(planned.prompts, run)
    _check_metrics(planned, run)
    from pipeline.execution.cluster import cluster

    with cluster(planned.ray):
        generate.run(planned)
        select.run(planned)
        if planned.judge.candidates:
            judge.run(planned)
    tables(planned, run)


def _engines(planned: Config) -> dict[str, Any]:
    names = {plan.engine for plan in planned.all_plans().values()}
    names |= {s.engine for s in planned.selectors.values() if s.engine}
    names |= {m.engine for m in planned.metrics.values()}
    names |= {planned.judge.engine} if planned.judge.engine else set()
    for name, plan in planned.all_plans().items():
        planned.engine(plan.engine, planned.plan_key(name, "engine"), frozenset({"generate"}))
    return {name: planned.engine(name, "engines") for name in sorted(names)}


def _check_metrics(planned: Config, run: RunFolder) -> None:
    has_reference = sum(
        len(batch) - batch.column("reference").null_count for batch in run.dataset("prompts").batches(["reference"])
    )
    if not has_reference and not planned.judge.candidates:
        raise ConfigError(
            "judge.candidates: the prompts have no references, so only a judge can tell good answers from bad ones; "
            "set judge.candidates=true with an engine"
        )


def tables(planned: Config, run: RunFolder) -> None:
    """Compute the tables of a finished sweep, store and print them, and write the policy."""
    basis = Basis.of(planned)
    sweep = Sweep(
        planned.sweep.settings(),
        planned.sweep.base_setting(),
        chosen_selector(planned),
        planned.sweep.development,
        seed=planned.seed,
    )
    quality = load_quality(run, results_table(run, planned), basis.facts)
    metrics = {name: metrics_of(planned, name) for name in quality.tasks}
    points = list(sweep_points(quality, sweep, basis.bootstrap))
    store_table(run, "sweep", table_of(SweepPoint, points))
    choices = list(sweep_choices(quality, sweep, metrics, basis.bootstrap))
    store_table(run, "sweep_choices", table_of(SweepChoice, choices))
    print_points(points, choices)
    print_choices(choices, planned.winrate.confidence)
    path = run.write_text(policy_yaml(planned, choices), POLICY_FILE)
    say(f"policy: {path}; to use it: lemonpress run CONFIG {path}")


def print_points(points: Sequence[SweepPoint], choices: Sequence[SweepChoice]) -> None:
    """Print what each setting gives at N, over all languages, by the metrics that choose."""
    from rich.table import Table

    by = {(c.task, c.metric) for c in choices}
    largest = max((p.n for p in points), default=0)
    shown = Table(title=f"sampling settings, {largest} candidates each, all languages", title_justify="left")
    for name in ("task", "metric", "setting"):
        shown.add_column(name)
    for name in ("prompts", "one sample", "interval", "selected", "best", "hope", "risk"):
        shown.add_column(name, justify="right")
    for p in points:
        if (p.task, p.metric) in by and (p.language, p.n) == (POOLED, largest):
            levels = (percent(p.mean), interval(p.mean_low, p.mean_high), percent(p.selected), percent(p.best))
            relative = ("–" if v is None else f"{signed(v)}%" for v in (p.hope, p.risk))
            shown.add_row(p.task, p.metric, p.setting, str(p.n_prompts), *levels, *relative)
    console(shown)


def print_choices(choices: Sequence[SweepChoice], confidence: float) -> None:
    """Print what was chosen on the development clusters, and what it was worth on the others."""
    from rich.table import Table

    if not choices:
        return
    first = choices[0]
    title = f"best setting for {first.selector} against {first.base} on held-out clusters ({confidence:.0%})"
    shown = Table(title=title, title_justify="left")
    for name in ("task", "language", "best"):
        shown.add_column(name)
    for name in ("prompts", "quality", "difference", "interval"):
        shown.add_column(name, justify="right")
    shown.add_column("recommended")
    shown.add_column("because", overflow="fold")
    for c in choices:
        gap = (signed(c.difference), signed_interval(c.ci_low, c.ci_high))
        quality = (str(c.n_held_out or 0), percent(c.held_out))
        shown.add_row(c.task, c.language, c.best or "–", *quality, *gap, c.recommended, c.note)
    console(shown)
